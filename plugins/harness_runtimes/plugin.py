"""Runtimes in the box: ONNX Runtime (float32, dynamic int8) and PyTorch (eager, compiled).

``tolerance`` is the greatest max |a - b| / max |b| on the logits that parity admits, by the precision that
was asked for. Seen on x86 with AVX-512 VNNI (torch 2.15, onnxruntime 1.31), 256 samples, batch 1; the last
column is the limit, chosen with room for other processors' kernels:

TABLE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.hookspecs import hookimpl
from harness.types import Artifact, Context, Params, Part, RuntimeEntry, Session, SessionOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CompileParams", "Int8Params", "OnnxParams", "TorchParams", "harness_runtimes"]

TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1, "int8": 0.2}


class OnnxParams(Params):
    """Parameters of ``onnxruntime``."""

    spinning: bool = Field(
        default=True,
        description="idle threads busy-wait for work (ONNX Runtime's own default): faster, costs energy",
    )


class Int8Params(OnnxParams):
    """Parameters of ``onnxruntime-int8``."""

    per_channel: bool = Field(
        default=False, description="one weight scale per output channel, not per matrix"
    )
    reduce_range: bool = Field(
        default=False,
        description="7-bit weights: for x86 processors without VNNI, whose 8-bit products saturate",
    )


class TorchParams(Params):
    """Parameters of ``torch``."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="element type of weights and activations"
    )


class CompileParams(TorchParams):
    """Parameters of ``torch-compile``."""

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        default="default", description="torch.compile's mode"
    )


def export_onnx(ctx: Context, part: Part, params: OnnxParams) -> Artifact:
    from harness_runtimes.onnx_export import export

    return export(part, ctx.workdir, spinning=params.spinning)


def export_int8(ctx: Context, part: Part, params: Int8Params) -> Artifact:
    from harness_runtimes.onnx_export import export_quantised

    return export_quantised(
        part,
        ctx.workdir,
        spinning=params.spinning,
        per_channel=params.per_channel,
        reduce_range=params.reduce_range,
    )


def load_onnx(artifact: Artifact, options: SessionOptions) -> Session:
    from harness_runtimes.onnx_session import OnnxSession

    return OnnxSession(artifact, options)


def export_torch(ctx: Context, part: Part, params: TorchParams) -> Artifact:
    from harness_runtimes.torch_runtime import export

    return export(part, ctx.workdir, runtime="torch", precision=params.precision)


def export_compile(ctx: Context, part: Part, params: CompileParams) -> Artifact:
    from harness_runtimes.torch_runtime import export

    return export(part, ctx.workdir, runtime="torch-compile", precision=params.precision, mode=params.mode)


def load_torch(artifact: Artifact, options: SessionOptions) -> Session:
    from harness_runtimes.torch_runtime import TorchSession

    return TorchSession(artifact, options)


def _float32(params: Params) -> str:
    return "float32"


def _int8(params: Params) -> str:
    return "int8"


def _chosen(params: TorchParams) -> str:
    return params.precision


def _float32_tolerance(params: Params) -> float:
    return TOLERANCE["float32"]


def _int8_tolerance(params: Params) -> float:
    return TOLERANCE["int8"]


def _chosen_tolerance(params: TorchParams) -> float:
    return TOLERANCE[params.precision]


_ONNX = ("torch", "onnx", "onnxscript", "onnxruntime")
_TORCH = ("torch", "safetensors")
# Imports only: a fork after any torch operation hangs. onnxruntime starts a thread when imported, so a
# forkserver may not preload it.
_TORCH_PRELOAD = ("torch", "timm", "torch._dynamo")


@hookimpl
def harness_runtimes() -> Iterable[RuntimeEntry]:
    yield RuntimeEntry(
        name="onnxruntime",
        summary="ONNX Runtime, float32, on the CPU or (with onnxruntime-gpu) CUDA",
        params=OnnxParams,
        requires=_ONNX,
        extra="bench",
        export=export_onnx,
        load=load_onnx,
        precision=_float32,
        tolerance=_float32_tolerance,
        devices=frozenset({"cpu", "cuda"}),
    )
    yield RuntimeEntry(
        name="onnxruntime-int8",
        summary="ONNX Runtime, MatMul and Gemm in int8 (dynamic quantisation), the rest float32",
        params=Int8Params,
        requires=_ONNX,
        extra="bench",
        export=export_int8,
        load=load_onnx,
        precision=_int8,
        tolerance=_int8_tolerance,
    )
    yield RuntimeEntry(
        name="torch",
        summary="PyTorch eager; float32, bfloat16 or float16",
        params=TorchParams,
        requires=_TORCH,
        extra="bench",
        export=export_torch,
        load=load_torch,
        precision=_chosen,
        tolerance=_chosen_tolerance,
        devices=frozenset({"cpu", "cuda"}),
        preload=_TORCH_PRELOAD,
    )
    yield RuntimeEntry(
        name="torch-compile",
        summary="PyTorch compiled by inductor (needs a C++ compiler on the CPU, Triton on CUDA)",
        params=CompileParams,
        requires=_TORCH,
        extra="bench",
        export=export_compile,
        load=load_torch,
        precision=_chosen,
        tolerance=_chosen_tolerance,
        devices=frozenset({"cpu", "cuda"}),
        preload=_TORCH_PRELOAD,
    )

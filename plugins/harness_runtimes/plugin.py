"""The runtimes that the project ships: ONNX Runtime (float32, dynamic int8) and PyTorch (eager, compiled).

``tolerance`` is the greatest max |a - b| / max |b| on the logits that parity admits, for each requested precision.
The table has the values measured at batch 1 (x86 with AVX-512 VNNI, one thread, torch 2.15, onnxruntime 1.31), and
the limit:

=================  =============  ==========  ==========  ==========  =====
precision          digits ViT     ViT-Tiny    ResNet-18   PoolFormer  limit
                   96x6, trained  224         224         S12, 224
=================  =============  ==========  ==========  ==========  =====
float32            6.0e-7         1.3e-6      5.7e-7      1.4e-6      1e-4
float16            1.1e-3         2.1e-3      6.6e-4      8.9e-4      0.01
bfloat16           1.3e-2         1.4e-2      6.4e-3      6.5e-3      0.05
int8               1.0e-2         4.7e-2      8.7e-3      1.3e-2      0.15
int8 per channel   1.3e-2         3.8e-2      7.7e-3      9.7e-3      0.15
int8 reduce range  2.5e-2         8.1e-2      1.0e-2      2.5e-2      0.15
=================  =============  ==========  ==========  ==========  =====

The values are over 256 samples for the ViTs and 64 for the others, and are the worst of the runtimes with that
precision. All models but the trained one have random weights. The float32 limit lies below every value of float16, so
that a silently lower precision is refused. ViT-Tiny in int8 at batch 32 has 6.1e-2, with a reduced range 8.8e-2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.devices import mark_baseline
from harness.hookspecs import hookimpl
from harness.types import Artifact, Context, Params, Part, RuntimeEntry, Session, SessionOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CompileParams", "Int8Params", "OnnxParams", "TorchParams", "harness_runtimes"]

TOLERANCE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05, "int8": 0.15}


class OnnxParams(Params):
    """Parameters of ``onnxruntime``."""

    spinning: bool = Field(
        default=True,
        description="whether idle threads busy-wait for work, as is ONNX Runtime's own default: this is faster and costs energy",
    )


class Int8Params(OnnxParams):
    """Parameters of ``onnxruntime-int8``."""

    per_channel: bool = Field(
        default=False, description="true: one scale of the weights per output channel; false: one per matrix"
    )
    reduce_range: bool = Field(
        default=False,
        description="whether weights have 7 bits: for x86 processors without VNNI, on which products of 8 bits saturate",
    )


class TorchParams(Params):
    """Parameters of ``torch``."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="element type of weights and activations"
    )


class CompileParams(TorchParams):
    """Parameters of ``torch-compile``."""

    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        default="default", description="mode of torch.compile"
    )


def export_onnx(ctx: Context, part: Part, params: OnnxParams) -> Artifact:
    """Export a part for ``onnxruntime``. Raises ``ValueError`` if it cannot be exported."""
    from harness_runtimes.onnx_export import export

    return export(part, ctx.workdir, spinning=params.spinning)


def export_int8(ctx: Context, part: Part, params: Int8Params) -> Artifact:
    """Export a part for ``onnxruntime-int8``. Raises ``ValueError`` if it cannot be exported."""
    from harness_runtimes.onnx_export import export_quantised

    return export_quantised(
        part,
        ctx.workdir,
        spinning=params.spinning,
        per_channel=params.per_channel,
        reduce_range=params.reduce_range,
    )


def load_onnx(artifact: Artifact, options: SessionOptions) -> Session:
    """Load an ONNX file, after marking the process's memory with the library imported as the baseline."""
    from harness_runtimes.onnx_session import OnnxSession

    mark_baseline()
    return OnnxSession(artifact, options)


def export_torch(ctx: Context, part: Part, params: TorchParams) -> Artifact:
    """Export a part for ``torch``: its weights in the chosen precision."""
    from harness_runtimes.torch_runtime import export

    return export(part, ctx.workdir, runtime="torch", precision=params.precision)


def export_compile(ctx: Context, part: Part, params: CompileParams) -> Artifact:
    """Export a part for ``torch-compile``: its weights in the chosen precision, and the mode of the compiler."""
    from harness_runtimes.torch_runtime import export

    return export(part, ctx.workdir, runtime="torch-compile", precision=params.precision, mode=params.mode)


def load_torch(artifact: Artifact, options: SessionOptions) -> Session:
    """Load a part into torch, after marking the process's memory at that point as the baseline.

    The baseline contains what torch allocates at first use.
    """
    from harness_runtimes.torch_runtime import TorchSession, warm

    warm(options.threads)
    mark_baseline()
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
# Only imports: a fork after a torch operation hangs. onnxruntime starts a thread when it is imported, so a
# forkserver must not preload it.
_TORCH_PRELOAD = ("torch", "timm", "torch._dynamo")


@hookimpl
def harness_runtimes() -> Iterable[RuntimeEntry]:
    """Yield the runtimes ``onnxruntime``, ``onnxruntime-int8``, ``torch`` and ``torch-compile``."""
    yield RuntimeEntry(
        name="onnxruntime",
        summary="ONNX Runtime, float32, on the CPU or (with onnxruntime-gpu) CUDA",
        params=OnnxParams,
        requires=_ONNX,
        format="onnx",
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
        format="onnx",
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

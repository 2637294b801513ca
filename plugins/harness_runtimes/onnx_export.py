"""Export parts to ONNX files, in float32 or with dynamically quantised matrix products.

Opset 18 and IR version 8 load in every ONNX Runtime from 1.15.1 on. A part is one file, so a part with more weights
than protobuf's 2 GiB is refused.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.errors import first_line
from harness.types import Artifact
from harness_runtimes.onnx_graph import Graphs
from harness_runtimes.rebuild import file_name, rebuild

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import onnx
    from torch import nn

    from harness.types import Part

    Convert = Callable[[nn.Module, Part], onnx.ModelProto]

__all__ = ["IR_VERSION", "OPSET", "Converter", "convert", "export", "export_quantised"]

OPSET = 18
IR_VERSION = 8
PROTOBUF_LIMIT = 2**31 - 1


class Converter:
    """Converts parts to ONNX models of one opset, and refuses parts with more than ``max_bytes`` of weights.

    Models of equal structure share a conversion if that is safe (:class:`harness_runtimes.onnx_graph.Graphs`).
    """

    def __init__(
        self, using: Convert | None = None, opset: int = OPSET, max_bytes: int = PROTOBUF_LIMIT
    ) -> None:
        self._graphs = Graphs(using or partial(convert, opset=opset))
        self._max_bytes = max_bytes

    def model(self, part: Part) -> onnx.ModelProto:
        """Return the ONNX model of a part.

        Raises:
            ValueError: the part cannot be exported; the message says why.
        """
        import onnx

        module = rebuild(part)
        size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        if size > self._max_bytes:
            raise ValueError(
                f"part {part.name!r}: {size / 2**30:.1f} GiB of weights; an ONNX file holds 2 GiB"
            )
        model = self._graphs.of(module, part)
        # The "/" makes these names differ from those of inner values, which are Python identifiers.
        _rename(model, {f"in/{i}": f"in{i}/{edge.source}" for i, edge in enumerate(part.inputs)})
        _rename(model, {"out/": f"out/{part.name}"})
        onnx.checker.check_model(model)
        return model


def export(part: Part, folder: Path, *, spinning: bool, converter: Converter | None = None) -> Artifact:
    """Write ``part`` into ``folder`` as float32 ONNX with a free batch dimension.

    The graph's inputs are in the order of the part's edges. The same part gives the same bytes.

    Raises:
        ValueError: the part cannot be exported; the message says why.
    """
    import onnx

    model = (converter or _CONVERTER).model(part)
    file = file_name(part, ".onnx")
    onnx.save_model(model, folder / file)
    return _artifact(part, folder, file, model, runtime="onnxruntime", asked="float32", spinning=spinning)


def export_quantised(
    part: Part, folder: Path, *, spinning: bool, per_channel: bool, reduce_range: bool
) -> Artifact:
    """Export as :func:`export` does, with the weights of MatMul and Gemm in int8 by ONNX Runtime's dynamic quantiser.

    Activations are quantised at run time with one scale per tensor, over the whole batch, so results depend on the
    batch size (``meta["batch_dependent"]``). Convolutions stay float32, because older runtimes have no kernel for
    ConvInteger. A part without MatMul and Gemm weights stays float32, and ``meta["precision"]`` says so.

    Raises:
        ValueError: the part cannot be exported; the message says why.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = file_name(part, ".onnx")
    with _quiet_root_logger():
        quantize_dynamic(
            _CONVERTER.model(part),
            folder / file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load_model(folder / file)
    return _artifact(part, folder, file, model, runtime="onnxruntime-int8", asked="int8", spinning=spinning)


def convert(module: nn.Module, part: Part, opset: int = OPSET) -> onnx.ModelProto:
    """Convert a part's module with torch's exporter. Raises ``ValueError`` if it cannot be converted."""
    import torch

    batch = torch.export.Dim("batch")
    # Two samples, because the exporter treats a size of one as a constant.
    samples = tuple(
        torch.zeros(2, *edge.tensor.shape, dtype=getattr(torch, edge.tensor.dtype)) for edge in part.inputs
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of inputs that share the batch dimension
            program = torch.onnx.export(
                module,
                samples,
                dynamo=True,
                opset_version=opset,
                input_names=[f"in/{i}" for i in range(len(part.inputs))],
                output_names=["out/"],
                dynamic_shapes=_batch_first(module, len(part.inputs), batch),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ValueError(f"part {part.name!r}: no ONNX export: {first_line(cause)}") from error
    assert program is not None
    model = program.model_proto
    # If the exporter cannot convert to the requested opset, it ignores the request silently.
    given = _opset(model)
    if given != opset:
        raise ValueError(f"part {part.name!r}: the exporter gave opset {given} where {opset} was asked for")
    # The exporter does not always refuse a module that fixes the batch size. It may export for that size only.
    if any(
        value.type.tensor_type.shape.dim[0].HasField("dim_value")
        for value in (*model.graph.input, *model.graph.output)
    ):
        raise ValueError(f"part {part.name!r}: no ONNX export: its module works for one batch size only")
    model.ir_version = IR_VERSION
    _strip(model)
    return model


_CONVERTER = Converter()
"""The converter that all exports of this process share, so that parts of equal structure are converted once."""


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _strip(model: onnx.ModelProto) -> None:
    """Remove fields that name source files, and ``value_info`` of initializers.

    Names of source files differ between machines. The quantiser cannot process the shapes of initializers.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in initializers]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    values = (*graph.value_info, *graph.input, *graph.output)
    for item in (model, graph, *graph.node, *values, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _artifact(
    part: Part, folder: Path, file: str, model: onnx.ModelProto, *, runtime: str, asked: str, spinning: bool
) -> Artifact:
    quantised = sum(node.op_type == "MatMulInteger" for node in model.graph.node)
    meta: dict[str, Any] = {
        "file": file,
        "opset": _opset(model),
        "ir_version": model.ir_version,
        "precision": "int8" if quantised else "float32",
        "quantised": quantised,
        "batch_dependent": quantised > 0,
        "spinning": spinning,
    }
    return Artifact(
        path=folder,
        runtime=runtime,
        precision=asked,
        weight_bytes=_weight_bytes(model),
        inputs=tuple(edge.tensor for edge in part.inputs),
        output=part.output,
        meta=meta,
    )


def _weight_bytes(model: onnx.ModelProto) -> int:
    import onnx

    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )


def _opset(model: onnx.ModelProto) -> int:
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def _batch_first(module: nn.Module, count: int, batch: Any) -> tuple[Any, ...]:
    """Return the batch dimension of each input, in the structure of ``forward``'s signature.

    A signature with ``*inputs`` has one element, which holds all inputs.
    """
    each = tuple({0: batch} for _ in range(count))
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return (each,) if kinds == [inspect.Parameter.VAR_POSITIONAL] else each


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Silence the root logger inside the block, because the quantiser's logging would install a handler permanently."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

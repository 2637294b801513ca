"""ONNX graphs, converted once per structure and filled with the weights of each model of that structure.

A conversion takes seconds, and a suite exports many models that differ only in weights (seeds, members of an
ensemble). So the structure is converted with random weights that all differ. They show where in the graph each weight
is, possibly transposed. If this is not certain, each model is converted separately; a convolution with a folded
BatchNorm is an example.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx
    import torch

    from harness.types import Part

__all__ = ["Graphs"]


@dataclass(frozen=True)
class _Slot:
    """A place for a weight: initializer ``index`` of a graph is the module's weight ``name``, or its transpose."""

    index: int
    name: str
    transposed: bool


@dataclass(frozen=True)
class _Graph:
    """A graph without its weights.

    ``fixed`` is the rest of the module's state. Only a model with the same values can use the graph.
    """

    model: onnx.ModelProto
    slots: tuple[_Slot, ...]
    fixed: dict[str, torch.Tensor]


class Graphs:
    """The last ``limit`` structures that this process has converted."""

    def __init__(self, convert: Callable[[torch.nn.Module, Part], onnx.ModelProto], limit: int = 64) -> None:
        self._convert = convert
        self._limit = limit
        self._graphs: dict[str, _Graph | None] = {}

    def of(self, module: torch.nn.Module, part: Part) -> onnx.ModelProto:
        """Return the ONNX model of ``module``, which was built by ``part.spec`` and holds the part's weights."""
        key = json.dumps([asdict(part.spec), [asdict(edge.tensor) for edge in part.inputs]])
        if key not in self._graphs:
            while len(self._graphs) >= self._limit:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = self._learn(part) if _keeps_weights(module) else None
        graph = self._graphs[key]
        if graph is None or not _fits(graph, module):
            return self._convert(module, part)
        return _fill(graph, module)

    def _learn(self, part: Part) -> _Graph | None:
        """Return the graph of a part's structure, or None if the place of a weight is not certain."""
        import torch
        from onnx import numpy_helper

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = part.spec.build().eval().requires_grad_(False)
            weights = _weights(module)
            for tensor in weights.values():
                tensor.uniform_(0.5, 1.5)
        model = self._convert(module, part)
        names = {_digest(tensor.numpy()): (name, False) for name, tensor in weights.items()}
        for name, tensor in weights.items():
            if tensor.dim() == 2:
                names.setdefault(_digest(tensor.numpy().T), (name, True))
        slots = []
        for index, initializer in enumerate(model.graph.initializer):
            array = numpy_helper.to_array(initializer)
            if array.dtype.kind != "f":
                continue
            if (found := names.get(_digest(array))) is not None:
                slots.append(_Slot(index, *found))
                initializer.ClearField("raw_data")
            elif array.size > 1:
                return None  # a constant, or computed from weights in an unknown way
        if {slot.name for slot in slots} != set(weights):
            return None
        fixed = {name: tensor for name, tensor in module.state_dict().items() if name not in weights}
        return _Graph(model, tuple(slots), fixed)


def _keeps_weights(module: torch.nn.Module) -> bool:
    """Return False for a module with BatchNorm, whose weights the converter folds into others."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return not any(isinstance(part, _BatchNorm) for part in module.modules())


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _fits(graph: _Graph, module: torch.nn.Module) -> bool:
    state = module.state_dict()
    return all(bool((state[name] == tensor).all()) for name, tensor in graph.fixed.items())


def _fill(graph: _Graph, module: torch.nn.Module) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    weights = _weights(module)
    for slot in graph.slots:
        array = weights[slot.name].numpy()
        model.graph.initializer[slot.index].raw_data = (array.T if slot.transposed else array).tobytes()
    return model


def _digest(array: np.ndarray) -> tuple[tuple[int, ...], str, bytes]:
    import hashlib

    shape = tuple(size for size in array.shape if size > 1)  # the exporter adds dimensions to norms' weights
    return shape, str(array.dtype), hashlib.blake2b(array.tobytes()).digest()

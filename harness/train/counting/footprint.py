"""Counts of a module before it is trained. The module is built on torch's meta device, which stores no data.

The counts come from building and running the plugin's module. The plugins' ``sketch.py`` files have formulas for the
same counts, since planning must not import torch. Tests compare the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.types import IMAGE, Counts, ModuleSpec, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["STATIC", "Footprint", "Modules"]

STATIC: dict[str, str] = {
    "params_m": "parameters, 10^6",
    "macs_g": "all multiply-accumulates of one sample, 10^9",
    "macs_linear_g": "those of linear and convolution layers and their biases, 10^9",
    "flops_g": "2 x macs_g",
    "weights_mib": "parameters and buffers as stored, 2^20 bytes",
    "file_mib": "the file that torch.save makes of the state dict, 2^20 bytes",
    "payload_bytes": "the output in float32: what a part sends, one sample",
}
"""The quantities that follow from the module alone, with their units."""


@dataclass(frozen=True)
class Footprint:
    """One module on the meta device and its input tensors. Each quantity is computed on first use."""

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]

    @cached_property
    def counts(self) -> Counts:
        """Return the parameters, MACs and bytes of the module for one sample."""
        from harness.train.counting.count import count

        return count(self.module, self.inputs)

    @cached_property
    def output(self) -> TensorSpec:
        """Return the shape of the output, without the batch dimension."""
        import torch

        from harness.train.counting.modes import evaluating

        tensors = [
            torch.zeros(1, *spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
            for spec in self.inputs
        ]
        with evaluating(self.module), torch.inference_mode():
            out = self.module(*tensors)
        return TensorSpec(shape=tuple(out.shape[1:]))

    @cached_property
    def file_bytes(self) -> int:
        """Return the size in bytes of the saved state dict. The bytes of the weights are counted and not written."""
        import torch

        state: dict[str, torch.Tensor] = self.module.state_dict()
        made: dict[tuple[int, torch.Size], torch.Tensor] = {}
        for name, tensor in state.items():  # the file has tied weights once
            key = tensor.untyped_storage()._cdata, tensor.shape
            state[name] = made.setdefault(key, torch.empty_like(tensor, device="cpu"))
        sink = _Sink()
        with torch.serialization.skip_data():
            torch.save(state, sink)
        return sink.end

    def figure(self, quantity: str) -> float:
        """Return one quantity of :data:`STATIC`, in the unit given there."""
        if quantity == "params_m":
            elements: int = sum(parameter.numel() for parameter in self.module.parameters())
            return elements / 1e6
        if quantity == "file_mib":
            return self.file_bytes / 2**20
        if quantity == "payload_bytes":
            return 4 * math.prod(self.output.shape)
        return {
            "macs_g": self.counts.macs / 1e9,
            "macs_linear_g": self.counts.macs_linear / 1e9,
            "flops_g": 2 * self.counts.macs / 1e9,
            "weights_mib": self.counts.weight_bytes / 2**20,
        }[quantity]


class _Sink:
    """A file object that counts the bytes written and discards them."""

    def __init__(self) -> None:
        self.at = self.end = 0

    def write(self, data: bytes | memoryview) -> int:
        self.seek(len(data), 1)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.end)[whence] + offset
        self.end = max(self.end, self.at)
        return self.at

    def tell(self) -> int:
        return self.at

    def flush(self) -> None:
        pass


class Modules:
    """The modules of one method, by part. Each is built on first use.

    ``parts`` are (name, spec, names of its inputs), each after its inputs. ``built`` has modules that several parts
    or methods share.
    """

    def __init__(
        self,
        parts: Iterable[tuple[str, ModuleSpec | None, Sequence[str]]],
        image: TensorSpec,
        built: dict[str, Footprint],
    ) -> None:
        self._parts = {name: (spec, inputs) for name, spec, inputs in parts}
        self._image = image
        self._built = built

    @property
    def names(self) -> list[str]:
        """Return the names of the parts, each after its inputs."""
        return list(self._parts)

    def get(self, name: str) -> Footprint | None:
        """Return the footprint of a part, or ``None`` if it is unknown.

        It is unknown if planning does not know the module of the part, or a module whose output it takes.
        """
        import torch

        spec, sources = self._parts[name]
        if spec is None:
            return None
        inputs = []
        for source in sources:
            before = None if source == IMAGE else self.get(source)
            if before is None and source != IMAGE:
                return None
            inputs.append(self._image if before is None else before.output)
        about = [spec.factory, dict(spec.params), [[tensor.shape, tensor.dtype] for tensor in inputs]]
        key = json.dumps(about, sort_keys=True)
        if key not in self._built:
            with torch.device("meta"), _unset():
                self._built[key] = Footprint(spec.build(), tuple(inputs))
        return self._built[key]


_SETTING = {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}


def _unset() -> Any:
    """Skip weight initialisation: on the meta device it costs time and has no effect."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Unset(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if (
                func.overloadpacket.__name__ in _SETTING
                and isinstance(args[0], torch.Tensor)
                and args[0].is_meta
            ):
                return args[0]
            return func(*args, **(kwargs or {}))

    return Unset()

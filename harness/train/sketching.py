"""Sketches of split models, and seeded building. Planning needs them of a method, without numpy and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.types import IMAGE, ModuleSpec, PartSketch, Sketch
from harness.types.json import Facts

if TYPE_CHECKING:
    import torch

__all__ = ["Countable", "even_shares", "fused_sketch", "image_sketch", "seeded"]


def even_shares(total: int, parts: int) -> list[int]:
    """Return ``parts`` sizes with the sum ``total`` that differ by at most one, the larger ones first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """Return ``build()``, with random weights that ``seed`` determines. The global random state does not change."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


class Countable(Protocol):
    """The dimensions of a module, which give its counts without building it."""

    def params(self) -> int:
        """Return its number of parameters."""
        ...

    def macs(self) -> int:
        """Return its multiply-accumulates for one image."""
        ...

    def weight_bytes(self) -> int:
        """Return the bytes of its stored parameters and buffers."""
        ...


def image_sketch(name: str, shape: Countable, output: int, spec: ModuleSpec) -> PartSketch:
    """Return the sketch of a part that reads the image and gives ``output`` float32 values."""
    return PartSketch(
        name=name,
        inputs=(IMAGE,),
        params=shape.params(),
        macs=shape.macs(),
        weight_bytes=shape.weight_bytes(),
        output_bytes=4 * output,
        spec=spec,
    )


def fused_sketch(
    subs: Sequence[PartSketch],
    *,
    params: int,
    macs: int,
    classes: int,
    spec: ModuleSpec | None,
    decisions: Facts,
    name: str = "fusion",
) -> Sketch:
    """Return the sketch of ``subs`` and of the part that fuses their outputs into logits of ``classes``.

    ``params`` and ``macs`` are those of the fusion. Its ``spec`` is ``None`` if only training determines it.
    """
    fusion = PartSketch(
        name=name,
        inputs=tuple(sub.name for sub in subs),
        params=params,
        macs=macs,
        weight_bytes=4 * params,
        output_bytes=4 * classes,
        spec=spec,
    )
    return Sketch(parts=(*subs, fusion), decisions=decisions)

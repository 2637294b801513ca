"""When each part of a graph ends, by its computing and transfer times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.plan.profiles.profile import Link
from harness.types import IMAGE

if TYPE_CHECKING:
    pass

__all__ = ["Piece", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part as far as estimates go: counts for one sample, bytes, and where its inputs come from."""

    name: str
    inputs: tuple[str, ...]
    macs: int
    weight_bytes: int
    output_bytes: int


def schedule(
    pieces: Sequence[Piece],
    device_of: Mapping[str, int],
    central: int,
    compute: Callable[[Piece], float],
    links: Mapping[int, Link],
    image_bytes: float | None,
    batch: int = 1,
) -> float:
    """Seconds from when the central device has the image until it has the answer.

    ``links`` are those between the central device and each other one that has a part; a link sends one tensor
    after another, each way for itself. ``image_bytes`` ``None``: the image is on all devices already. ``pieces``
    stand in the order in which a device runs its own.
    """
    sizes = {piece.name: float(piece.output_bytes) for piece in pieces} | {IMAGE: image_bytes or 0.0}
    there: dict[tuple[str, int], float] = {(IMAGE, central): 0.0}
    home = {IMAGE: central, **device_of}
    free: dict[tuple[str, int], float] = {}

    def occupy(what: str, device: int, ready: float, spent: float) -> float:
        free[what, device] = max(ready, free.get((what, device), 0.0)) + spent
        return free[what, device]

    def arrives(name: str, device: int) -> float:
        if name == IMAGE and image_bytes is None:
            return 0.0
        if (name, device) not in there:
            way, ready, link = (
                ("down", there[name, home[name]], links[home[name]])
                if device == central
                else ("up", arrives(name, central), links[device])
            )
            at = home[name] if device == central else device
            there[name, device] = occupy(way, at, ready, link.occupied(batch * sizes[name])) + link.latency
        return there[name, device]

    for piece in pieces:
        device = device_of[piece.name]
        ready = max(arrives(name, device) for name in piece.inputs)
        there[piece.name, device] = occupy("compute", device, ready, compute(piece))
    return arrives(pieces[-1].name, central)

"""The latency of a graph of parts from its computing and transfer times."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from harness.plan.profiles.profile import Link
from harness.types import IMAGE
from harness.worker.timeline import Step, ends

__all__ = ["PartCounts", "schedule"]


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """The facts of a part that estimates need: counts for one sample, bytes, and the names of its inputs."""

    name: str
    inputs: tuple[str, ...]
    macs: int
    weight_bytes: int
    output_bytes: int


def schedule(
    parts: Sequence[PartCounts],
    device_of: Mapping[str, int],
    central: int,
    compute: Callable[[PartCounts], float],
    links: Mapping[int, Link],
    image_bytes: float | None,
    batch: int = 1,
) -> float:
    """Return the latency of a query in seconds: from the image on the central device to the answer there.

    ``links`` are the links between the central device and each other device that has a part. Each direction of a link
    sends one tensor after another. Every tensor passes through the central device, and reaches each device once. If
    ``image_bytes`` is None, the image is on all devices already. ``parts`` are in the order in which a device runs
    them.
    """
    sizes = {part.name: float(part.output_bytes) for part in parts} | {IMAGE: image_bytes or 0.0}
    home = {IMAGE: central, **device_of}
    steps: dict[tuple[str, int], Step] = {}  # by tensor and the device that has it after the step

    def add(name: str, device: int, resource: Hashable, after: Sequence[Hashable], *spent: float) -> None:
        steps[name, device] = Step((name, device), resource, tuple(after), *spent)

    def bring(name: str, device: int) -> None:
        """Add the transfers that bring a tensor to a device that does not have it."""
        if (name, device) in steps:
            return
        if device == central:
            source, way, end = home[name], "down", home[name]
        else:
            bring(name, central)
            source, way, end = central, "up", device
        link = links[end]
        add(name, device, (way, end), [(name, source)], link.occupied(batch * sizes[name]), link.latency)

    for device in {central} if image_bytes is not None else {central, *device_of.values()}:
        add(IMAGE, device, ("image", device), (), 0.0)
    for part in parts:
        device = device_of[part.name]
        for name in part.inputs:
            bring(name, device)
        inputs = [(name, device) for name in part.inputs]
        add(part.name, device, ("compute", device), inputs, compute(part))
    bring(parts[-1].name, central)
    return ends(steps.values())[parts[-1].name, central]

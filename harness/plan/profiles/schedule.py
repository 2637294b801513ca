"""The latency of a graph of parts from its computing and transfer times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    ``links`` are the links between the central device and each other device that has a part. Every tensor passes
    through the central device: the request of a part on another device carries all inputs of the part, and the answer
    its output, as in :mod:`harness.worker.collaborate`. Each direction of a link sends one frame after another. If
    ``image_bytes`` is None, the image is on all devices already, and requests do not carry it. ``parts`` are in the
    order in which a device runs them.
    """
    sizes = {part.name: float(part.output_bytes) for part in parts} | {IMAGE: image_bytes or 0.0}
    steps = [Step(IMAGE, IMAGE, (), 0.0)]
    for part in parts:
        name, device = part.name, device_of[part.name]
        if device == central:
            steps.append(Step(name, ("compute", device), part.inputs, compute(part)))
            continue
        link = links[device]
        up, down = sum(sizes[source] for source in part.inputs), sizes[name]
        sent, computed = ("sent", name), ("computed", name)
        steps.append(Step(sent, ("up", device), part.inputs, link.occupied(batch * up), link.latency))
        steps.append(Step(computed, ("compute", device), (sent,), compute(part)))
        steps.append(Step(name, ("down", device), (computed,), link.occupied(batch * down), link.latency))
    return ends(steps)[parts[-1].name]

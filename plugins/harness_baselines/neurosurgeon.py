"""Neurosurgeon: the cut with the least predicted latency over two devices (Kang et al., ASPLOS 2017).

The paper predicts the latency of each layer on the mobile device and on the server, and the time to send each layer's
output over the link. It tries all cuts, including those that leave everything on one device, and takes the best. Here
a layer is a block of a ViT. Blocks are alike, so one regression per device predicts them all: the line of its
profile. The image is on the central device, and the answer is needed there.

This module imports no torch, because planning calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.devices import Link, link_of
from harness.types import IMAGE, DeviceInfo, Fleet, ModuleSpec, PartSketch, Placement, Sketch
from harness_baselines.sketch import MEAN, known_shape, slice_spec
from harness_timm.vit import ViTShape

__all__ = ["Cut", "cuts", "neurosurgeon_sketch"]


@dataclass(frozen=True)
class Cut:
    """A cut: blocks [0, after) run on ``front``, the others on ``back``. Both are indices of devices.

    ``seconds`` is the predicted latency.
    """

    after: int
    front: int
    back: int
    seconds: float


def neurosurgeon_sketch(
    spec: ModuleSpec | None, fleet: Fleet, *, rate_mbps: float | None, rtt_ms: float | None
) -> Sketch:
    """Return ``front`` and ``back`` on one device each, or ``whole`` on one of them.

    ``rate_mbps`` (10^6 bits per second) and ``rtt_ms`` replace what the devices' profiles state of their link.

    If ``whole`` is not on the central device, that device has the part ``answer``, which returns the logits of
    ``whole`` unchanged, because a central device must have a part.

    Raises:
        ValueError: there are not two devices, the model's dimensions are unknown, or a device has no profile or link.
    """
    shape = known_shape(spec, "neurosurgeon needs the dimensions of a ViT")
    assert spec is not None
    if len(fleet.devices) != 2:
        raise ValueError(f"neurosurgeon cuts a model over a fleet of two devices, not {len(fleet.devices)}")
    lines = [_line(device) for device in fleet.devices]
    link = _link(fleet, rate_mbps, rtt_ms)
    tried = sorted(cuts(shape, lines, link, fleet.central), key=lambda cut: cut.seconds)
    best = tried[0]
    names = [device.name for device in fleet.devices]
    decisions = {
        "after": best.after,
        "front": names[best.front],
        "back": names[best.back],
        "predicted_ms": round(1e3 * best.seconds, 4),
        "alone_ms": {
            "central": round(1e3 * _alone(tried, fleet.central).seconds, 4),
            "other": round(1e3 * _alone(tried, 1 - fleet.central).seconds, 4),
        },
        "profiles": [dict(device.details["profile"]) for device in fleet.devices],
        "link": link.model_dump(exclude={"origin"}),
    }
    parts = _parts(shape, spec, best, fleet.central)
    device_of = {"whole": best.front, "front": best.front, "back": best.back, "answer": fleet.central}
    placement = Placement(device_of={part.name: device_of[part.name] for part in parts})
    return Sketch(parts=parts, placement=placement, decisions=decisions)


def cuts(shape: ViTShape, lines: Sequence[tuple[float, float]], link: Link, central: int) -> Iterator[Cut]:
    """Yield every way to run the model on the two devices, beginning with the whole model on one device.

    ``lines`` holds (seconds, seconds per GMAC) of each device. ``central`` is the index of the device with the image.
    """
    other = 1 - central
    height, width = shape.image_size
    image, tokens, answer = (  # bytes, in float32
        4 * count for count in (shape.channels * height * width, shape.tokens * shape.dim, shape.classes)
    )

    def computes(device: int, start: int, stop: int) -> float:
        fixed, slope = lines[device]
        return fixed + slope * shape.macs(start, stop) / 1e9

    depth = shape.depth
    yield Cut(depth, central, central, computes(central, 0, depth))
    away = link.seconds(image) + computes(other, 0, depth) + link.seconds(answer)
    yield Cut(depth, other, other, away + lines[central][0])
    for after in range(1, depth):
        passed = link.seconds(tokens)
        ahead = computes(central, 0, after) + passed + computes(other, after, depth) + link.seconds(answer)
        yield Cut(after, central, other, ahead)
        behind = link.seconds(image) + computes(other, 0, after) + passed + computes(central, after, depth)
        yield Cut(after, other, central, behind)


def _alone(tried: Sequence[Cut], device: int) -> Cut:
    """Return the cut that leaves everything on ``device``."""
    return next(cut for cut in tried if cut.front == cut.back == device)


def _parts(shape: ViTShape, spec: ModuleSpec, cut: Cut, central: int) -> tuple[PartSketch, ...]:
    depth = shape.depth
    if cut.front != cut.back:
        return (
            _part("front", IMAGE, shape, 0, cut.after, slice_spec(spec, 0, cut.after)),
            _part("back", "front", shape, cut.after, depth, slice_spec(spec, cut.after, depth)),
        )
    whole = _part("whole", IMAGE, shape, 0, depth, spec)
    if cut.front == central:
        return (whole,)
    answer = PartSketch(
        name="answer",
        inputs=("whole",),
        params=0,
        macs=0,
        weight_bytes=0,
        output_bytes=whole.output_bytes,
        spec=MEAN,
    )
    return (whole, answer)


def _part(name: str, source: str, shape: ViTShape, start: int, stop: int, spec: ModuleSpec) -> PartSketch:
    last = stop == shape.depth
    return PartSketch(
        name=name,
        inputs=(source,),
        params=shape.params(start, stop),
        macs=shape.macs(start, stop),
        weight_bytes=shape.weight_bytes(start, stop),
        output_bytes=4 * (shape.classes if last else shape.tokens * shape.dim),
        spec=spec,
    )


def _line(device: DeviceInfo) -> tuple[float, float]:
    """Return the fixed seconds, and the seconds per GMAC, of the device's profile.

    Raises:
        ValueError: the device has no profile.
    """
    profile: dict[str, Any] | None = device.details.get("profile")
    if profile is None:
        name = device.backend if device.backend in ("cpu", "cuda") else device.name
        raise ValueError(
            f"neurosurgeon needs a profile of {device.name} for as many threads: `harness devices profile {name}` "
            "measures it"
        )
    return profile["fixed_s"], profile["s_per_gmac"]


def _link(fleet: Fleet, rate_mbps: float | None, rtt_ms: float | None) -> Link:
    """Return the link of ``rate_mbps`` and ``rtt_ms``; a value that is not given is that of the devices' slower link.

    Raises:
        ValueError: no rate is given or known.
    """
    ends = [end for device in fleet.devices if (end := link_of(device)) is not None]
    if rate_mbps is None and not ends:
        raise ValueError(
            "neurosurgeon needs the link between the devices: `harness devices profile NAME` measures a board's, "
            "or give rate_mbps and rtt_ms"
        )
    known = ends[0].joined(ends[-1]) if ends else Link()
    return Link(
        rate_mbps=known.rate_mbps if rate_mbps is None else rate_mbps,
        rtt_ms=known.rtt_ms if rtt_ms is None else rtt_ms,
    )

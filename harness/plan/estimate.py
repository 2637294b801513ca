"""Estimates for a plan: latency and memory of a cell from the profiles of its devices. They are never measured.

The line of a device gives the time of a part from its MACs. Parts on different devices run at the same time, and
parts on one device run one after another. Every tensor passes through the central device. Each link sends one frame
at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

from harness.errors import CellError
from harness.extras import install_command
from harness.plan.profiles.line import Line
from harness.plan.profiles.profile import Link, Profile, ProfileSummary
from harness.plan.profiles.schedule import PartCounts, schedule
from harness.plan.profiles.stored import link_of, processor_of, profile_names, profile_of
from harness.plan.profiles.timing import bounded_s, mismatch, outside
from harness.types import IMAGE
from harness.types.artifacts import ExportMeta
from harness.types.plan import StepTask

if TYPE_CHECKING:
    from harness.plan.planner import Planned
    from harness.store.artifacts import Store
    from harness.train.counting.footprint import Footprint
    from harness.types import DeviceInfo, DeviceSpec, ModuleSpec
    from harness.types.plan import Cell

__all__ = ["Assumptions", "DeviceShare", "Estimate", "UsedProfile", "estimates"]

WIRE_BYTES = {"float32": 4, "float16": 2}
"""Bytes of a value of an output, by the element type in which it is sent."""


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UsedProfile(ProfileSummary):
    """The summary of a profile that an estimate uses, and the origin of its points."""

    origin: str


@dataclass(frozen=True, kw_only=True)
class DeviceShare:
    """The parts of a cell on one device, and what they need there.

    ``compute_s``: seconds of one query, None if no profile gives them. ``memory_bytes``: memory of the device's worker,
    None if no profile gives it. ``memory_limit``: memory of the device. ``weight_budget``: bytes that the inventory allows
    for weights. ``profile``: summary of the profile.
    """

    device: str
    parts: tuple[str, ...]
    compute_s: float | None
    weight_bytes: int
    memory_bytes: int | None
    memory_limit: int | None
    weight_budget: int | None
    profile: UsedProfile | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated latency of one query, in seconds, of one method on one device or fleet, and its memory.

    ``low_s`` and ``high_s`` assume that each line is off by its own error, all in the same direction. ``resident_s``
    is the latency with the image on all devices already. ``links``: whether all links are known. ``reason``: why
    there is no latency. ``notes``: what limits the estimate.
    """

    method: str
    device: str
    runtime: str
    batch: int
    latency_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    resident_s: float | None = None
    links: bool = True
    devices: tuple[DeviceShare, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    provenance: str = "modelled"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """A profile and a link that a person sets for all devices, in place of measured ones."""

    profile: Profile | None = None
    link: Link | None = None


def estimates(planned: Planned, store: Store, assumed: Assumptions) -> list[Estimate]:
    """Return one estimate for each method, device, runtime and batch of a plan, in the plan's order.

    Raises:
        ProfileError: a profile cannot be read.
    """
    first: dict[tuple[str, str, str, int], Cell] = {}
    for cell in planned.plan.cells:
        task = cell.task
        setting = cell.method, task.device, task.runtime.name, task.measure.batch
        if setting not in first or (not store.has(first[setting].export) and store.has(cell.export)):
            first[setting] = cell
    built: dict[str, Footprint] = {}
    return [_estimate(cell, planned, store, assumed, built) for cell in first.values()]


def _estimate(
    cell: Cell, planned: Planned, store: Store, assumed: Assumptions, built: dict[str, Footprint]
) -> Estimate:
    task = cell.task
    runtime, batch = task.runtime.name, task.measure.batch
    estimate = Estimate(method=cell.method, device=task.device, runtime=runtime, batch=batch)
    if cell.impossible is not None:
        return replace(estimate, reason=cell.impossible)
    try:
        parts = _parts(cell, planned, store, built)
    except (ValueError, CellError) as error:
        return replace(estimate, reason=str(error))
    placed = {part.name: (task.placement or {}).get(part.name, 0) for part in parts}
    target = planned.resolved.target(task.device, task.threads)
    profiles = {
        index: assumed.profile or profile_of(spec, runtime)
        for index, spec in enumerate(target.specs)
        if index in placed.values()
    }
    precision = _precision(cell, planned)
    shares = tuple(
        _share(
            target.infos[index],
            [part for part in parts if placed[part.name] == index],
            profile,
            None if profile is None else mismatch(profile, runtime, precision),
            batch,
        )
        for index, profile in sorted(profiles.items())
    )
    estimate = replace(estimate, devices=shares)
    unprofiled = [index for index, profile in sorted(profiles.items()) if profile is None]
    if unprofiled:
        return replace(estimate, reason=_no_profile(target.specs[unprofiled[0]], runtime))
    links, unknown = {}, []
    for index in sorted({*placed.values()} - {task.central}):
        link = _link(index, task.central, target.infos, profiles, assumed)
        links[index] = link or Link()
        if link is None:
            unknown.append(target.specs[index].name)
    fitting = {index: profile for index, profile in profiles.items() if profile is not None}
    for profile in fitting.values():
        if reason := mismatch(profile, runtime, precision):
            return replace(estimate, reason=reason)
    for part in parts:
        profile = fitting[placed[part.name]]
        if _gmacs(part, batch) > profile.line.high and not profile.line.covers(_gmacs(part, batch)):
            return replace(estimate, reason=outside(profile, part.name, _gmacs(part, batch)))

    def latency(image_bytes: int | None, side: int, *, error: bool = True) -> float:
        def compute(part: PartCounts) -> float:
            line = fitting[placed[part.name]].line
            return bounded_s(line, _gmacs(part, batch), side, error=error)

        return schedule(parts, placed, task.central, compute, links, image_bytes, batch)

    image = math.prod(task.data.shape) * (1 if task.input == "raw" else 4)
    middle, doubt = latency(image, 0), latency(image, 1, error=False) - latency(image, -1, error=False)
    if doubt > max(profile.line.error for profile in fitting.values()) * middle:
        small = [p for p in parts if not fitting[placed[p.name]].line.covers(_gmacs(p, batch))]
        least = max(small, key=lambda part: part.macs)
        reason = outside(fitting[placed[least.name]], least.name, _gmacs(least, batch))
        return replace(estimate, reason=reason)
    return replace(
        estimate,
        latency_s=middle,
        low_s=latency(image, -1),
        high_s=latency(image, 1),
        resident_s=latency(None, 0),
        links=not unknown,
        notes=tuple(dict.fromkeys(_notes(fitting, target.specs, unknown))),
    )


def _gmacs(part: PartCounts, batch: int) -> float:
    return batch * part.macs / 1e9


def _precision(cell: Cell, planned: Planned) -> str:
    """Return the precision that the cell's runtime is asked for."""
    runtime = cell.task.runtime
    entry = planned.resolved.plugins.runtimes.get(runtime.name).entry
    return entry.precision(entry.params(**runtime.params))


def _no_profile(spec: DeviceSpec, runtime: str) -> str:
    """Return a message that a device has no profile, with the command that makes one."""
    name = profile_names(spec)[0] if getattr(spec.params, "board", None) else spec.backend
    setting = f"--threads {spec.threads} --runtime {runtime}"
    if processor := processor_of(spec):
        setting += f" --set device={processor}"
    return f"no profile of {spec.name}: harness devices profile {name} {setting}"


def _notes(
    profiles: Mapping[int, Profile], specs: Sequence[DeviceSpec], unknown: Sequence[str]
) -> Iterable[str]:
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        yield f"without transfers: no link of {names} is known (--link MBPS,MS)"
    for index, profile in profiles.items():
        if profile.threads != specs[index].threads:
            threads = "unknown threads" if profile.threads is None else f"{profile.threads} threads"
            yield f"{profile.label} is of {threads}"
        if profile.precision is None:
            yield f"{profile.label} does not say its precision; float32 is assumed"


def _share(
    info: DeviceInfo, parts: Sequence[PartCounts], profile: Profile | None, unfit: str | None, batch: int
) -> DeviceShare:
    """Return what the parts need on one device. ``unfit``: why the profile gives no figure for them."""
    weights = sum(part.weight_bytes for part in parts)
    usable = profile if unfit is None else None
    memory = usable.memory() if usable is not None else None
    if memory is not None and not memory.covers(weights / 2**20):
        memory = None
    return DeviceShare(
        device=info.name,
        parts=tuple(part.name for part in parts),
        compute_s=_compute_s(usable.line, [_gmacs(part, batch) for part in parts]) if usable else None,
        weight_bytes=weights,
        memory_bytes=round(2**20 * memory.at(weights / 2**20)) if memory is not None else None,
        memory_limit=info.memory_bytes or None,
        weight_budget=info.weight_budget_bytes,
        profile=UsedProfile(**asdict(profile.summary()), origin=profile.origin) if profile else None,
    )


def _compute_s(line: Line, gmacs: Sequence[float]) -> float | None:
    """Return the seconds of parts one after another, or ``None`` if the points of the line do not bound them enough."""
    if any(size > line.high and not line.covers(size) for size in gmacs):
        return None
    least, middle, most = (sum(bounded_s(line, x, side, error=False) for x in gmacs) for side in (-1, 0, 1))
    return middle if most - least <= line.error * middle else None


def _link(
    index: int,
    central: int,
    infos: Sequence[DeviceInfo],
    profiles: Mapping[int, Profile | None],
    assumed: Assumptions,
) -> Link | None:
    """Return the link between a device and the central one, from the known links of both ends."""
    if assumed.link is not None:
        return assumed.link
    ends = []
    for at in (index, central):
        profile = profiles.get(at)
        end = link_of(infos[at]) or (profile.link if profile is not None else None)
        if end is not None:
            ends.append(end)
    return reduce(Link.joined, ends) if ends else None


# --- parts ----------------------------------------------------------------------------------------


def _parts(cell: Cell, planned: Planned, store: Store, built: dict[str, Footprint]) -> list[PartCounts]:
    """Return the parts of a cell: from its export if it is prepared, else from the sketch or the built module.

    Raises:
        ValueError: the parts are known only when they are prepared.
    """
    if store.usable(cell.export):
        return [
            PartCounts(
                name=part.name,
                inputs=part.inputs,
                macs=part.counts.macs,
                weight_bytes=part.artifact.weight_bytes,
                output_bytes=WIRE_BYTES[part.wire_dtype] * math.prod(part.output.shape),
            )
            for part in store.meta(cell.export, ExportMeta).parts
        ]
    resolved = planned.resolved.method(cell.method)
    if any(link.step.each_part for link in resolved.links):
        raise ValueError(
            "its parts are compressed after the split; their size is known after they are prepared"
        )
    for key in planned.plan.needed_by(cell):
        task = planned.plan.nodes[key].task
        if isinstance(task, StepTask) and task.sketch is not None:
            return [
                PartCounts(
                    name=part.name,
                    inputs=part.inputs,
                    macs=part.macs,
                    weight_bytes=part.weight_bytes,
                    output_bytes=part.output_bytes,
                )
                for part in task.sketch.parts
            ]
    if resolved.spec is None:
        raise ValueError("planning does not know the model's shape; it is known after the model is prepared")
    return [_whole(resolved.spec, cell.task.data.shape, built)]


def _whole(spec: ModuleSpec, shape: Sequence[int], built: dict[str, Footprint]) -> PartCounts:
    from importlib.util import find_spec

    from harness.train.counting.footprint import Modules
    from harness.types import TensorSpec

    if find_spec("torch") is None:
        raise ValueError(f"counting a model needs torch: {install_command('bench')}")
    modules = Modules([("whole", spec, (IMAGE,))], TensorSpec(shape=tuple(shape)), built)
    footprint = modules.get("whole")
    assert footprint is not None
    counts = footprint.counts
    return PartCounts(
        name="whole",
        inputs=(IMAGE,),
        macs=counts.macs,
        weight_bytes=counts.weight_bytes,
        output_bytes=4 * math.prod(footprint.output.shape),
    )

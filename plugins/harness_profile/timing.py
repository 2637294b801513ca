"""Measure a device's profile: operations and small models are exported here and timed on a device of any backend.

The steps are those of a cell: export, load into a new worker, then run one input after the other in steady state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, cast

import harness
from harness.contracts.need import needing
from harness.contracts.opened import CheckedDevice
from harness.devices import Link, processor_of
from harness.errors import DeviceError
from harness.plan.profiles.profile import Kind, Point, Profile
from harness.types import (
    IMAGE,
    Artifact,
    Context,
    Counts,
    DeviceSpec,
    Edge,
    Graph,
    GraphPart,
    Metering,
    ModuleSpec,
    Part,
    Stop,
    TensorSpec,
    Unavailable,
    Workload,
)
from harness.types.artifacts import About

if TYPE_CHECKING:
    from harness.registry import Registered
    from harness.store.artifacts import Store
    from harness.types import BackendEntry, RuntimeEntry, Samples

__all__ = ["PROBES", "WORKLOAD", "Probe", "measure_profile", "operation", "small_vit"]

WORKLOAD = Workload(
    stop=Stop(min_time_s=0.5, min_queries=11, max_time_s=60.0, warmup_max_s=3.0),
    metering=Metering(idle_s=0.0),
)
"""The workload of a probe. A confidence interval of the median needs at least eleven queries (harness.stats)."""

TRIES = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A module to time: its name, its kind of operation, the spec that builds it, and the shape of its input."""

    what: str
    kind: Kind
    spec: ModuleSpec
    shape: tuple[int, ...]


def operation(kind: Kind, what: str, shape: tuple[int, ...], **params: int) -> Probe:
    """Return a probe of one operation of :mod:`harness_profile.ops` on an input of ``shape``."""
    return Probe(
        what=what,
        kind=kind,
        spec=ModuleSpec(factory=f"harness_profile.ops:{kind}", params=params),
        shape=shape,
    )


def small_vit(side: int, patch: int, dim: int, depth: int, heads: int) -> Probe:
    """Return a probe of a ViT with 10 classes for images [3, side, side]."""
    params = {
        "image_size": [side, side],
        "patch_size": patch,
        "channels": 3,
        "classes": 10,
        "dim": dim,
        "depth": depth,
        "heads": heads,
    }
    return Probe(
        what=f"ViT, {side} px, patch {patch}, dim {dim}, depth {depth}",
        kind="model",
        spec=ModuleSpec(factory="harness_timm.models:vit", params=params),
        shape=(3, side, side),
    )


PROBES: tuple[Probe, ...] = (
    *(
        operation("matmul", f"{t} x {d} times {d} x {d}", (t, d), dim=d, out=d)
        for t, d in ((65, 96), (197, 192), (197, 384))
    ),
    *(
        operation("attention", f"attention, {t} tokens, dim {d}", (t, d), dim=d, heads=d // 32)
        for t, d in ((65, 96), (197, 192), (197, 384))
    ),
    *(
        operation("mlp", f"MLP, {t} tokens, dim {d}", (t, d), dim=d, hidden=4 * d)
        for t, d in ((65, 96), (197, 192), (197, 384))
    ),
    operation(
        "conv", "patches of 4 at 32 px, 96 filters", (3, 32, 32), channels=3, filters=96, kernel=4, stride=4
    ),
    operation(
        "conv",
        "patches of 16 at 224 px, 192 filters",
        (3, 224, 224),
        channels=3,
        filters=192,
        kernel=16,
        stride=16,
    ),
    operation(
        "conv", "3 x 3, 64 to 64 channels at 56 px", (64, 56, 56), channels=64, filters=64, kernel=3, stride=1
    ),
    small_vit(32, 4, 48, 4, 3),
    small_vit(32, 4, 96, 6, 3),
    small_vit(32, 4, 192, 6, 3),
    small_vit(64, 8, 192, 12, 3),
    small_vit(224, 16, 128, 12, 2),
    small_vit(224, 16, 192, 6, 3),
    small_vit(224, 16, 192, 12, 3),
    small_vit(224, 16, 256, 12, 4),
)


@dataclass
class _Exporting:
    """The part of a context that an export needs."""

    workdir: Path
    seed: int = 0
    device: str = "cpu"


def measure_profile(
    backend: BackendEntry,
    spec: DeviceSpec,
    runtime: Registered[RuntimeEntry],
    store: Store,
    say: Callable[[str], None],
    *,
    code: str,
    central: tuple[BackendEntry, DeviceSpec] | None = None,
    probes: Sequence[Probe] = PROBES,
    workload: Workload = WORKLOAD,
) -> Profile:
    """Time every probe on the device, and the link to it from the device ``central`` if it is on another machine.

    ``central`` is a device of this machine. ``code`` identifies the runtime's code
    (:meth:`harness.plugins.Plugins.code_of`).

    Raises:
        DeviceError: the device or its worker cannot be used.
        ProfileError: no line fits the times.
    """
    info = backend.describe(spec)
    if isinstance(info, Unavailable):
        raise DeviceError(f"{spec.name}: {info.reason}" + (f" ({info.fix})" if info.fix else ""))
    if info.kind not in runtime.entry.devices:
        raise DeviceError(f"runtime {runtime.entry.name} does not run on {info.kind}, which {spec.name} is")
    prepared = []
    for number, probe in enumerate(probes, 1):
        say(f"preparing {number}/{len(probes)}: {probe.what}")
        prepared.append((probe, *_prepared(probe, runtime, store, code)))
    points: list[Point] = []
    facts: Mapping[str, Any] = {}
    for number, (probe, artifact, counts) in enumerate(prepared, 1):
        say(f"timing {number}/{len(probes)}: {probe.what}")
        tries: list[Point] = []
        # a disturbed try is repeated in a new worker
        while len(tries) < TRIES and (not tries or tries[-1].flags):
            samples, facts, remote = _timed(backend, spec, runtime.entry, probe, artifact, workload)
            tries.append(_point(probe, artifact, counts, samples))
        points.append(min(tries, key=lambda point: (bool(point.flags), point.seconds)))
    link = None
    if remote and central is not None:
        say("timing the link")
        link = _link(
            (backend, spec),
            central,
            runtime.entry,
            max(prepared, key=lambda item: math.prod(item[0].shape))[1],
            workload,
        )
    version = " ".join(str(facts.get(key, "")) for key in ("version", "provider")).strip()
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    profile = Profile(
        name=spec.name,
        device_model=info.model,
        provenance="emulated" if info.emulated else "measured",
        origin=f"harness {harness.__version__}, {runtime.entry.name} {version}: medians at batch 1",
        made=made,
        processor=processor_of(spec),
        runtime=runtime.entry.name,
        precision=str(facts["precision"]) if "precision" in facts else None,
        threads=spec.threads,
        link=link,
        points=tuple(points),
    )
    _ = profile.line
    return profile


@dataclass(frozen=True, kw_only=True)
class ProbeMeta:
    """The ``meta.json`` of an exported probe. The artifact's path is relative to its folder."""

    kind: Literal["profile"] = "profile"
    about: About
    artifact: Artifact
    counts: Counts


def _prepared(
    probe: Probe, runtime: Registered[RuntimeEntry], store: Store, code: str
) -> tuple[Artifact, Counts]:
    """Export a probe, once for all devices. Return the artifact and the counts of the module."""
    import torch

    from harness.methods import count
    from harness.store.hashing import digest, files_hash
    from harness.store.saved import write_meta
    from harness.types.plain import to_json

    module_spec = find_spec(probe.spec.factory.partition(":")[0])
    assert module_spec is not None
    assert module_spec.origin is not None
    made_with = [files_hash([Path(module_spec.origin)]), code, torch.__version__]
    key = digest(["profile", asdict(probe.spec), probe.shape, runtime.entry.name, *made_with])
    with store.making(key) as folder:
        if folder is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module = probe.spec.build().eval()
            image = TensorSpec(shape=probe.shape)
            with torch.inference_mode():
                output = TensorSpec(shape=tuple(module(torch.zeros(1, *probe.shape)).shape[1:]))
            part = Part(
                name="whole",
                module=module,
                spec=probe.spec,
                inputs=(Edge(source=IMAGE, tensor=image),),
                output=output,
            )
            context = cast(Context, _Exporting(folder))
            artifact = runtime.entry.export(context, part, runtime.entry.params())
            meta = ProbeMeta(
                about=About(stage="profile", entry=runtime.entry.name, label=probe.what),
                artifact=replace(artifact, path=artifact.path.relative_to(folder)),
                counts=count(module, [image]),
            )
            write_meta(folder, to_json(meta))
    return _stored(key, store)


def _stored(key: str, store: Store) -> tuple[Artifact, Counts]:
    meta = store.meta(key, ProbeMeta)
    return replace(meta.artifact, path=store.folder(key) / meta.artifact.path), meta.counts


def _timed(
    backend: BackendEntry,
    spec: DeviceSpec,
    runtime: RuntimeEntry,
    probe: Probe,
    artifact: Artifact,
    workload: Workload,
) -> tuple[Samples, Mapping[str, Any], bool]:
    """Run a probe in a new worker. Return the samples, the session's facts, and whether the device is remote."""
    import numpy as np

    images = np.random.default_rng(0).standard_normal((4, *probe.shape), np.float32)
    graph = Graph(parts=(GraphPart(name="whole", inputs=(IMAGE,), output=artifact.output),))
    with _opened(backend, spec) as device:
        facts = device.load("whole", artifact, runtime)
        device.connect(graph, {})
        samples = device.measure(workload, images)
    if not len(samples.trace.latency_ns):
        raise DeviceError(
            f"{spec.name}: no query of {probe.what} was answered in {workload.stop.max_time_s:g} s"
        )
    return samples, facts, device.remote


def _opened(backend: BackendEntry, spec: DeviceSpec) -> CheckedDevice:
    """Open a device whose answers are checked, as a run does."""
    return CheckedDevice(needing(f"backend {backend.name!r}"), backend.open(spec))


def _link(
    board: tuple[BackendEntry, DeviceSpec],
    central: tuple[BackendEntry, DeviceSpec],
    runtime: RuntimeEntry,
    artifact: Artifact,
    workload: Workload,
) -> Link:
    """Return rate and round-trip time, as this machine's worker sees them when it sends the board an image."""
    import numpy as np

    graph = Graph(parts=(GraphPart(name="whole", inputs=(IMAGE,), output=artifact.output),))
    with _opened(*board) as device, _opened(*central) as here:
        device.load("whole", artifact, runtime)
        here.load("idle", artifact, runtime)  # starts its worker
        here.connect(graph, {"whole": device.serve(here)})
        samples = here.measure(workload, np.zeros((1, *artifact.inputs[0].shape), np.float32))
    rtt, up = (samples.parts.links[f"{key}:whole"] for key in ("rtt", "up"))
    bits = 8 * samples.parts.traffic["sent_bytes:whole"]
    return Link(
        rate_mbps=1e3 * bits / (up - rtt) if up > rtt else None,
        rtt_ms=rtt / 1e6,
        origin=f"measured between this host and the board, {bits // 8:,} bytes one way",
    )


def _point(probe: Probe, artifact: Artifact, counts: Counts, samples: Samples) -> Point:
    from harness.measure.flags import flags

    moved = artifact.weight_bytes + 4 * (math.prod(probe.shape) + math.prod(artifact.output.shape))
    return Point(
        what=probe.what,
        kind=probe.kind,
        macs=counts.macs,
        macs_linear=counts.macs_linear,
        bytes=moved,
        seconds=median(samples.trace.latency_ns.tolist()) / 1e9,
        weight_bytes=artifact.weight_bytes,
        memory_bytes=samples.here.memory.get("process_peak_bytes"),
        queries=len(samples.trace.latency_ns),
        flags=tuple(flags(samples)),
    )

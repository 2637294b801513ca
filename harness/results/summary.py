"""What tables read of a record: a value of about 2 kB in place of one of 30 kB, so that 100,000 fit in memory.

The names are those of the record. What only a few sentences need, such as the lineage, is read again from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.machine.energy.fleet import readings_of
from harness.results.lines import Line, record_at
from harness.types.record import Record, Status

if TYPE_CHECKING:
    from harness.types import Provenance
    from harness.types.blocks import DataBlock, DeviceBlock, RuntimeBlock, ScenarioBlock
    from harness.types.signals import Signal, Undisturbed

__all__ = ["Summary", "summary_at", "summary_of"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy in percent on ``n`` images. ``without_one``: the mean with one part missing, and ``why_not`` the reason if it is None."""

    n: int | None
    top1: float | None
    top5: float | None
    top1_oracle: float | None
    on: str | None
    without_one: float | None
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals over all parts."""

    params: int | None
    macs: int | None
    macs_linear: int | None
    weight_bytes: int | None
    weight_bytes_max_device: int | None
    activation_bytes: int | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of the window in milliseconds, and of a sustained workload.

    ``undisturbed``: the same in undisturbed blocks of the window, if a signal was above its limit.
    """

    n: int | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    std_ms: float | None
    first_ms: float | None
    throughput_ips: float | None
    preprocess_ms: float | None
    sustained_p50_ms: float | None
    slowdown: float | None
    undisturbed: Undisturbed | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the measuring process with the most memory."""

    process_peak_bytes: int | None
    baseline_bytes: int | None
    device_process_bytes: int | None
    device_shared_bytes: int | None
    device_reserved_peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Network:
    """Bytes and times of a fleet. ``no_input_p50_ms``: the median latency with the images on the devices."""

    input_bytes: int | None
    feature_bytes: int | None
    critical_path_ms: float | None
    over_bound: float | None
    no_input_p50_ms: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The energy of one inference by one meter of a whole machine or fleet."""

    meter: str | None
    scope: str | None
    provenance: str | None
    quantity: str | None
    method: str | None
    energy_gross_mj: float | None
    energy_net_mj: float | None
    energy_u_mj: float | None
    power_gross_w: float | None
    idle_w: float | None
    withheld: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SampleName:
    """The file of the raw samples. ``empty``: the record has none."""

    empty: bool
    file: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What tables read of a record. ``source`` is the record, or the line in which it is.

    ``setting`` is a hash of the settings that all records of a row share. ``start_notes`` is what a reader must know
    of the pretrained weights that the method started from. ``signals`` are the signals above their limits, or None for
    a record of version 0.1.0.
    """

    source: Record | Line
    machine_id: str
    run_id: str
    cell_id: str
    attempt: int
    status: Status
    reason: str
    stage: str | None
    plugin: str | None
    suite: str
    method: str
    method_key: str
    seed: int
    repeat: int
    started: str
    provenance: Provenance
    baseline: str | None
    rank_by: str
    flags: tuple[str, ...]
    signals: tuple[Signal, ...] | None
    device: DeviceBlock
    runtime: RuntimeBlock
    scenario: ScenarioBlock
    data: DataBlock
    setting: str
    start_notes: tuple[str, ...]
    accuracy: Accuracy
    counts: Counts
    latency: Latency
    memory: Memory
    network: Network
    readings: tuple[Reading, ...]
    train_s: float | None
    train_macs: float | None
    no_meter: str | None
    samples: SampleName

    @property
    def identity(self) -> tuple[str, str, str]:
        """Return the identity of the cell among all results folders: machine, run, cell."""
        return self.machine_id, self.run_id, self.cell_id

    @property
    def good(self) -> bool:
        """Return whether this attempt has figures."""
        return self.status in ("ok", "partial")

    def record(self) -> Record:
        """Return the whole record.

        Raises:
            StorageError: its line was changed since it was read.
        """
        return record_at(self.source) if isinstance(self.source, Line) else self.source


def summary_at(line: Line, record: Record) -> Summary:
    """Return the summary of a record that was read from a line."""
    return summary_of(record, line)


def summary_of(record: Record, line: Line | None = None) -> Summary:
    """Return the summary of a record, which was read from ``line`` if that is given."""
    accuracy, network = record.accuracy, record.network
    levels = accuracy.missing.levels
    signals = None if record.signals is None else tuple(signal for signal in record.signals if signal.over)
    return Summary(
        source=record if line is None else line,
        machine_id=record.machine_id,
        run_id=record.run_id,
        cell_id=record.cell_id,
        attempt=record.attempt,
        status=record.status,
        reason=record.reason,
        stage=record.stage,
        plugin=record.plugin,
        suite=record.suite,
        method=record.method,
        method_key=record.method_key,
        seed=record.seed,
        repeat=record.repeat,
        started=record.started,
        provenance=record.provenance,
        baseline=record.baseline,
        rank_by=record.rank_by,
        flags=tuple(record.flags),
        signals=signals,
        device=record.device,
        runtime=record.runtime,
        scenario=record.scenario,
        data=record.data,
        setting=_setting(record),
        start_notes=tuple(_start_notes(record)),
        accuracy=Accuracy(
            n=accuracy.n,
            top1=accuracy.top1,
            top5=accuracy.top5,
            top1_oracle=accuracy.top1_oracle,
            on=accuracy.on,
            without_one=levels[0].mean if levels else None,
            why_not=accuracy.missing.why,
        ),
        counts=Counts(*_counts(record.counts)),
        latency=Latency(*(*_latency(record.latency), record.latency.undisturbed if signals else None)),
        memory=Memory(*_memory(record.memory)),
        network=Network(
            input_bytes=network.input_bytes,
            feature_bytes=network.feature_bytes,
            critical_path_ms=network.critical_path_ms,
            over_bound=network.over_bound,
            no_input_p50_ms=network.no_input.p50_ms if network.no_input else None,
        ),
        readings=tuple(
            Reading(*_reading(each)) for each in readings_of(record.energy, record.device.devices)
        ),
        train_s=record.train.train_s,
        train_macs=record.train.train_macs,
        no_meter=record.state.no_meter,
        samples=SampleName(record.samples.empty, record.samples.file, record.samples.sha256),
    )


_counts = attrgetter(*Counts.__dataclass_fields__)
_latency = attrgetter(*list(Latency.__dataclass_fields__)[:9], "sustained.p50_ms", "sustained.slowdown")
_memory = attrgetter(*Memory.__dataclass_fields__)
_reading = attrgetter(*Reading.__dataclass_fields__)


def _start_notes(record: Record) -> list[str]:
    """Return what a reader must know of the pretrained weights that a method started from."""
    steps = record.lineage
    idle = bool(steps) and not any(step.image_passes for step in steps)
    made = len(steps) > 1 or not any("weights" in step.notes for step in steps)
    said = ["no step trained the weights"] if idle and made else []
    for step in steps:
        said += [f"the head is {step.notes['head']}"] if step.notes.get("new_head") else []
        said += map(str, step.notes.get("adapted", ()))
    return said


def _setting(record: Record) -> str:
    """Return a hash of the requested settings of a record, which are the same for all records of a row.

    The precision is not included, since a cell that failed may not know it.
    """
    scenario = record.scenario
    settings = [
        record.machine_id,
        record.method,
        record.method_key,
        record.runtime.name,
        record.runtime.params,
        scenario.batch,
        scenario.threads,
        scenario.streams,
        scenario.target_qps,
        scenario.generator,
        scenario.preset,
        scenario.in_flight,
        scenario.deadline_s,
        scenario.on_missing,
        record.device.input,
        record.device.name,
        record.device.nodes,
        [
            (name, origin if isinstance(origin, str) else [origin.version, origin.source])
            for name, origin in sorted(record.origins.items())
        ],
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]

"""The fields of a cell's record: those that are known before it is measured, and those that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.machine.energy.fleet import has_figure, readings_of
from harness.machine.environment import machine_of
from harness.measure.cell_data import CellData
from harness.measure.deploy import Deployed, device_names
from harness.measure.flags import flags_of
from harness.measure.latency import latency_of, latency_summary
from harness.measure.measured import Measured, RawResult
from harness.measure.network import network_of
from harness.measure.signals import signals
from harness.measure.workload import scenario_of
from harness.types import DeviceInfo, DeviceReport, Provenance, Samples
from harness.types.artifacts import ExportedPart
from harness.types.blocks import (
    DataBlock,
    DeviceBlock,
    FleetMember,
    LineageStep,
    PartBlock,
    RuntimeBlock,
    ScenarioBlock,
    TrainingCost,
    WindowSignals,
)
from harness.types.figures import (
    Accuracy,
    Counts,
    EnergyReading,
    Memory,
    Network,
    NoInput,
    ProcessMemory,
    State,
)
from harness.types.plain import to_json
from harness.types.plan import Cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KnownBefore", "fields_known_before", "record_fields"]

NOT_IN_DETAILS = ("meters", "external")
"""Keys of a device's details that a record does not contain. They say how meters are opened."""


# --- before measuring -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class KnownBefore:
    """The fields of a record that are known even if the cell fails: where and how the cell is measured."""

    device: DeviceBlock
    runtime: RuntimeBlock
    scenario: ScenarioBlock
    data: DataBlock
    provenance: Provenance


def fields_known_before(cell: Cell) -> KnownBefore:
    """Return the fields of a cell's record that follow from the plan."""
    task = cell.task
    data = task.data
    return KnownBefore(
        device=_device(cell),
        runtime=RuntimeBlock(name=task.runtime.name, params=task.runtime.params, precision=None, facts={}),
        scenario=scenario_of(task),
        data=DataBlock(
            name=data.name,
            task="image-classification",
            split="test",
            classes=data.classes or None,
            shape=list(data.shape) if data.classes else None,
            fingerprint=data.fingerprint,
            n=None,
            note=data.note,
            normalize=data.choice.normalize_name,
            mean=list(data.mean),
            std=list(data.std),
            resize=data.choice.resize_name,
        ),
        provenance=_provenance(task.infos),
    )


def _device(cell: Cell) -> DeviceBlock:
    task = cell.task
    infos = task.infos
    first = infos[task.central] if len(infos) > task.central else (infos[0] if infos else None)
    of_fleet = {"input": task.input} if task.fleet else {}
    return DeviceBlock(
        name=task.device,
        backend=first.backend if first else task.specs[0].backend,
        model=" + ".join(sorted({info.model for info in infos})),
        kind=first.kind if first else "",
        nodes=len(task.specs),
        cores=first.cores if first else None,
        memory_bytes=first.memory_bytes if first else None,
        details=_details(first) if first else {},
        **of_fleet,
    )


def _details(info: DeviceInfo) -> dict[str, Any]:
    """Return the facts of a device, with the facts of its machine if that is another one."""
    details = {**info.environment, **info.details}
    details = {key: value for key, value in details.items() if key not in NOT_IN_DETAILS}
    if info.is_board:
        details["machine_id"] = info.machine_id
        details["tells"] = list(info.signals)
    if info.link is not None:
        ports = {"ports": "shared"} if info.link.shared else {}
        details["link"] = {"rate_mbps": info.link.rate_mbps, "rtt_ms": info.link.rtt_ms, **ports}
    if info.weight_budget_bytes is not None:
        details["memory_budget_bytes"] = info.weight_budget_bytes
    return details


def _provenance(infos: Sequence[DeviceInfo]) -> Provenance:
    """Return ``emulated`` if a machine is in the fleet twice or a device is a virtual board, else ``measured``.

    Several workers of one machine are not a fleet of boards, since they share its cores and need no network.
    """
    machines = [machine_of(info) for info in infos]
    shared = len(set(machines)) < len(machines)
    return "emulated" if shared or any(info.emulated for info in infos) else "measured"


# --- after measuring ------------------------------------------------------------------------------


def record_fields(data: CellData, raw: RawResult, preprocess_ms: float | None) -> Measured:
    """Return the fields of the record of a cell that was measured.

    ``preprocess_ms``: time to decode and preprocess one image in milliseconds, or None if it was not measured.
    """
    cell, export, deployed = data.cell, data.export, raw.deployed
    known = fields_known_before(cell)
    names = device_names(cell.task)
    central = names[deployed.central_index]
    reports = {names[index]: report for index, report in raw.reports.items()}
    samples = _together(raw.samples, central, reports)
    energy = [EnergyReading.model_validate(reading.to_json()) for reading in samples.here.energy]
    members = _members(deployed, names) if cell.task.fleet else []
    window_signals = signals(samples)
    status, reason = _status(cell, samples, energy, members)
    precisions = sorted({str(facts.get("precision")) for facts in deployed.facts.values()})
    return Measured(
        status=status,
        reason=reason,
        device=known.device.model_copy(update={"devices": members}) if cell.task.fleet else known.device,
        runtime=known.runtime.model_copy(
            update={"precision": "+".join(precisions), "facts": dict(deployed.facts)}
        ),
        data=known.data.model_copy(update={"n": len(data.labels)}),
        counts=_counts(export.parts, deployed.places),
        accuracy=_accuracy(data, raw),
        latency=latency_of(samples, preprocess_ms),
        memory=_memory(raw.samples, central, reports),
        energy=energy,
        network=_network(cell, raw, names),
        parts=[_part(part, deployed.places[part.name]) for part in export.parts],
        state=State(
            steady=samples.warmup.steady,
            window_s=samples.trace.window_ns / 1e9,
            cooled=samples.cooled,
            machine=samples.here.states,
            problems=list(samples.here.problems),
            no_meter=cell.task.no_meter,
        ),
        flags=flags_of(window_signals),
        signals=window_signals,
        lineage=[LineageStep.model_validate(to_json(step)) for step in export.lineage],
        train=TrainingCost(
            train_s=sum(step.train_s for step in export.lineage),
            image_passes=sum(step.image_passes for step in export.lineage),
            train_macs=sum(step.train_macs for step in export.lineage),
        ),
        window=WindowSignals.model_validate(samples.environment),
        arrays=_arrays(data, raw, samples),
    )


def _together(samples: Samples, central: str, reports: Mapping[str, DeviceReport]) -> Samples:
    """Return the central device's samples, with the reports of the other devices merged into its report by name."""
    if not reports:
        return samples
    here = samples.here.read_on(central)
    for name, report in reports.items():
        here = here.merged(report.of_device(name))
    return replace(samples, here=here)


def _status(
    cell: Cell, samples: Samples, energy: Sequence[EnergyReading], members: Sequence[FleetMember]
) -> tuple[Literal["ok", "partial"], str]:
    """Return the status of a record and the reason for it.

    It is ``partial`` if answers are missing, or if the suite requires energy and there is none; else ``ok``.
    """
    if samples.parts.outcome is not None:
        lost = int((samples.parts.outcome == 2).sum())
        if lost:
            return "partial", f"{lost} of {len(samples.parts.outcome)} queries were not answered in time"
    if cell.task.measure.energy != "require":
        return "ok", ""
    readings = readings_of(energy, members)
    if any(map(has_figure, readings)):
        return "ok", ""
    why = [
        f"{reading.meter}: {reading.withheld.get('gross') or reading.withheld['net']}" for reading in readings
    ]
    return "partial", f"no energy, which is required: {', '.join(why)}"


def _arrays(data: CellData, raw: RawResult, samples: Samples) -> dict[str, NDArray[Any] | int]:
    """Return the raw samples by the names that docs/results.md lists."""
    optional = {
        "lasting_ns": samples.lasting_ns,
        "queue_ns": samples.trace.queue_ns,
        "late_ns": samples.trace.late_ns,
        "marks": samples.trace.marks,
        "outcome": samples.parts.outcome,
        "oracle": raw.predictions.oracle,
        "no_input_ns": None if raw.no_input is None else raw.no_input.trace.latency_ns,
    }
    return {
        "latency_ns": samples.trace.latency_ns,
        "warmup_ns": samples.warmup.latency_ns,
        "first_ns": samples.first_ns,
        "predictions": raw.predictions.predictions,
        "labels": data.labels,
        **samples.parts.timeline,
        **samples.here.meters,
        **{name: values for name, values in optional.items() if values is not None},
    }


def _accuracy(data: CellData, raw: RawResult) -> Accuracy:
    labels, predicted = data.labels, raw.predictions
    oracle = predicted.oracle
    of_split = {} if oracle is None else {"top1_oracle": float((oracle == labels).mean() * 100)}
    return Accuracy(
        top1=float((predicted.predictions == labels).mean() * 100),
        top5=float((predicted.rank < 5).mean() * 100) if data.export.classes > 5 else None,
        **of_split,
        n=len(labels),
        on=raw.on,
        parity=raw.parity,
        window=raw.window,
        missing=raw.robustness,
    )


def _counts(parts: Sequence[ExportedPart], places: Mapping[str, int]) -> Counts:
    """Return totals over the parts, fusion included. ``weight_bytes`` counts the weights in the exported files."""
    per_device: dict[int, int] = {}
    for part in parts:
        device = places[part.name]
        per_device[device] = per_device.get(device, 0) + part.artifact.weight_bytes
    return Counts(
        params=sum(part.counts.params for part in parts),
        macs=sum(part.counts.macs for part in parts),
        macs_linear=sum(part.counts.macs_linear for part in parts),
        weight_bytes=sum(part.artifact.weight_bytes for part in parts),
        weight_bytes_max_device=max(per_device.values()),
        activation_bytes=max(part.counts.activation_bytes for part in parts),
    )


def _part(part: ExportedPart, device: int) -> PartBlock:
    counts = {**asdict(part.counts), "weight_bytes": part.artifact.weight_bytes}
    return PartBlock(
        name=part.name, device=device, inputs=list(part.inputs), output=list(part.output.shape), **counts
    )


def _members(deployed: Deployed, names: Sequence[str]) -> list[FleetMember]:
    """Return the devices that took part: name, hardware, machine and parts of each."""
    return [
        FleetMember(
            name=names[index],
            model=device.info.model,
            machine=machine_of(device.info),
            parts=[part for part, place in deployed.places.items() if place == index],
        )
        for index, device in sorted(deployed.devices.items())
    ]


def _memory(samples: Samples, central: str, reports: Mapping[str, DeviceReport]) -> Memory:
    """Return the memory of the worker with the largest peak, and for a fleet also the memory of every worker."""
    if not reports:
        return Memory.model_validate(samples.here.memory)
    each = {central: samples.here.memory, **{name: report.memory for name, report in reports.items()}}
    fullest = max(each.values(), key=lambda memory: memory.get("process_peak_bytes", -1))
    devices = {name: ProcessMemory.model_validate(memory) for name, memory in each.items()}
    return Memory.model_validate({**fullest, "devices": devices})


def _network(cell: Cell, raw: RawResult, names: Sequence[str]) -> Network:
    """Return bytes, the times of a query's steps, and the ratio of its latency to the lower bound."""
    deployed = raw.deployed
    stated = {
        index: device.info.link for index, device in deployed.devices.items() if device.info.link is not None
    }
    network = network_of(raw.samples, deployed.graph, deployed.places, deployed.central_index, names, stated)
    if network.empty:
        return network
    if raw.no_input is not None:
        summary = latency_summary(raw.no_input)
        no_input = NoInput(
            n=summary.n, p50_ms=summary.p50_ms, p90_ms=summary.p90_ms, throughput_ips=summary.throughput_ips
        )
        network = network.model_copy(update={"no_input": no_input})
    measure, bound, p50_ms = cell.task.measure, network.critical_path_ms, latency_summary(raw.samples).p50_ms
    if bound and p50_ms and measure.scenario == "single-stream" and measure.in_flight == 1:
        network = network.model_copy(update={"over_bound": p50_ms / bound})
    return network

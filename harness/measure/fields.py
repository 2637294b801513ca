"""What was measured of a cell -> the fields of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.machine.energy.fleet import has_figure, readings_of
from harness.machine.environment import machine_of
from harness.measure.cell_data import CellData
from harness.measure.deploy import Deployed, names_of
from harness.measure.flags import flags
from harness.measure.latency import latency_summary
from harness.measure.network import network_of
from harness.measure.parity import Parity
from harness.types import DeviceInfo, DeviceReport, Provenance, Samples
from harness.types.artifacts import ExportedPart
from harness.types.blocks import FleetMember
from harness.types.figures import EnergyReading
from harness.types.plain import to_json
from harness.types.plan import Cell

__all__ = ["Measured", "content", "described"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What measuring one cell gave, raw.

    ``beside``: by device, what it saw of the central node's window; ``no_input``: a window without the input's
    transfer; ``on``: where ``answers`` were evaluated; ``missing``: a record's ``accuracy.missing``.
    """

    samples: Samples
    beside: Mapping[int, DeviceReport]
    no_input: Samples | None
    parity: Parity
    on: str
    answers: Mapping[str, Any]
    missing: Mapping[str, Any]
    deployed: Deployed


def content(data: CellData, measured: Measured, preprocess_ms: float | None) -> dict[str, Any]:
    """Return the fields of a cell's record, and ``arrays`` of raw samples."""
    cell, export, labels = data.cell, data.export, data.labels
    deployed, answers = measured.deployed, measured.answers
    names = names_of(cell.task)
    beside = {names[index]: seen for index, seen in measured.beside.items()}
    samples = _together(measured.samples, names[deployed.central_index], beside)
    predictions = answers["predictions"]
    n = len(labels)
    top5 = (answers["rank"] < 5).mean() * 100 if export.classes > 5 else None
    told = {"told": answers["told"]} if "told" in answers else {}
    oracle = {"top1_oracle": float((told["told"] == labels).mean() * 100)} if told else {}
    base = described(cell)
    devices = _devices(deployed, names) if cell.task.fleet else []
    facts, places = deployed.facts, deployed.places
    precisions = sorted({str(fact.get("precision")) for fact in facts.values()})
    extra = {
        name: values
        for name in ("lasting_ns", "queue_ns", "late_ns", "outcome")
        if (values := getattr(samples, name)) is not None
    }
    if measured.no_input is not None:
        extra["no_input_ns"] = measured.no_input.latency_ns
    arrays = {
        "latency_ns": samples.latency_ns,
        "warmup_ns": samples.warmup_ns,
        "first_ns": samples.first_ns,
        "predictions": predictions,
        **told,
        "labels": labels,
        **samples.timeline,
        **samples.meters,
        **extra,
    }
    return {
        **_partial(cell, samples, devices),
        "arrays": arrays,
        "window": dict(samples.environment),
        "device": {**base["device"], "devices": devices} if cell.task.fleet else base["device"],
        "runtime": {**base["runtime"], "precision": "+".join(precisions), "facts": dict(facts)},
        "data": {**base["data"], "n": n},
        "counts": _counts(export.parts, places),
        "accuracy": {
            "top1": float((predictions == labels).mean() * 100),
            "top5": None if top5 is None else float(top5),
            **oracle,
            "n": n,
            "on": measured.on,
            "parity": asdict(measured.parity),
            "missing": measured.missing,
        },
        "latency": {
            **latency_summary(samples, preprocess_ms),
            **_queue(samples),
            "sustained": dict(samples.sustained),
            "reference": dict(samples.reference),
        },
        "energy": [dict(reading) for reading in samples.energy],
        "memory": _memory(measured.samples, names[deployed.central_index], beside),
        "network": _network(cell, measured, names),
        "parts": [
            {
                "name": part.name,
                "device": places[part.name],
                "inputs": list(part.inputs),
                **asdict(part.counts),
                "weight_bytes": part.artifact.weight_bytes,
                "output": list(part.output.shape),
            }
            for part in export.parts
        ],
        "state": {
            "steady": samples.steady,
            "window_s": samples.window_ns / 1e9,
            "cooled": samples.cooled,
            "machine": samples.states,
            "problems": list(samples.problems),
            "no_meter": cell.task.no_meter,
        },
        "flags": flags(samples),
        "lineage": to_json(export.lineage),
        "train": {
            key: sum(getattr(step, key) for step in export.lineage)
            for key in ("train_s", "image_passes", "train_macs")
        },
    }


def _together(samples: Samples, central: str, beside: Mapping[str, DeviceReport]) -> Samples:
    """The central node's samples with what the other devices saw of the window, by device."""
    if not beside:
        return samples
    return replace(
        samples,
        energy=[
            *({**reading, "device": central} for reading in samples.energy),
            *({**reading, "device": name} for name, seen in beside.items() for reading in seen.energy),
        ],
        states={
            **samples.states,
            **{
                f"{watch} on {name}": told
                for name, seen in beside.items()
                for watch, told in seen.states.items()
            },
        },
        meters={
            **samples.meters,
            **{
                f"{key} on {name}": values
                for name, seen in beside.items()
                for key, values in seen.meters.items()
            },
        },
        problems=[
            *samples.problems,
            *(f"{name}: {line}" for name, seen in beside.items() for line in seen.problems),
        ],
    )


def _devices(deployed: Deployed, names: list[str]) -> list[dict[str, Any]]:
    """Who took part: name, hardware, machine and parts of each device."""
    return [
        {
            "name": names[index],
            "model": device.info.model,
            "machine": machine_of(device.info.details),
            "parts": [part for part, place in deployed.places.items() if place == index],
        }
        for index, device in sorted(deployed.devices.items())
    ]


def _memory(samples: Samples, central: str, beside: Mapping[str, DeviceReport]) -> dict[str, Any]:
    """The fullest worker's memory; of a fleet also every worker's."""
    if not beside:
        return dict(samples.memory)
    each = {central: dict(samples.memory), **{name: dict(seen.memory) for name, seen in beside.items()}}
    worst = max(each.values(), key=lambda one: one.get("process_peak_bytes", -1))
    return {**worst, "devices": each}


def _network(cell: Cell, measured: Measured, names: list[str]) -> dict[str, Any]:
    """Bytes, where a query's time went, and how near its latency comes to the bound."""
    deployed = measured.deployed
    stated = {
        index: link for index, device in deployed.devices.items() if (link := device.info.details.get("link"))
    }
    found = network_of(
        measured.samples, deployed.graph, deployed.places, deployed.central_index, names, stated
    )
    if not found:
        return {}
    summary = latency_summary(measured.samples)
    if measured.no_input is not None:
        found["no_input"] = {
            key: latency_summary(measured.no_input)[key]
            for key in ("n", "p50_ms", "p90_ms", "throughput_ips")
        }
    bound = found["critical_path_ms"]
    measure = cell.task.measure
    if bound and summary["p50_ms"] and measure.scenario == "single-stream" and measure.in_flight == 1:
        found["over_bound"] = summary["p50_ms"] / bound
    return found


def _queue(samples: Samples) -> dict[str, float]:
    """Of the server scenario: what queries waited, and the load's share of what can be answered (1: too much)."""
    if samples.queue_ns is None or samples.late_ns is None or samples.target_qps is None:
        return {}
    service_s = float((samples.latency_ns - samples.queue_ns).mean()) / 1e9
    return {
        "achieved_qps": len(samples.latency_ns) / (samples.window_ns / 1e9),
        "queue_mean_ms": float(samples.queue_ns.mean()) / 1e6,
        "late_max_ms": float(samples.late_ns.max()) / 1e6,
        "utilisation": service_s * samples.target_qps,
    }


def _partial(cell: Cell, samples: Samples, devices: list[dict[str, Any]]) -> dict[str, str]:
    """Status and reason of a cell that lacks answers, or the energy that its suite requires."""
    lost = 0 if samples.outcome is None else int((samples.outcome == 2).sum())
    if lost and samples.outcome is not None:
        return {
            "status": "partial",
            "reason": f"{lost} of {len(samples.outcome)} queries were not answered in time",
        }
    if cell.task.measure.energy != "require":
        return {}
    readings = readings_of(
        [EnergyReading.model_validate(reading) for reading in samples.energy],
        [FleetMember.model_validate(device) for device in devices],
    )
    if any(map(has_figure, readings)):
        return {}
    why = [f"{one.meter}: {one.withheld.get('gross') or one.withheld['net']}" for one in readings]
    return {"status": "partial", "reason": f"no energy, which is required: {', '.join(why)}"}


def _counts(parts: Sequence[ExportedPart], nodes: Mapping[str, int]) -> dict[str, int]:
    """Totals over the parts, fusion included; ``weight_bytes`` are those of the exported files."""
    per_device: dict[int, int] = {}
    for part in parts:
        device = nodes[part.name]
        per_device[device] = per_device.get(device, 0) + part.artifact.weight_bytes
    totals = {
        key: sum(getattr(part.counts, key) for part in parts) for key in ("params", "macs", "macs_linear")
    }
    return {
        **totals,
        "weight_bytes": sum(part.artifact.weight_bytes for part in parts),
        "weight_bytes_max_device": max(per_device.values()),
        "activation_bytes": max(part.counts.activation_bytes for part in parts),
    }


_METERS = ("meters", "external")
_OF_FLEETS = ("in_flight", "deadline", "on_missing")
_IN_SECONDS = {key: f"{key}_s" for key in ("min_time", "max_time", "idle_time", "sustained", "deadline")}


def described(cell: Cell) -> dict[str, Any]:
    """What a cell's record says even if the cell failed: where and how it was to be measured."""
    task = cell.task
    infos, data = task.infos, task.data
    first = infos[task.central] if len(infos) > task.central else (infos[0] if infos else None)
    return {
        "device": {
            "name": task.device,
            "backend": first.backend if first else task.specs[0].backend,
            "model": " + ".join(sorted({info.model for info in infos})),
            "kind": first.kind if first else "",
            "nodes": len(task.specs),
            "cores": first.cores if first else None,
            "memory_bytes": first.memory_bytes if first else None,
            "details": {key: value for key, value in first.details.items() if key not in _METERS}
            if first
            else {},
            **({"input": task.input} if task.fleet else {}),
        },
        "runtime": {**to_json(task.runtime), "precision": None, "facts": {}},
        "scenario": {
            "name": task.measure.scenario,
            "threads": task.specs[0].threads,
            **{
                _IN_SECONDS.get(key, key): value
                for key, value in to_json(task.measure).items()
                if key not in ("scenario", "repeats") and (task.fleet or key not in _OF_FLEETS)
            },
        },
        "data": {
            "name": data.name,
            "task": "image-classification",
            "split": "test",
            "classes": data.classes,
            "shape": list(data.shape),
            "fingerprint": data.fingerprint,
            "n": None,
            "note": data.note,
            "normalize": data.choice.normalize,
        },
        "provenance": _provenance(infos),
    }


def _provenance(infos: Sequence[DeviceInfo]) -> Provenance:
    """Workers of one machine stand in for boards: neither network nor contention are a fleet's."""
    machines = [machine_of(info.details) for info in infos]
    shared = len(set(machines)) < len(machines)
    return "emulated" if shared or any(info.emulated for info in infos) else "measured"

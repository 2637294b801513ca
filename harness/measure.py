"""One cell, measured: deploy its parts, generate the load, check parity, evaluate accuracy.

Latency, energy and memory come from the same worker processes and window. Accuracy is that of the exported artifact,
at the batch size of the scenario: on the device, or on this host where a part runs on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.accuracy import (
    Evaluations,
    Infer,
    check_parity,
    droppable,
    evaluate,
    host,
    missing_block,
    without,
)
from harness.artifacts import Store
from harness.data import normalise
from harness.deploy import Deployed, deploy, graph_of, names_of
from harness.errors import BoardLost, CellError, HarnessError
from harness.load import per_query
from harness.network import network_of
from harness.parity import Parity
from harness.plan import Cell, digest
from harness.plugins import Plugins
from harness.prepare import parity_indices
from harness.results import latency_summary
from harness.state import flags
from harness.stats import EARLY_STOPPING_MIN
from harness.types import IMAGE, Beside, Load, Provenance, RuntimeEntry, Samples

__all__ = ["CellFailure", "CellLost", "Evaluations", "described", "measure_cell"]

RESIDENT_SHARE = 4
"""The window without the input's transfer is shorter than the other by this factor."""


class CellFailure(CellError):
    """A cell could not be measured; it becomes a failed record."""


class CellLost(CellFailure):
    """A board does not answer (any more): the cell is tried again when it is back. ``board`` is its name."""

    def __init__(self, message: str, *, board: str) -> None:
        super().__init__(message, stage="measure")
        self.board = board


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Raw results of one cell. ``beside``: by device index, what it saw; ``counted``: see :func:`accuracy.without`."""

    samples: Samples
    beside: Mapping[int, Beside]
    no_input: Samples | None
    parity: Parity
    on: str
    answers: Mapping[str, Any]
    missing: Mapping[str, Any]
    deployed: Deployed


def measure_cell(
    cell: Cell, plugins: Plugins, store: Store, evaluations: Evaluations, preprocess_ms: float | None
) -> dict[str, Any]:
    """Measure one cell in fresh worker processes; the fields of its record, and ``arrays`` of raw samples.

    Raises:
        CellLost: a board does not answer (any more).
        CellFailure: a worker died, an artifact did not load, or parity was broken.
    """
    try:
        return _measure(cell, plugins, store, evaluations, preprocess_ms)
    except CellFailure:
        raise
    except CellError as error:
        raise CellFailure(str(error), stage=error.stage, plugin=error.plugin) from error
    except BoardLost as error:
        raise CellLost(str(error), board=error.board) from error
    except HarnessError as error:
        raise CellFailure(str(error), stage="measure") from error
    except MemoryError:
        raise CellFailure("out of memory", stage="measure") from None
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise CellFailure(text, stage="measure") from error


def _measure(
    cell: Cell, plugins: Plugins, store: Store, evaluations: Evaluations, preprocess_ms: float | None
) -> dict[str, Any]:
    import numpy as np

    task = cell.task
    export, data = store.meta(cell.export), store.meta(cell.data)
    images = np.load(store.folder(cell.data) / "images.npy", mmap_mode="r")
    labels = np.load(store.folder(cell.data) / "labels.npy")
    reference = np.load(store.folder(cell.export) / "reference.npy")
    picked = normalise(np.asarray(images[parity_indices(len(images))]), data["mean"], data["std"])
    runtime = plugins.runtimes.get(task["runtime"]["name"]).entry
    tolerance = runtime.tolerance(runtime.params(**task["runtime"]["params"]))
    load = _load(task, cell, len(labels))
    with ExitStack() as stack:
        deployed = deploy(cell, export, plugins, store, stack)
        samples, beside = deployed.measure(load, picked)
        no_input = deployed.central.measure(_resident(load), picked) if _sends_images(deployed, load) else None
        infer = Infer(deployed.central.infer, load.batch)
        parity = check_parity(infer, picked, reference, tolerance)
        if not parity.ok:
            raise CellFailure(_broken(parity, runtime.name), stage="parity")
        on = "host" if deployed.remote and "cpu" in runtime.devices else "device"
        if on == "device":
            answers = _answers(cell, export, images, labels, data, evaluations, infer)
    if on == "host":  # the boards are not held meanwhile
        answers = _answers_here(cell, export, images, labels, data, evaluations, store, runtime)
    measured = _Measured(
        samples=samples, beside=beside, no_input=no_input, parity=parity, on=on, answers=answers,
        missing=_without_parts(cell, export, images, labels, data, evaluations, store, runtime), deployed=deployed,
    )  # fmt: skip
    return _content(cell, export, measured, labels, preprocess_ms)


def _load(task: Mapping[str, Any], cell: Cell, n: int) -> Load:
    """The load of a cell; ``n`` images are in the test split."""
    measure = task["measure"]
    cool = measure["cool_down"] or {"below": None, "limit": 0.0}
    load = Load(
        scenario=measure["scenario"], batch=measure["batch"], streams=measure["streams"],
        target_qps=measure["target_qps"], seed=1000 * cell.seed + cell.repeat, generator=measure["generator"],
        min_time_s=measure["min_time"], min_queries=measure["min_queries"], max_time_s=measure["max_time"],
        warmup=measure["warmup"], sustained_s=measure["sustained"], idle_s=measure["idle_time"],
        energy_method=measure["preset"], energy_error=measure["energy_error"],
        cool_below_c=cool["below"], cool_limit_s=cool["limit"],
    )  # fmt: skip
    if task["fleet"]:
        load = replace(
            load, in_flight=measure["in_flight"], deadline_s=measure["deadline"], on_missing=measure["on_missing"]
        )
    if measure["passes"]:
        return replace(load, min_queries=measure["passes"] * -(-n // per_query(load)))
    return load


def _sends_images(deployed: Deployed, load: Load) -> bool:
    """Whether a window without the input's transfer says something: a closed loop whose images are sent."""
    takers = [part.name for part in deployed.graph.parts if IMAGE in part.inputs]
    sent = any(deployed.places[name] != deployed.central_index for name in takers)
    return sent and load.scenario in ("single-stream", "multi-stream") and load.generator == "harness"


def _resident(load: Load) -> Load:
    """A shorter window for latency alone, with the images on the devices before it begins."""
    return replace(
        load, resident=True, min_time_s=load.min_time_s / RESIDENT_SHARE,
        min_queries=max(EARLY_STOPPING_MIN[50], load.min_queries // RESIDENT_SHARE),
        max_time_s=load.max_time_s / RESIDENT_SHARE, warmup="one", sustained_s=None, idle_s=0.0,
        energy_error=None, cool_below_c=None,
    )  # fmt: skip


def _answers(
    cell: Cell,
    export: Mapping[str, Any],
    images: Any,
    labels: Any,
    data: Mapping[str, Any],
    evaluations: Evaluations,
    infer: Infer,
) -> Mapping[str, Any]:
    """Answers of the devices on the whole test split, or those that they gave before."""
    task = cell.task
    batch = task["measure"]["batch"]
    key = digest(["evaluation", cell.export, cell.data, task["specs"], task["placement"], task["input"], batch])
    answers = evaluations.get(key)
    if answers is None:
        answers = evaluate(infer, images, labels, data, batch, export["groups"])
        evaluations.put(key, answers, f"{cell.method} seed {cell.seed} on {task['device']}")
    return answers


def _answers_here(
    cell: Cell,
    export: Mapping[str, Any],
    images: Any,
    labels: Any,
    data: Mapping[str, Any],
    evaluations: Evaluations,
    store: Store,
    runtime: RuntimeEntry,
) -> Mapping[str, Any]:
    """Answers of a worker on this host's CPU: one evaluation serves all boards and placements."""
    batch, threads = cell.task["measure"]["batch"], cell.task["threads"]
    key = digest(["evaluation", "host", cell.export, cell.data, threads, batch])
    answers = evaluations.get(key)
    if answers is None:
        with host(export, cell.export, store, runtime, threads) as process:
            process.ask("connect", graph_of(export, {**cell.task, "input": "tensor"}), {})
            infer = Infer(lambda some, size: process.ask("infer", some, size, ()), batch)
            answers = evaluate(infer, images, labels, data, batch, export["groups"])
        evaluations.put(key, answers, f"{cell.method} seed {cell.seed} on the host")
    return answers


def _without_parts(
    cell: Cell,
    export: Mapping[str, Any],
    images: Any,
    labels: Any,
    data: Mapping[str, Any],
    evaluations: Evaluations,
    store: Store,
    runtime: RuntimeEntry,
) -> Mapping[str, Any]:
    """A record's ``accuracy.missing``: accuracy for each number of missing parts, or why there is none."""
    most = cell.task["measure"]["robustness"]
    if most is None:
        return {}
    graph = graph_of(export, {**cell.task, "input": "tensor"})
    if len(graph.parts) == 1:
        return {"why": "one whole model: nothing of it can be missing"}
    if not droppable(graph):
        return {"why": "its edges declare nothing that stands in for a missing part"}
    if "cpu" not in runtime.devices:
        return {"why": f"runtime {runtime.name} does not run on this host's CPU"}
    number, seed = int(most.removeprefix("drop-")), cell.seed
    key = digest(["missing", cell.export, cell.data, number, seed])
    counted = evaluations.get(key)
    if counted is None:
        with host(export, cell.export, store, runtime, cell.task["threads"]) as process:
            counted = without(process, graph, images, labels, data, number, seed)
        evaluations.put(key, counted, f"{cell.method} seed {cell.seed} without parts")
    return missing_block(graph, counted, len(labels), number, seed, export)


def _broken(parity: Parity, runtime: str) -> str:
    agrees = f"; top-1 agrees on {parity.top1_agreement:.1%}" if parity.top1_agreement is not None else ""
    return f"{runtime} does not answer as the model does: {parity.reason} ({parity.n} samples{agrees})"


def _content(
    cell: Cell, export: Mapping[str, Any], measured: _Measured, labels: Any, preprocess_ms: float | None
) -> dict[str, Any]:
    deployed, answers = measured.deployed, measured.answers
    names = names_of(cell.task)
    beside = {names[index]: seen for index, seen in measured.beside.items()}
    samples = _together(measured.samples, names[deployed.central_index], beside)
    predictions = answers["predictions"]
    n = len(labels)
    top5 = (answers["rank"] < 5).mean() * 100 if export["classes"] > 5 else None
    told = {"told": answers["told"]} if "told" in answers else {}
    oracle = {"top1_oracle": float((told["told"] == labels).mean() * 100)} if told else {}
    base = described(cell)
    facts, places = deployed.facts, deployed.places
    precisions = sorted({str(fact.get("precision")) for fact in facts.values()})
    extra = {
        name: values for name in ("lasting_ns", "queue_ns", "late_ns", "outcome")
        if (values := getattr(samples, name)) is not None
    }  # fmt: skip
    if measured.no_input is not None:
        extra["no_input_ns"] = measured.no_input.latency_ns
    arrays = {
        "latency_ns": samples.latency_ns, "warmup_ns": samples.warmup_ns, "first_ns": samples.first_ns,
        "predictions": predictions, **told, "labels": labels, **samples.timeline, **samples.meters, **extra,
    }  # fmt: skip
    return {
        **_partial(cell, samples),
        "arrays": arrays,
        "window": dict(samples.environment),
        "device": {**base["device"], "devices": _devices(deployed, names)} if cell.task["fleet"] else base["device"],
        "runtime": {**base["runtime"], "precision": "+".join(precisions), "facts": dict(facts)},
        "data": {**base["data"], "n": n},
        "counts": _counts(export["parts"], places),
        "accuracy": {
            "top1": float((predictions == labels).mean() * 100), "top5": None if top5 is None else float(top5),
            **oracle, "n": n, "on": measured.on, "parity": asdict(measured.parity), "missing": measured.missing,
        },
        "latency": {
            **latency_summary(samples, preprocess_ms), **_queue(samples),
            "sustained": dict(samples.sustained), "reference": dict(samples.reference),
        },
        "energy": [dict(reading) for reading in samples.energy],
        "memory": _memory(measured.samples, names[deployed.central_index], beside),
        "network": _network(cell, measured, names),
        "parts": [
            {"name": part["name"], "device": places[part["name"]], "inputs": part["inputs"], **part["counts"],
             "weight_bytes": part["artifact"]["weight_bytes"], "output": part["output"]["shape"]}
            for part in export["parts"]
        ],
        "state": {
            "steady": samples.steady, "window_s": samples.window_ns / 1e9, "cooled": samples.cooled,
            "machine": samples.states, "problems": list(samples.problems), "no_meter": cell.task["no_meter"],
        },
        "flags": flags(samples),
        "lineage": export["lineage"],
        "train": {
            key: sum(step[key] for step in export["lineage"]) for key in ("train_s", "image_passes", "train_macs")
        },
    }  # fmt: skip


def _together(samples: Samples, central: str, beside: Mapping[str, Beside]) -> Samples:
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
            **{f"{watch} on {name}": told for name, seen in beside.items() for watch, told in seen.states.items()},
        },
        meters={
            **samples.meters,
            **{f"{key} on {name}": values for name, seen in beside.items() for key, values in seen.meters.items()},
        },
        problems=[
            *samples.problems, *(f"{name}: {line}" for name, seen in beside.items() for line in seen.problems)
        ],
    )  # fmt: skip


def _devices(deployed: Deployed, names: list[str]) -> list[dict[str, Any]]:
    """Who took part: name, hardware, machine and parts of each device."""
    return [
        {
            "name": names[index], "model": device.info.model, "machine": machine_of(asdict(device.info)),
            "parts": [part for part, place in deployed.places.items() if place == index],
        }
        for index, device in sorted(deployed.devices.items())
    ]  # fmt: skip


def _memory(samples: Samples, central: str, beside: Mapping[str, Beside]) -> dict[str, Any]:
    """The fullest worker's memory; of a fleet also every worker's."""
    if not beside:
        return dict(samples.memory)
    each = {central: dict(samples.memory), **{name: dict(seen.memory) for name, seen in beside.items()}}
    worst = max(each.values(), key=lambda one: one.get("process_peak_bytes", -1))
    return {**worst, "devices": each}


def _network(cell: Cell, measured: _Measured, names: list[str]) -> dict[str, Any]:
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
            key: latency_summary(measured.no_input)[key] for key in ("n", "p50_ms", "p90_ms", "throughput_ips")
        }
    bound = found["critical_path_ms"]
    scenario = cell.task["measure"]
    if bound and summary["p50_ms"] and scenario["scenario"] == "single-stream" and scenario["in_flight"] == 1:
        found["over_bound"] = summary["p50_ms"] / bound
    return found


def _queue(samples: Samples) -> dict[str, float]:
    """Of the server scenario: what queries waited, and the load's share of what can be answered (1: too much)."""
    if samples.queue_ns is None or samples.late_ns is None or samples.target_qps is None:
        return {}
    service_s = float((samples.latency_ns - samples.queue_ns).mean()) / 1e9
    return {
        "achieved_qps": len(samples.latency_ns) / (samples.window_ns / 1e9),
        "queue_mean_ms": float(samples.queue_ns.mean()) / 1e6, "late_max_ms": float(samples.late_ns.max()) / 1e6,
        "utilisation": service_s * samples.target_qps,
    }  # fmt: skip


def _partial(cell: Cell, samples: Samples) -> dict[str, str]:
    """Status and reason of a cell that lacks answers, or the energy that its suite requires."""
    lost = 0 if samples.outcome is None else int((samples.outcome == 2).sum())
    if lost and samples.outcome is not None:
        return {"status": "partial", "reason": f"{lost} of {len(samples.outcome)} queries were not answered in time"}
    if cell.task["measure"]["energy"] != "require":
        return {}
    if any(one["energy_gross_mj"] is not None or one["energy_net_mj"] is not None for one in samples.energy):
        return {}
    why = [
        f"{one['meter']}: {one['withheld'].get('gross') or one['withheld']['net']}" for one in samples.energy
    ]
    return {"status": "partial", "reason": f"no energy, which is required: {', '.join(why)}"}


def _counts(parts: list[Mapping[str, Any]], nodes: Mapping[str, int]) -> dict[str, int]:
    """Totals over the parts, fusion included; ``weight_bytes`` are those of the exported files."""
    per_device: dict[int, int] = {}
    for part in parts:
        device = nodes[part["name"]]
        per_device[device] = per_device.get(device, 0) + part["artifact"]["weight_bytes"]
    totals = {key: sum(part["counts"][key] for part in parts) for key in ("params", "macs", "macs_linear")}
    return {
        **totals,
        "weight_bytes": sum(part["artifact"]["weight_bytes"] for part in parts),
        "weight_bytes_max_device": max(per_device.values()),
        "activation_bytes": max(part["counts"]["activation_bytes"] for part in parts),
    }


_IN_SECONDS = {key: f"{key}_s" for key in ("min_time", "max_time", "idle_time", "sustained", "deadline")}


def described(cell: Cell) -> dict[str, Any]:
    """What a cell's record says even if the cell failed: where and how it was to be measured."""
    task = cell.task
    infos: list[Mapping[str, Any]] = task["infos"]
    first = infos[task["central"]] if len(infos) > task["central"] else (infos[0] if infos else {})
    measure, data = task["measure"], task["data"]
    models = sorted({str(info["model"]) for info in infos})
    return {
        "device": {
            "name": task["device"], "backend": first.get("backend", task["specs"][0]["backend"]),
            "model": " + ".join(models), "kind": first.get("kind", ""), "nodes": len(task["specs"]),
            "cores": first.get("cores"), "memory_bytes": first.get("memory_bytes"), "details": first.get("details", {}),
        },
        "runtime": {**task["runtime"], "precision": None, "facts": {}},
        "scenario": {
            "name": measure["scenario"], "threads": task["specs"][0]["threads"],
            **{_IN_SECONDS.get(key, key): value for key, value in measure.items() if key not in ("scenario", "repeats")},
        },
        "data": {
            "name": data["name"], "task": "image-classification", "split": "test", "classes": data["classes"],
            "shape": data["shape"], "fingerprint": data["fingerprint"], "n": None, "note": data["note"],
            "normalize": data["choice"].get("normalize"),
        },
        "provenance": _provenance(infos),
    }  # fmt: skip


def _provenance(infos: list[Mapping[str, Any]]) -> Provenance:
    """Workers of one machine stand in for boards: neither network nor contention are a fleet's."""
    machines = [machine_of(info) for info in infos]
    shared = len(set(machines)) < len(machines)
    return "emulated" if shared or any(info["emulated"] for info in infos) else "measured"


def machine_of(info: Mapping[str, Any]) -> str:
    """The machine of a device (a ``DeviceInfo`` as JSON), as its backend tells it; empty for this one."""
    return str(info["details"].get("machine_id", ""))

"""One cell, measured: deploy its parts, generate the load, check parity, evaluate accuracy.

Latency, energy and memory come from the same worker process and window. Accuracy is that of the exported artifact,
on the device, at the batch size of the scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.artifacts import Store
from harness.data import normalise
from harness.errors import CellError, DeviceError, HarnessError
from harness.load import per_query
from harness.parity import Parity, compare
from harness.plan import Cell, digest
from harness.plugins import Plugins
from harness.prepare import parity_indices
from harness.results import latency_summary
from harness.state import flags
from harness.types import (
    Artifact,
    Device,
    DeviceSpec,
    Load,
    MeterInfo,
    MeterUse,
    Monitor,
    Samples,
    TensorSpec,
)

__all__ = ["CellFailure", "Evaluations", "described", "measure_cell"]


class CellFailure(CellError):
    """A cell could not be measured; it becomes a failed record."""


@dataclass
class Evaluations:
    """Predictions on the whole test split, kept per artifact, device, threads and batch."""

    store: Store

    def get(self, key: str) -> Mapping[str, Any] | None:
        import numpy as np

        if not self.store.has(key):
            return None
        with np.load(self.store.folder(key) / "evaluation.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}

    def put(self, key: str, arrays: Mapping[str, Any], label: str) -> None:
        import json

        import numpy as np

        with self.store.making(key) as folder:
            if folder is not None:
                np.savez(folder / "evaluation.npz", **arrays)
                about = {"stage": "evaluate", "entry": "", "label": label}
                (folder / "meta.json").write_text(json.dumps({"kind": "evaluation", "about": about}))


def measure_cell(
    cell: Cell, plugins: Plugins, store: Store, evaluations: Evaluations, preprocess_ms: float | None
) -> dict[str, Any]:
    """Measure one cell in fresh worker processes; the fields of its record, and ``arrays`` of raw samples.

    Raises:
        CellFailure: a worker died, an artifact did not load, or parity was broken.
    """
    try:
        return _measure(cell, plugins, store, evaluations, preprocess_ms)
    except CellFailure:
        raise
    except CellError as error:
        raise CellFailure(str(error), stage=error.stage, plugin=error.plugin) from error
    except (DeviceError, HarnessError) as error:
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
    params = runtime.params(**task["runtime"]["params"])
    load = _load(task["measure"], cell, len(labels))
    with ExitStack() as stack:
        central, facts, nodes = _deploy(cell, export, plugins, store, stack)
        samples = central.measure(load, picked)
        parity = _parity(central, picked, reference, load.batch, runtime.tolerance(params))
        if not parity.ok:
            raise CellFailure(_broken(parity, runtime.name), stage="parity")
        key = digest(["evaluation", cell.export, cell.data, task["specs"], task["placement"], load.batch])
        answers = evaluations.get(key)
        if answers is None:
            answers = _evaluate(central, images, labels, data, load.batch, export["groups"])
            evaluations.put(key, answers, f"{cell.method} seed {cell.seed} on {task['device']}")
    return _content(cell, export, samples, parity, answers, labels, facts, nodes, preprocess_ms)


def _load(measure: Mapping[str, Any], cell: Cell, n: int) -> Load:
    """The load of a cell; ``n`` images are in the test split."""
    cool = measure["cool_down"] or {"below": None, "limit": 0.0}
    load = Load(
        scenario=measure["scenario"], batch=measure["batch"], streams=measure["streams"],
        target_qps=measure["target_qps"], seed=1000 * cell.seed + cell.repeat, generator=measure["generator"],
        min_time_s=measure["min_time"], min_queries=measure["min_queries"], max_time_s=measure["max_time"],
        warmup=measure["warmup"], sustained_s=measure["sustained"], idle_s=measure["idle_time"],
        energy_method=measure["preset"], energy_error=measure["energy_error"],
        cool_below_c=cool["below"], cool_limit_s=cool["limit"],
    )  # fmt: skip
    if measure["passes"]:
        return replace(load, min_queries=measure["passes"] * -(-n // per_query(load)))
    return load


def _deploy(
    cell: Cell, export: Mapping[str, Any], plugins: Plugins, store: Store, stack: ExitStack
) -> tuple[Device, dict[str, Any], dict[str, int]]:
    """Load every part on its device; the central device, the sessions' facts and part -> device index."""
    task = cell.task
    runtime = plugins.runtimes.get(task["runtime"]["name"]).entry
    placement = task["placement"] or {}
    nodes = {part["name"]: int(placement.get(part["name"], 0)) for part in export["parts"]}
    devices: dict[int, Device] = {}
    for index in sorted({task["central"], *nodes.values()}):
        spec, monitor = task["specs"][index], task["monitor"]
        backend = plugins.backends.get(spec["backend"]).entry
        device = backend.open(
            DeviceSpec(
                name=spec["name"], backend=spec["backend"], params=backend.params(**spec["params"]),
                threads=spec["threads"], monitor=_monitor(monitor if index == task["central"] else monitor["beside"].get(str(index), {})),
            )
        )  # fmt: skip
        devices[index] = stack.enter_context(device)
    facts = {}
    for part in export["parts"]:
        artifact = artifact_of(part, store, cell.export)
        facts[part["name"]] = dict(devices[nodes[part["name"]]].load(part["name"], artifact, runtime))
    central = devices[task["central"]]
    central.connect(
        {part["name"]: tuple(part["inputs"]) for part in export["parts"]},
        {name: devices[index] for name, index in nodes.items() if index != task["central"]},
    )
    return central, facts, nodes


def _monitor(monitor: Mapping[str, Any]) -> Monitor:
    uses = (MeterUse(info=MeterInfo(**use["info"]), open=use["open"]) for use in monitor.get("meters", ()))
    return Monitor(meters=tuple(uses), watches=monitor.get("watches", {}))


def artifact_of(part: Mapping[str, Any], store: Store, key: str) -> Artifact:
    """The artifact of an exported part, with its path in the store."""
    stored = part["artifact"]
    return Artifact(
        path=store.folder(key) / stored["path"], runtime=stored["runtime"], precision=stored["precision"],
        weight_bytes=stored["weight_bytes"], meta=stored["meta"],
        inputs=tuple(TensorSpec(shape=tuple(i["shape"]), dtype=i["dtype"]) for i in stored["inputs"]),
        output=TensorSpec(shape=tuple(stored["output"]["shape"]), dtype=stored["output"]["dtype"]),
    )  # fmt: skip


def _parity(device: Device, images: Any, reference: Any, batch: int, tolerance: float) -> Parity:
    import numpy as np

    chunk = _chunk(images, batch)
    got = [device.infer(images[start : start + chunk], batch) for start in range(0, len(images), chunk)]
    return compare(reference, np.concatenate(got), tolerance)


def _chunk(images: Any, batch: int, most_bytes: int = 2**25) -> int:
    """Images sent to a device at once, as float32: whole batches, of at most 32 MiB or one batch."""
    fitting = most_bytes // (4 * images[0].size)
    return int(max(batch, fitting // batch * batch))


def _broken(parity: Parity, runtime: str) -> str:
    agrees = f"; top-1 agrees on {parity.top1_agreement:.1%}" if parity.top1_agreement is not None else ""
    return f"{runtime} does not answer as the model does: {parity.reason} ({parity.n} samples{agrees})"


def _evaluate(
    device: Device, images: Any, labels: Any, data: Mapping[str, Any], batch: int, groups: Any
) -> Mapping[str, Any]:
    """Class ranks on the whole test split: ``predictions`` int32 [n], ``rank`` of the true class int32 [n].

    With ``groups``, also ``told`` int32 [n]: the prediction among the classes of the true one's group.
    """
    import numpy as np

    predictions, ranks, told = [], [], []
    classes = sum(map(len, groups))
    foreign = np.ones((classes, classes), bool)
    for group in groups:
        foreign[np.ix_(group, group)] = False
    chunk = _chunk(images, batch)
    for start in range(0, len(images), chunk):
        ready = normalise(np.asarray(images[start : start + chunk]), data["mean"], data["std"])
        logits = device.infer(ready, batch)
        truth = np.take_along_axis(logits, labels[start : start + len(logits), None], axis=1)
        predictions.append(logits.argmax(axis=1).astype(np.int32))
        ranks.append((logits > truth).sum(axis=1).astype(np.int32))
        if groups:
            within = np.where(foreign[labels[start : start + len(logits)]], -np.inf, logits)
            told.append(within.argmax(axis=1).astype(np.int32))
    answers = {"predictions": np.concatenate(predictions), "rank": np.concatenate(ranks)}
    return {**answers, "told": np.concatenate(told)} if groups else answers


def _content(
    cell: Cell,
    export: Mapping[str, Any],
    samples: Samples,
    parity: Parity,
    answers: Mapping[str, Any],
    labels: Any,
    facts: Mapping[str, Mapping[str, Any]],
    nodes: Mapping[str, int],
    preprocess_ms: float | None,
) -> dict[str, Any]:
    predictions = answers["predictions"]
    n = len(labels)
    top5 = (answers["rank"] < 5).mean() * 100 if export["classes"] > 5 else None
    told = {"told": answers["told"]} if "told" in answers else {}
    oracle = {"top1_oracle": float((told["told"] == labels).mean() * 100)} if told else {}
    base = described(cell)
    precisions = sorted({str(fact.get("precision")) for fact in facts.values()})
    arrays = {
        "latency_ns": samples.latency_ns, "warmup_ns": samples.warmup_ns, "first_ns": samples.first_ns,
        "predictions": predictions, **told, "labels": labels, **samples.timeline, **samples.meters,
        **{
            name: values for name in ("lasting_ns", "queue_ns", "late_ns")
            if (values := getattr(samples, name)) is not None
        },
    }  # fmt: skip
    return {
        **_partial(cell, samples),
        "arrays": arrays,
        "window": dict(samples.environment),
        "runtime": {**base["runtime"], "precision": "+".join(precisions), "facts": dict(facts)},
        "data": {**base["data"], "n": n},
        "counts": _counts(export["parts"], nodes),
        "accuracy": {
            "top1": float((predictions == labels).mean() * 100), "top5": None if top5 is None else float(top5),
            **oracle, "n": n, "on": "device", "parity": asdict(parity),
        },
        "latency": {
            **latency_summary(samples, preprocess_ms), **_queue(samples),
            "sustained": dict(samples.sustained), "reference": dict(samples.reference),
        },
        "energy": [dict(reading) for reading in samples.energy],
        "memory": dict(samples.memory),
        "network": dict(samples.network),
        "parts": [
            {"name": part["name"], "device": nodes[part["name"]], "inputs": part["inputs"], **part["counts"],
             "weight_bytes": part["artifact"]["weight_bytes"], "output": part["output"]["shape"]}
            for part in export["parts"]
        ],
        "state": {
            "steady": samples.steady, "window_s": samples.window_ns / 1e9, "cooled": samples.cooled,
            "machine": samples.states, "problems": list(samples.problems),
            "no_meter": cell.task["monitor"]["no_meter"],
        },
        "flags": flags(samples),
        "lineage": export["lineage"],
        "train": {
            key: sum(step[key] for step in export["lineage"]) for key in ("train_s", "image_passes", "train_macs")
        },
    }  # fmt: skip


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
    """Status and reason of a cell that lacks the energy that its suite requires."""
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


_IN_SECONDS = {key: f"{key}_s" for key in ("min_time", "max_time", "idle_time", "sustained")}


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
        # workers of one machine stand in for boards: the network and the contention are not a fleet's
        "provenance": "emulated" if task["fleet"] else "measured",
    }  # fmt: skip

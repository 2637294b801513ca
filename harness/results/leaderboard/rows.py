"""One row of a board from the records of its cells: every column, and a reason for every null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from harness import stats
from harness.results.leaderboard.energy_columns import energy_columns, scopes_of
from harness.types.columns import COLUMNS
from harness.types.record import Record

__all__ = ["Group", "Why"]


class Why(str):
    """Stands for null: the reason why there is no value."""

    __slots__ = ()


class Group:
    """The records of one row, and the row."""

    def __init__(self, records: list[Record]) -> None:
        self.records = sorted(records, key=lambda r: (r.seed, r.repeat, r.started, r.cell_id, r.run_id))
        self.good = [record for record in self.records if record.good]
        statuses = Counter(record.status for record in self.records)
        status = next(iter(statuses)) if len(statuses) == 1 else "partial" if self.good else "failed"
        self.row: dict[str, Any] = dict.fromkeys(COLUMNS)
        self.row |= {"why": {}, "reason": self._reason(), "status": status}
        first = self.records[0]
        settings: dict[str, Any] = {
            "method": first.method,
            "seeds": len({record.seed for record in self.good}),
            "repeats": max(Counter(record.seed for record in self.good).values(), default=0),
            "nodes": first.device.get("nodes"),
            "device": first.device.get("name"),
            "device_model": first.device.get("model"),
            "runtime": first.runtime.get("name"),
            "batch": first.scenario.get("batch"),
            "load": _load(first.scenario),
            "threads": first.scenario.get("threads"),
            "data": first.data.get("name"),
            "shape": "x".join(map(str, first.data.get("shape") or ())) or None,
            "normalize": first.data.get("normalize"),
            "flags": sorted({flag for record in self.records for flag in record.flags}),
            "machine_id": first.machine_id,
            "method_key": first.method_key,
        }
        for name, value in settings.items():
            self.put(name, Why("not recorded") if value is None else value)
        for name, value in self._measured().items():
            self.put(name, value if self.good else Why(self.row["reason"]))
        self.scopes = scopes_of(self.good)
        self.put_energy(next(iter(self.scopes), None))

    def put_energy(self, scope: str | None) -> None:
        """Set the energy columns to what meters of one scope read."""
        for name, value in energy_columns(self.good, scope).items():
            told = Why(value[0]) if isinstance(value, tuple) else value
            self.put(name, told if self.good else Why(self.row["reason"]))

    def put(self, name: str, value: Any) -> None:
        """Set a column; a :class:`Why` makes it null with that reason."""
        absent = isinstance(value, Why)
        self.row[name] = None if absent else value
        if absent:
            self.row["why"][name] = str(value) or "no reason was recorded"
        else:
            self.row["why"].pop(name, None)

    def _reason(self) -> str:
        """What is wrong with the cells that did not end well: "2 of 7 cells failed: why"."""
        bad = Counter((r.status, r.reason, r.stage) for r in self.records if r.status != "ok")
        total = len(self.records)
        return "; ".join(
            (f"{count} of {total} cells {status}" if total > 1 else status)
            + (f" at {stage}" if stage else "")
            + (f": {reason}" if reason else "")
            for (status, reason, stage), count in bad.items()
        )

    def _measured(self) -> dict[str, Any]:
        by_seed = {seed: [r for r in self.good if r.seed == seed] for seed in {r.seed for r in self.good}}
        top1 = _per_seed(by_seed, lambda r: r.accuracy.get("top1"))
        top5 = _per_seed(by_seed, lambda r: r.accuracy.get("top5"))
        oracle = _per_seed(by_seed, lambda r: r.accuracy.get("top1_oracle"))
        few = any((record.data.get("classes") or 6) <= 5 for record in self.good)
        macs = self._count("macs", 1e9)
        return {
            "top1": fmean(top1) if top1 else Why("accuracy was not evaluated"),
            "top5": fmean(top5) if top5 else Why("five classes or fewer" if few else "not evaluated"),
            "top1_ci": _interval(top1),
            "top1_oracle": fmean(oracle) if oracle else Why("no split whose classes have one sub-model each"),
            "top1_drop1": self._without_one(by_seed),
            "accuracy_on": self._same("accuracy", "on"),
            "precision": self._same("runtime", "precision"),
            **self._latency(),
            "params_m": self._count("params", 1e6),
            "macs_g": macs,
            "macs_linear_g": self._count("macs_linear", 1e9),
            "flops_g": macs if isinstance(macs, Why) else 2 * macs,
            "weights_mb": self._count("weight_bytes", 1e6),
            "weights_mib": self._count("weight_bytes", 2**20),
            "weights_max_device_mb": self._count("weight_bytes_max_device", 1e6),
            "activation_peak_mb": self._count("activation_bytes", 1e6),
            **self._memory(),
            "input_bytes": self._network("input_bytes"),
            "feature_bytes": self._network("feature_bytes"),
            **self._fleet(),
            "train_s": _training(by_seed, "train_s", 1),
            "train_pmacs": _training(by_seed, "train_macs", 1e15),
        }

    def _values(self, block: str, key: str) -> list[Any]:
        found = [getattr(record, block).get(key) for record in self.good]
        return [value for value in found if value is not None]

    def _median(self, block: str, key: str, unit: float = 1, why: str = "not recorded") -> float | Why:
        values = self._values(block, key)
        return median(values) / unit if values else Why(why)

    def _count(self, key: str, unit: float) -> Any:
        return self._median("counts", key, unit)

    def _same(self, block: str, key: str) -> Any:
        values = list(dict.fromkeys(self._values(block, key)))
        if len(values) > 1:
            return Why(f"differs between cells: {', '.join(map(str, values))}")
        return values[0] if values else Why("not recorded")

    def _latency(self) -> dict[str, Any]:
        sizes = self._values("latency", "n")
        most = max(sizes, default=0)
        too_few = {
            q: f"{most} queries in a process; p{q} needs {stats.EARLY_STOPPING_MIN[q]}" for q in (50, 90, 99)
        }
        mean, spread = _pooled([record.latency for record in self.good if record.latency.get("n")])
        return {
            "n": sum(sizes) if most else Why("no latency was measured"),
            **{
                f"latency_p{q}_ms": self._median("latency", f"p{q}_ms", why=why) for q, why in too_few.items()
            },
            "latency_mean_ms": mean,
            "latency_std_ms": spread,
            "first_inference_ms": self._median("latency", "first_ms"),
            "throughput_ips": self._median("latency", "throughput_ips"),
            "preprocess_ms": self._median("latency", "preprocess_ms"),
            "sustained_p50_ms": self._sustained("p50_ms"),
            "slowdown": self._sustained("slowdown"),
        }

    def _sustained(self, key: str) -> Any:
        values = [(record.latency.get("sustained") or {}).get(key) for record in self.good]
        given = [value for value in values if value is not None]
        return median(given) if given else Why("the suite asks for no sustained load")

    def _memory(self) -> dict[str, Any]:
        peaks = [record.memory for record in self.good if record.memory.get("process_peak_bytes") is not None]
        worst = max(peaks, key=lambda memory: memory["process_peak_bytes"], default={})
        return {
            "process_peak_mb": _scaled(worst.get("process_peak_bytes"), 1e6, "not recorded"),
            "baseline_mb": _scaled(worst.get("baseline_bytes"), 1e6, "not recorded"),
            "device_memory_mb": self._device_memory(),
        }

    def _device_memory(self) -> Any:
        """The worst cell's, by the first of these that all cells have; each counts something else."""
        if all(record.device.get("kind") == "cpu" for record in self.good):
            return Why("a CPU has no memory apart")
        for key in ("device_process_bytes", "device_shared_bytes", "device_reserved_peak_bytes"):
            values = self._values("memory", key)
            if values and len(values) == len(self.good):
                return max(values) / 1e6
        return Why("no driver tells this process's share")

    def _network(self, key: str, why: str = "not recorded") -> Any:
        one = self.records[0].device.get("nodes") == 1
        return self._median("network", key, why="one device: nothing is sent" if one else why)

    def _fleet(self) -> dict[str, Any]:
        """Latency without the input's transfer, and how near latency comes to what the parts and links allow."""
        alone = [(record.network.get("no_input") or {}).get("p50_ms") for record in self.good]
        given = [value for value in alone if value is not None]
        return {
            "latency_no_input_p50_ms": median(given) / 1.0
            if given
            else self._network(
                "no_input_p50_ms", "no image is sent, or queries are not sent one after another"
            ),
            "critical_path_ms": self._network("critical_path_ms", "a part's compute or a link is not known"),
            "over_bound": self._network(
                "over_bound", "queries are not sent one after another, or no bound is known"
            ),
        }

    def _without_one(self, by_seed: Mapping[int, list[Record]]) -> Any:
        def mean(record: Record) -> float | None:
            levels: list[dict[str, float]] = (record.accuracy.get("missing") or {}).get("levels") or [{}]
            return levels[0].get("mean")

        values = _per_seed(by_seed, mean)
        if values:
            return fmean(values)
        said = {str((record.accuracy.get("missing") or {}).get("why", "")) for record in self.good} - {""}
        return Why("; ".join(sorted(said)) or "the suite does not ask for it (robustness: drop-1)")


def _load(scenario: Mapping[str, Any]) -> str:
    """What of the load its scenario and batch do not say."""
    said = [f"{scenario['streams']} streams"] if scenario.get("name") == "multi-stream" else []
    said += [f"{scenario['target_qps']:g}/s"] if scenario.get("target_qps") else []
    said += [f"{scenario['in_flight']} in flight"] if scenario.get("in_flight", 1) > 1 else []
    said += [f"within {scenario['deadline_s']:g} s"] if scenario.get("deadline_s") else []
    said += ["by LoadGen"] if scenario.get("generator") == "loadgen" else []
    return ", ".join(said) or "as its scenario"


def _per_seed(by_seed: Mapping[int, list[Record]], value: Callable[[Record], float | None]) -> list[float]:
    """One mean per seed, of the seeds that have any value."""
    found = [[v for r in by_seed[seed] if (v := value(r)) is not None] for seed in sorted(by_seed)]
    return [fmean(values) for values in found if values]


def _interval(top1: Sequence[float]) -> Any:
    interval = stats.t_interval(top1)
    if interval is None:
        return Why(f"{len(top1)} seed{'s' if len(top1) != 1 else ''}; an interval needs 3")
    return list(interval)


def _training(by_seed: Mapping[int, list[Record]], key: str, unit: float) -> Any:
    values = _per_seed(by_seed, lambda record: record.train.get(key))
    if not values:
        return Why("not recorded")
    return fmean(values) / unit if any(values) else Why("nothing was trained")


def _scaled(value: float | None, unit: float, why: str) -> Any:
    return Why(why) if value is None else value / unit


def _pooled(cells: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """Mean and standard deviation over all queries of all cells, from each cell's n, mean and deviation."""
    total = sum(cell["n"] for cell in cells)
    if total == 0:
        return Why("no latency was measured"), Why("no latency was measured")
    mean = sum(cell["n"] * cell["mean_ms"] for cell in cells) / total
    if total == 1:
        return mean, Why("one query")
    squares = sum(
        (cell["n"] - 1) * (cell["std_ms"] or 0) ** 2 + cell["n"] * (cell["mean_ms"] - mean) ** 2
        for cell in cells
    )
    return mean, (squares / (total - 1)) ** 0.5

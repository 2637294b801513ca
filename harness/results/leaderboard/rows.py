"""Make one row of a table from the records of its cells: every column, and a reason for every null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from harness import stats
from harness.results.leaderboard.costs import Of, cost_of, device_memory
from harness.results.leaderboard.disturbed import Judged, judged
from harness.results.leaderboard.energy_columns import energy_columns, scopes_of
from harness.results.leaderboard.place import NOWHERE, Place
from harness.results.leaderboard.why import Why
from harness.results.summary import Summary
from harness.results.unnamed import unnamed
from harness.stats.ratios import typical_interval
from harness.types.blocks import ScenarioBlock
from harness.types.columns import COLUMNS, Row, Value
from harness.types.signals import Figure

__all__ = ["Group"]


class Group:
    """The records of one row, and the row. Tier and energy columns are set while the table is ranked.

    ``records`` are in a fixed order. ``good`` are the records with figures. ``scopes`` are the scopes of their energy
    readings, and ``scope`` is that of the energy columns.
    """

    def __init__(self, records: list[Summary], place: Place = NOWHERE) -> None:
        self.place = place
        self.records = sorted(records, key=lambda r: (r.seed, r.repeat, r.started, r.cell_id, r.run_id))
        self.good = [record for record in self.records if record.good]
        self.reason = _reason(self.records)
        self.scopes = scopes_of(self.good)
        self.scope: str | None = next(iter(self.scopes), None)
        self.judged = judged(self.good, self.scope)
        self._values: dict[str, Value] = dict.fromkeys(COLUMNS)
        self._why: dict[str, str] = {}
        self._row: Row | None = None
        statuses = Counter(record.status for record in self.records)
        several = "partial" if self.good else "failed"
        self.put("status", next(iter(statuses)) if len(statuses) == 1 else several)
        for name, value in self._settings().items():
            self.put(name, Why("not recorded") if value is None else value)
        for name, measured in _measured(self.records, self.good, self.judged).items():
            self.put(name, measured if self.good else Why(self.reason))
        self._put_energy()

    @property
    def row(self) -> Row:
        """Return the row in its present state."""
        if self._row is None:
            self._row = Row(
                values=dict(self._values),
                why=dict(self._why),
                reason=self.reason,
                disturbances=self.judged.disturbances,
            )
        return self._row

    def put_energy(self, scope: str | None) -> None:
        """Set the energy columns to the readings of meters with one scope."""
        if scope != self.scope:
            self.scope = scope
            self.judged = judged(self.good, scope)
            self.put("flags", list(self.judged.flags))
            self._put_energy()

    def _put_energy(self) -> None:
        for name, value in energy_columns(self.judged.cells["energy"], self.scope).items():
            self.put(name, value if self.good else Why(self.reason))

    def put(self, name: str, value: Value | Why) -> None:
        """Set a column. A :class:`Why` makes it null with that reason."""
        self._row = None
        if isinstance(value, Why):
            self._values[name] = None
            self._why[name] = str(value) or "no reason was recorded"
        else:
            self._values[name] = value
            self._why.pop(name, None)

    def _settings(self) -> dict[str, Value]:
        """Return the requested settings, which are the same in all cells of the row."""
        first = self.records[0]
        return {
            "method": first.method,
            "seeds": len({record.seed for record in self.good}),
            "repeats": max(Counter(record.seed for record in self.good).values(), default=0),
            "nodes": first.device.nodes,
            "device": first.device.name,
            "device_model": first.device.model,
            "runtime": first.runtime.name,
            "batch": first.scenario.batch,
            "load": _load(first.scenario),
            "threads": first.scenario.threads,
            "data": first.data.name,
            "shape": "x".join(map(str, first.data.shape or ())) or None,
            "normalize": first.data.normalize,
            "resize": first.data.resize,
            "flags": list(self.judged.flags),
            "notes": list(dict.fromkeys(note for record in self.records for note in record.start_notes)),
            "machine_id": first.machine_id,
            "method_key": first.method_key,
            "folder": self.place.folder,
            "run": self.place.run,
            "started": min(record.started for record in self.records)[:16].replace("T", " ") or None,
        }


def _reason(records: Sequence[Summary]) -> str:
    """Return a text about the cells that are not ok, such as "2 of 7 cells failed: reason"."""
    bad = Counter(
        (r.status, r.reason, r.stage, unnamed(r.plugin, r.reason)) for r in records if r.status != "ok"
    )
    total = len(records)
    return "; ".join(
        (f"{count} of {total} cells {status}" if total > 1 else status)
        + (f" at {stage}" if stage else "")
        + (f" in plugin {plugin}" if plugin else "")
        + (f": {reason}" if reason else "")
        for (status, reason, stage, plugin), count in bad.items()
    )


def _load(scenario: ScenarioBlock) -> str:
    """Return the facts of the workload that scenario and batch do not contain, as text."""
    words = [f"{scenario.streams} streams"] if scenario.name == "multi-stream" else []
    words += [f"{scenario.target_qps:g}/s"] if scenario.target_qps else []
    words += [f"{scenario.in_flight} in flight"] if (scenario.in_flight or 1) > 1 else []
    words += [f"within {scenario.deadline_s:g} s"] if scenario.deadline_s else []
    words += ["by LoadGen"] if scenario.generator == "loadgen" else []
    return ", ".join(words) or "as its scenario"


# --- measured columns -----------------------------------------------------------------------------


def _measured(records: Sequence[Summary], good: Sequence[Summary], judged: Judged) -> dict[str, Value | Why]:
    """Return the measured columns except energy. ``good`` are the records that have figures. ``judged``: which of them."""
    by_seed = {seed: [r for r in good if r.seed == seed] for seed in {r.seed for r in good}}
    whole = records[0].device.nodes == 1
    return {
        **_accuracy(good, by_seed),
        "precision": _same(record.runtime.precision for record in good),
        **_latency(good, judged.cells),
        **_counts(good),
        **_memory(judged.cells["memory"]),
        **_network(good, whole),
        "train_s": _training(by_seed, lambda r: r.train_s, 1),
        "train_pmacs": _training(by_seed, lambda r: r.train_macs, 1e15),
    }


def _accuracy(good: Sequence[Summary], by_seed: Mapping[int, Sequence[Summary]]) -> dict[str, Value | Why]:
    top1 = _per_seed(by_seed, lambda r: r.accuracy.top1)
    top5 = _per_seed(by_seed, lambda r: r.accuracy.top5)
    oracle = _per_seed(by_seed, lambda r: r.accuracy.top1_oracle)
    few = any((record.data.classes or 6) <= 5 for record in good)
    return {
        "top1": fmean(top1) if top1 else Why("accuracy was not evaluated"),
        "top5": fmean(top5) if top5 else Why("five classes or fewer" if few else "not evaluated"),
        "top1_ci": _interval(top1, min((r.accuracy.n for r in good if r.accuracy.n), default=None)),
        "top1_oracle": fmean(oracle) if oracle else Why("no split whose classes have one sub-model each"),
        "top1_drop1": _without_one(good, by_seed),
        "accuracy_on": _same(record.accuracy.on for record in good),
    }


def _interval(top1: Sequence[float], images: int | None) -> Value | Why:
    """Return the t-interval of the seeds' accuracies, which are multiples of one of ``images``."""
    interval = stats.t_interval(top1, step=100 / images if images else 0.0)
    if interval is None:
        return Why(f"{len(top1)} seed{'s' if len(top1) != 1 else ''}; an interval needs 3")
    return list(interval)


def _without_one(good: Sequence[Summary], by_seed: Mapping[int, Sequence[Summary]]) -> Value | Why:
    """Return the mean top-1 with one part missing."""
    values = _per_seed(by_seed, lambda r: r.accuracy.without_one)
    if values:
        return fmean(values)
    reasons = {record.accuracy.why_not for record in good if record.accuracy.why_not}
    return Why("; ".join(sorted(reasons)) or "the suite does not ask for it (robustness: drop-1)")


def _counts(good: Sequence[Summary]) -> dict[str, Value | Why]:
    macs = _median(good, lambda r: r.counts.macs, 1e9)
    return {
        "params_m": _median(good, lambda r: r.counts.params, 1e6),
        "macs_g": macs,
        "macs_linear_g": _median(good, lambda r: r.counts.macs_linear, 1e9),
        "flops_g": macs if isinstance(macs, Why) else 2 * macs,
        "weights_mb": _median(good, lambda r: r.counts.weight_bytes, 1e6),
        "weights_mib": _median(good, lambda r: r.counts.weight_bytes, 2**20),
        "weights_max_device_mb": _median(good, lambda r: r.counts.weight_bytes_max_device, 1e6),
        "activation_peak_mb": _median(good, lambda r: r.counts.activation_bytes, 1e6),
    }


def _latency(good: Sequence[Summary], cells: Mapping[Figure, Sequence[Summary]]) -> dict[str, Value | Why]:
    sizes = _values(good, lambda r: r.latency.n)
    most = max(sizes, default=0)
    mean, deviation = _pooled(cells["mean"])
    no_sustained = "the suite asks for no sustained load"

    def too_few(q: int) -> str:
        return f"{int(most)} queries in a process; p{q} needs {stats.EARLY_STOPPING_MIN[q]}"

    return {
        "n": int(sum(sizes)) if most else Why("no latency was measured"),
        "latency_p50_ms": _median(cells["p50"], lambda r: r.latency.p50_ms, why=too_few(50)),
        "latency_p50_ci": _p50_interval(cells["p50"]),
        "latency_p90_ms": _median(cells["p90"], lambda r: r.latency.p90_ms, why=too_few(90)),
        "latency_p99_ms": _median(cells["p99"], lambda r: r.latency.p99_ms, why=too_few(99)),
        "latency_mean_ms": mean,
        "latency_std_ms": deviation,
        "first_inference_ms": _median(good, lambda r: r.latency.first_ms),
        "throughput_ips": _median(cells["throughput"], lambda r: r.latency.throughput_ips),
        "preprocess_ms": _median(good, lambda r: r.latency.preprocess_ms),
        "sustained_p50_ms": _median(good, lambda r: r.latency.sustained_p50_ms, why=no_sustained),
        "slowdown": _median(good, lambda r: r.latency.slowdown, why=no_sustained),
    }


def _p50_interval(cells: Sequence[Summary]) -> Value | Why:
    """Return the 95% interval over processes, or over seeds if they differ in size, extended to the figure itself."""
    cost = cost_of(cells, "latency_p50_ms", None)
    if isinstance(cost, Why):
        return cost
    figure = median(_values(cells, lambda r: r.latency.p50_ms))
    low, high = typical_interval(cost.values)
    return [min(low, figure), max(high, figure)]


def _pooled(good: Sequence[Summary]) -> tuple[float | Why, float | Why]:
    """Return mean and standard deviation over all queries of all cells, from n, mean and deviation of each cell."""
    measured = [r.latency for r in good if r.latency.n]
    cells = [(own.n or 0, own.mean_ms, own.std_ms) for own in measured if own.mean_ms is not None]
    if not cells or len(cells) < len(measured):
        why = Why("not recorded" if measured else "no latency was measured")
        return why, why
    total = sum(n for n, _, _ in cells)
    mean = sum(n * own for n, own, _ in cells) / total
    if total == 1:
        return mean, Why("one query")
    if any(std is None and n > 1 for n, _, std in cells):
        return mean, Why("not recorded")
    squares = sum((n - 1) * (std or 0.0) ** 2 + n * (own - mean) ** 2 for n, own, std in cells)
    return mean, float((squares / (total - 1)) ** 0.5)


def _memory(good: Sequence[Summary]) -> dict[str, Value | Why]:
    """Return the memory of the cell with the largest memory."""
    peaks = [record.memory for record in good if record.memory.process_peak_bytes is not None]
    worst = max(peaks, key=lambda memory: memory.process_peak_bytes or 0, default=None)
    return {
        "process_peak_mb": _scaled(worst.process_peak_bytes if worst else None, 1e6, "not recorded"),
        "baseline_mb": _scaled(worst.baseline_bytes if worst else None, 1e6, "not recorded"),
        "device_memory_mb": _device_memory(good),
    }


def _device_memory(good: Sequence[Summary]) -> Value | Why:
    """Return the GPU memory of the cell with the largest memory."""
    if all(record.device.kind == "cpu" for record in good):
        return Why("a CPU has no memory apart")
    of = device_memory(good)
    return max(_values(good, of)) if of else Why("no driver tells this process's share")


def _network(good: Sequence[Summary], whole: bool) -> dict[str, Value | Why]:
    """Return bytes, latency without the input's transfer, and the ratio of latency to its lower bound.

    ``whole``: one device has all parts.
    """

    def value(of: Of, why: str = "not recorded") -> float | Why:
        return _median(good, of, why="one device: nothing is sent" if whole else why)

    return {
        "input_bytes": value(lambda r: r.network.input_bytes),
        "feature_bytes": value(lambda r: r.network.feature_bytes),
        "latency_no_input_p50_ms": value(
            lambda r: r.network.no_input_p50_ms, "no image is sent, or queries are not sent one after another"
        ),
        "critical_path_ms": value(
            lambda r: r.network.critical_path_ms, "a part's compute or a link is not known"
        ),
        "over_bound": value(
            lambda r: r.network.over_bound, "queries are not sent one after another, or no bound is known"
        ),
    }


def _training(by_seed: Mapping[int, Sequence[Summary]], of: Of, unit: float) -> Value | Why:
    values = _per_seed(by_seed, of)
    if not values:
        return Why("not recorded")
    return fmean(values) / unit if any(values) else Why("nothing was trained")


# --- over cells and seeds -------------------------------------------------------------------------


def _values(good: Sequence[Summary], of: Of) -> list[float]:
    return [value for record in good if (value := of(record)) is not None]


def _median(good: Sequence[Summary], of: Of, unit: float = 1, why: str = "not recorded") -> float | Why:
    values = _values(good, of)
    return median(values) / unit if values else Why(why)


def _same(values: Iterable[str | None]) -> str | Why:
    different = list(dict.fromkeys(value for value in values if value is not None))
    if len(different) > 1:
        return Why(f"differs between cells: {', '.join(different)}")
    return different[0] if different else Why("not recorded")


def _per_seed(by_seed: Mapping[int, Sequence[Summary]], of: Of) -> list[float]:
    """Return one mean for each seed that has any value."""
    lists = [_values(by_seed[seed], of) for seed in sorted(by_seed)]
    return [fmean(values) for values in lists if values]


def _scaled(value: float | None, unit: float, why: str) -> Value | Why:
    return Why(why) if value is None else value / unit

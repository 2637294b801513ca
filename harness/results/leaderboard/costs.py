"""The costs of a row, such as latency or memory: one value per process or per seed.

A process is the unit of what is measured: each cell has a new process, and the weights of a seed do not change how long
a model takes. If the size of the model depends on the seed, as that of a pruned model may, the seed is the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, TypeAlias

from harness.results.leaderboard.energy_columns import own_readings
from harness.results.leaderboard.why import Why
from harness.results.summary import Reading, Summary
from harness.stats.ratios import MIN_VALUES
from harness.types.signals import Figure

__all__ = ["COSTS", "Cost", "CostColumn", "Of", "cost_of", "device_memory", "figure_of", "is_cost"]

Of: TypeAlias = Callable[[Summary], float | None]
"""Returns a figure of a record."""

Unit: TypeAlias = Literal["process", "seed"]

PAGE_MB = 4096 / 1e6
"""Memory is counted in pages. A difference of one page is none."""


@dataclass(frozen=True)
class CostColumn:
    """How a column is read from the record of a cell: ``of`` returns its value in the unit of the column.

    ``counted``: the value is counted, so it has no error. ``unit``: what is independent. ``step``: a difference up to
    it is none. ``figure``: the kind of figure for which disturbed cells are left out, if they are.
    """

    of: Of
    counted: bool = False
    unit: Unit = "process"
    step: float = 0.0
    figure: Figure | None = None


@dataclass(frozen=True)
class Cost:
    """The values of a column in one row, one per unit, in the order of the records.

    ``counted``: there is one value, without error.
    ``by`` names the meter. Figures of two meters are not compared, because the errors of their scales do not cancel.
    """

    values: tuple[float, ...]
    unit: Unit
    counted: bool = False
    step: float = 0.0
    by: str | None = None


def _scaled(of: Of, unit: float) -> Of:
    def value(record: Summary) -> float | None:
        raw = of(record)
        return None if raw is None else raw / unit

    return value


def _counted(of: Of, unit: float = 1) -> CostColumn:
    return CostColumn(_scaled(of, unit), counted=True)


COSTS: Mapping[str, CostColumn] = {
    "latency_p50_ms": CostColumn(lambda r: r.latency.p50_ms, figure="p50"),
    "latency_p90_ms": CostColumn(lambda r: r.latency.p90_ms, figure="p90"),
    "latency_p99_ms": CostColumn(lambda r: r.latency.p99_ms, figure="p99"),
    "latency_mean_ms": CostColumn(lambda r: r.latency.mean_ms, figure="mean"),
    "first_inference_ms": CostColumn(lambda r: r.latency.first_ms),
    "throughput_ips": CostColumn(lambda r: r.latency.throughput_ips, figure="throughput"),
    "preprocess_ms": CostColumn(lambda r: r.latency.preprocess_ms),
    "sustained_p50_ms": CostColumn(lambda r: r.latency.sustained_p50_ms),
    "slowdown": CostColumn(lambda r: r.latency.slowdown),
    "latency_no_input_p50_ms": CostColumn(lambda r: r.network.no_input_p50_ms),
    "critical_path_ms": CostColumn(lambda r: r.network.critical_path_ms),
    "over_bound": CostColumn(lambda r: r.network.over_bound),
    "process_peak_mb": CostColumn(
        _scaled(lambda r: r.memory.process_peak_bytes, 1e6), step=PAGE_MB, figure="memory"
    ),
    "baseline_mb": CostColumn(_scaled(lambda r: r.memory.baseline_bytes, 1e6), step=PAGE_MB, figure="memory"),
    "params_m": _counted(lambda r: r.counts.params, 1e6),
    "macs_g": _counted(lambda r: r.counts.macs, 1e9),
    "macs_linear_g": _counted(lambda r: r.counts.macs_linear, 1e9),
    "flops_g": _counted(lambda r: r.counts.macs, 5e8),
    "weights_mb": _counted(lambda r: r.counts.weight_bytes, 1e6),
    "weights_mib": _counted(lambda r: r.counts.weight_bytes, 2**20),
    "weights_max_device_mb": _counted(lambda r: r.counts.weight_bytes_max_device, 1e6),
    "activation_peak_mb": _counted(lambda r: r.counts.activation_bytes, 1e6),
    "input_bytes": _counted(lambda r: r.network.input_bytes),
    "feature_bytes": _counted(lambda r: r.network.feature_bytes),
    "train_s": CostColumn(lambda r: r.train_s, unit="seed"),
    "train_pmacs": CostColumn(_scaled(lambda r: r.train_macs, 1e15), counted=True, unit="seed"),
}
"""The columns of costs that are read from a record alone. Energy and the memory of a device are chosen per row."""

ENERGY: Mapping[str, Callable[[Reading], float | None]] = {
    "energy_gross_mj": lambda reading: reading.energy_gross_mj,
    "energy_net_mj": lambda reading: reading.energy_net_mj,
    "power_gross_w": lambda reading: reading.power_gross_w,
}
DEVICE_MEMORY = "device_memory_mb"


def figure_of(name: str) -> Figure | None:
    """Return the kind of figure for which disturbed cells are left out of a column, or None if none is left out."""
    if name in ENERGY:
        return "energy"
    return "memory" if name == DEVICE_MEMORY else COSTS[name].figure


def is_cost(name: str) -> bool:
    """Return whether a column is a cost by which rows can be compared."""
    return name in COSTS or name in ENERGY or name == DEVICE_MEMORY


def cost_of(good: Sequence[Summary], name: str, scope: str | None) -> Cost | Why:
    """Return the values of a column of costs in a row, or the reason why the row cannot be compared with others.

    Args:
        good: the records with figures.
        name: the column, for which :func:`is_cost` holds.
        scope: the scope of the row's energy columns.
    """
    if name in ENERGY:
        return _energy(good, name, scope)
    if name == DEVICE_MEMORY:
        of = device_memory(good)
        if of is None:
            return Why("not recorded by all cells")
        column = CostColumn(of, step=PAGE_MB)
    else:
        column = COSTS[name]
    pairs = [(record.seed, column.of(record)) for record in good]
    known = [(seed, value) for seed, value in pairs if value is not None]
    if column.counted and len({value for _, value in known}) == 1:
        return Cost((known[0][1],), column.unit, counted=True)
    by_seed = column.unit == "seed" or column.counted or _varies(good)
    return _enough(known, Cost((), "seed" if by_seed else "process", step=column.step))


def device_memory(good: Sequence[Summary]) -> Of | None:
    """Return the first measure of GPU memory, in MB, that all cells have, since each measure counts something else."""
    measures: tuple[Of, ...] = (
        lambda r: r.memory.device_process_bytes,
        lambda r: r.memory.device_shared_bytes,
        lambda r: r.memory.device_reserved_peak_bytes,
    )
    for measure in measures:
        if good and all(measure(record) is not None for record in good):
            return _scaled(measure, 1e6)
    return None


def _energy(good: Sequence[Summary], name: str, scope: str | None) -> Cost | Why:
    """Return the energy of each process by the meter whose figures the row shows.

    An error of the meter's scale is the same in all rows of the meter, so it cancels in their ratio. The errors that
    differ from window to window are in the spread of the processes.
    """
    own = own_readings(good, scope)
    values: dict[int, list[float]] = {}
    for number, reading in own:
        value = ENERGY[name](reading)
        if value is not None:
            values.setdefault(number, []).append(value)
    known = [(good[number].seed, median(each)) for number, each in values.items()]
    by = f"{own[0][1].meter} on {good[0].machine_id}" if own else None
    return _enough(known, Cost((), "seed" if _varies(good) else "process", by=by))


def _varies(good: Sequence[Summary]) -> bool:
    """Return whether the size of the model depends on the seed."""
    sizes = {
        (record.counts.params, record.counts.macs, record.counts.weight_bytes)
        for record in good
        if record.counts.params is not None
    }
    return len(sizes) > 1


def _enough(known: Sequence[tuple[int, float]], cost: Cost) -> Cost | Why:
    """Return ``cost`` with one value per unit from (seed, value) of each process, or why there are too few."""
    if not known:
        return Why("not recorded")
    values = [value for _, value in known]
    if cost.unit == "seed":
        seeds = dict.fromkeys(seed for seed, _ in known)
        values = [fmean(value for own, value in known if own == seed) for seed in seeds]
    if min(values) <= 0:
        return Why("a value is not above 0, so there is no ratio")
    if len(values) < MIN_VALUES:
        units = {"process": ("process", "processes"), "seed": ("seed", "seeds")}[cost.unit]
        return Why(f"{len(values)} {units[len(values) > 1]}; {MIN_VALUES} are needed")
    return Cost(tuple(values), cost.unit, step=cost.step, by=cost.by)

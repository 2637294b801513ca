"""Judge the disturbances of a row: which cells each of its figures is made from, and which figures are marked.

A cell is disturbed for a figure if a signal of its window that can change the figure is above its limit. Cells are
chosen by signals, never by the figure itself, so no outlier is dropped. A cell that is only ``unsteady`` stays, since
that flag comes from the latencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeAlias

from harness import stats
from harness.results.leaderboard.energy_columns import own_readings
from harness.results.summary import Summary
from harness.types.disturbance import RowDisturbance
from harness.types.signals import Figure, Signal

__all__ = ["FLOOR", "REMAIN", "Judged", "judged"]

LEAVES_OUT = ("throttled", "contended", "stalled", "swapped")
"""Flags for which a cell is left out. The others are made from the latencies themselves."""

SEEN_BY_BLOCKS = ("contended", "stalled")
"""Disturbances in which the process lacks CPU time, so that blocks with all their CPU time are undisturbed."""

REMAIN = 3
"""Number of undisturbed cells that a figure needs before the disturbed ones are left out."""

FLOOR = 0.02
"""Smallest relative half-width of an interval, the limit at which warm-up calls two medians equal."""

Of: TypeAlias = Callable[[Summary], float | None]
"""A function that returns a figure of a record."""


@dataclass(frozen=True)
class Judged:
    """The judgement of a row. ``cells``: figure -> the cells that it is made from. ``flags``: those of the row."""

    cells: Mapping[Figure, Sequence[Summary]]
    disturbances: Sequence[RowDisturbance]
    flags: Sequence[str]


def judged(records: Sequence[Summary], scope: str | None = None) -> Judged:
    """Judge a row from its cells that have figures. ``scope`` is that of its energy columns.

    A figure is made from the undisturbed cells if there are :data:`REMAIN` of them, else from all. If disturbed cells
    remain in it, the figure is compared with that of the undisturbed cells, and of the undisturbed blocks of the
    disturbed cells. It is marked if they differ by more than half its interval, or if there is nothing to compare.

    The flags of the row are those of marked figures, ``short``, and all flags of records of version 0.1.0, which have
    no signals.
    """
    cells: dict[Figure, Sequence[Summary]] = {}
    disturbances = []
    figures: dict[Figure, Of] = {**_FIGURES, "energy": _energy_of(records, scope)}
    for figure, of in figures.items():
        cells[figure], disturbance = _judge(figure, of, records)
        disturbances += [disturbance] if disturbance else []
    flags = {flag for disturbance in disturbances if disturbance.marked for flag in disturbance.flags}
    flags |= {
        flag for record in records for flag in record.flags if record.signals is None or flag == "short"
    }
    return Judged(cells, tuple(disturbances), sorted(flags))


def _judge(
    figure: Figure, of: Of, records: Sequence[Summary]
) -> tuple[Sequence[Summary], RowDisturbance | None]:
    """Return the cells that a figure is made from, and its disturbance if a cell is disturbed."""
    known = [record for record in records if of(record) is not None]
    disturbed = [record for record in known if _raised(record, figure)]
    if not disturbed:
        return records, None
    remain = [record for record in known if not _left_out(record, figure)]
    used = remain if len(remain) >= REMAIN else known
    still = [record for record in used if _raised(record, figure)]
    values, clean = _values(used, of), _clean(figure, of, used)
    undisturbed = _centre(figure, clean) if clean else None
    half = _half(clean, undisturbed)
    differs = undisturbed is None or half is None or abs(_centre(figure, values) - undisturbed) > half
    return used, RowDisturbance(
        figure=figure,
        signals=_strongest(still or disturbed, figure),
        cells=len(known),
        used=len(used),
        marked=bool(still) and differs,
        whole=_centre(figure, _values(known, of)),
        undisturbed=undisturbed,
        half=half,
    )


def _raised(record: Summary, figure: Figure) -> list[Signal]:
    """Return the signals above their limits that can change the figure."""
    return [signal for signal in record.signals or () if signal.over and figure in signal.figures]


def _left_out(record: Summary, figure: Figure) -> bool:
    return any(signal.flag in LEAVES_OUT for signal in _raised(record, figure))


def _strongest(records: Sequence[Summary], figure: Figure) -> list[Signal]:
    """Return of each kind of signal above its limit the one with the greatest value."""
    strongest: dict[str | None, Signal] = {}
    for signal in (signal for record in records for signal in _raised(record, figure)):
        other = strongest.get(signal.name)
        if other is None or (signal.value or 0) > (other.value or 0):
            strongest[signal.name] = signal
    return list(strongest.values())


def _values(records: Sequence[Summary], of: Of) -> list[float]:
    return [value for record in records if (value := of(record)) is not None]


def _clean(figure: Figure, of: Of, records: Sequence[Summary]) -> list[float]:
    """Return the values of undisturbed cells, and of the undisturbed blocks of other cells where blocks tell."""
    values = []
    for record in records:
        raised = _raised(record, figure)
        if not raised:
            values.append(of(record))
        elif all(signal.flag in SEEN_BY_BLOCKS for signal in raised) and figure in _IN_BLOCKS:
            blocks = record.latency.undisturbed
            values.append(None if blocks is None else blocks.get(_IN_BLOCKS[figure]))
    return [value for value in values if value is not None]


def _centre(figure: Figure, values: Sequence[float]) -> float:
    """Return the figure of a row from those of its cells."""
    if figure == "memory":
        return max(values)
    return fmean(values) if figure == "mean" else median(values)


def _half(values: Sequence[float], undisturbed: float | None) -> float | None:
    """Return half the 95% t-interval over undisturbed processes, and at least :data:`FLOOR` of the figure.

    Disturbed processes are not in it, since they would widen the interval by which they are judged.
    """
    if undisturbed is None:
        return None
    interval = stats.t_interval(values)
    spread = (interval[1] - interval[0]) / 2 if interval else 0.0
    return max(spread, FLOOR * abs(undisturbed))


def _energy_of(records: Sequence[Summary], scope: str | None) -> Of:
    """Return the function that returns the gross energy of an inference by the meter of the energy columns."""
    energies = {
        id(records[place]): reading.energy_gross_mj for place, reading in own_readings(records, scope)
    }
    return lambda record: energies.get(id(record))


_FIGURES: Mapping[Figure, Of] = {
    "p50": lambda record: record.latency.p50_ms,
    "p90": lambda record: record.latency.p90_ms,
    "p99": lambda record: record.latency.p99_ms,
    "mean": lambda record: record.latency.mean_ms,
    "throughput": lambda record: record.latency.throughput_ips,
    "memory": lambda record: record.memory.process_peak_bytes,
}

_IN_BLOCKS: Mapping[Figure, str] = {
    "p50": "p50_ms",
    "p90": "p90_ms",
    "p99": "p99_ms",
    "mean": "mean_ms",
    "throughput": "throughput_ips",
}

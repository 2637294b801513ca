"""Disturbances in words: how strong they were, what they changed, and what a person can do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.types.columns import Row
from harness.types.disturbance import RowDisturbance
from harness.types.record import Record
from harness.types.signals import Signal

__all__ = [
    "SIGNALS",
    "by_old_rules",
    "flag_texts",
    "left_out",
    "marked",
    "record_lines",
    "strength",
    "strengths",
]

SIGNALS = {
    "thermal_events": "{:.0f} events",
    "throttle_causes": "{:.0f} causes",
    "waiting_share": "waited {:.0%}",
    "foreign_share": "others {:.0%}",
    "foreign_cores": "{:.1f} cores by others",
    "stalled_s": "{:.1f} s",
    "between_queries_s": "{:.1f} s",
    "warmup_unsteady": "warm-up",
    "drift": "drift {:.0%}",
    "utilisation": "load {:.2f}",
    "not_cooled": "too hot",
    "swap_in_pages": "{:.0f} pages",
    "missed_minimum": "",
}
"""By name of a signal: its value as it stands after the flag."""

_ADVICE = {
    "throttled": "cool the device, check its power supply, or lower its clock",
    "contended": "end other programs, or keep them off these cores",
    "stalled": "look for what stopped the process: a debugger, SIGSTOP, a CPU quota, a suspended or paused machine",
    "unsteady": "measure longer (`min_time`), or let the device cool (`cool_down`)",
    "swapped": "free memory, or use a smaller batch",
    "short": "raise `max_time`, or lower `min_queries`",
}
"""By flag: what a person can do before the cell is measured again."""


_TIMES = ("p50", "p90", "p99", "mean", "throughput")


def strength(signal: Signal) -> str:
    """Return a flag with the strength of one of its signals: ``contended 0.8 cores by others``."""
    return strengths([signal])


def strengths(signals: Iterable[Signal]) -> str:
    """Return the flags of signals, each once, with their strengths: ``contended waited 6%, 0.8 cores by others``.

    Signals of one name are a range, from the smallest value to the greatest: ``contended waited 6% to 30%``.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for signal in signals:
        values.setdefault(str(signal.flag), {}).setdefault(signal.name or "", []).append(signal.value or 0)
    texts = {
        flag: dict.fromkeys(_range(SIGNALS.get(name, ""), known) for name, known in names.items())
        for flag, names in values.items()
    }
    return "; ".join(f"{flag} {', '.join(own)}".strip() for flag, own in texts.items())


def _range(form: str, values: Sequence[float]) -> str:
    """Return the smallest and the greatest value in a form of :data:`SIGNALS`: ``1.6 to 1.8 cores by others``."""
    low, high = form.format(min(values)), form.format(max(values))
    if low == high:
        return high
    before, field, after = re.split(r"(\{.*\})", form)
    return f"{before}{field.format(min(values))} to {field.format(max(values))}{after}"


def marked(labels: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return a line for each flag: the rows that have it, how strong it was, and the figures that it changed.

    Rows in which a flag changed the same figures are together, with the range of its strength.
    """
    lines: dict[str, dict[str, tuple[list[str], list[Signal]]]] = {}
    for label, row in zip(labels, rows, strict=True):
        for flag in row.texts("flags"):
            own = [found for found in row.disturbances if found.marked and flag in found.flags]
            signals = _strongest([signal for found in own for signal in found.signals if signal.flag == flag])
            names, pooled = lines.setdefault(flag, {}).setdefault(_names(own), ([], []))
            names.append(label)
            pooled += signals
    return [
        f"{flag}: "
        + "; ".join(
            f"{_who(names, rows)}{_changed(flag, signals, figures)}"
            for figures, (names, signals) in groups.items()
        )
        for flag, groups in lines.items()
    ]


def _who(labels: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the names of some of the rows of a table, or ``all rows`` for all of more than two."""
    return "all rows" if len(labels) == len(rows) > 2 else ", ".join(labels)


def _changed(flag: str, signals: Sequence[Signal], figures: str) -> str:
    """Return the strength of a flag and the figures in brackets; empty if the records have no signals."""
    if not signals:
        return ""
    strong = strengths(signals).removeprefix(flag).strip()
    return f" ({strong}: {figures})" if strong else f" ({figures})"


def flag_texts(row: Row) -> list[str]:
    """Return the flags of a row, each with the strength of its disturbance if it is known."""
    texts = []
    for flag in row.texts("flags"):
        own = [signal for found in row.disturbances if found.marked for signal in found.signals]
        texts.append(strengths(_strongest([signal for signal in own if signal.flag == flag])) or flag)
    return texts


def left_out(labels: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return lines about figures that leave out disturbed processes: ``4 of 5`` of them are used.

    Rows with the same numbers and figures are in one line.
    """
    lines: dict[tuple[int, int, str], tuple[list[str], list[Signal]]] = {}
    for label, row in zip(labels, rows, strict=True):
        by_count: dict[tuple[int, int], list[RowDisturbance]] = {}
        for found in row.disturbances:
            if found.used < found.cells:
                by_count.setdefault((found.used, found.cells), []).append(found)
        for (used, cells), own in by_count.items():
            names, pooled = lines.setdefault((used, cells, _names(own)), ([], []))
            names.append(label)
            pooled += _strongest([signal for found in own for signal in found.signals])
    return [
        f"{_who(names, rows)}: {used} of {cells} processes in {figures}; the others were disturbed ({strengths(signals)})"
        for (used, cells, figures), (names, signals) in lines.items()
    ]


def _names(disturbances: Sequence[RowDisturbance]) -> str:
    """Return the names of the figures. All figures of latency together are ``all times``."""
    names = [found.figure for found in disturbances]
    if set(_TIMES) <= set(names):
        return ", ".join(["all times", *(name for name in names if name not in _TIMES)])
    return ", ".join(names)


def by_old_rules(rows: Sequence[Row]) -> list[str]:
    """Return a line if a row has flags of records of version 0.1.0, which have no signals."""
    for row in rows:
        judged = {flag for found in row.disturbances if found.marked for flag in found.flags}
        if set(row.texts("flags")) - judged - {"short"}:
            return [
                "Flags without a strength are of records of 0.1.0: a cell has them, whether or not a figure changed"
            ]
    return []


def _strongest(signals: Sequence[Signal]) -> list[Signal]:
    """Return of each kind of signal the one with the greatest value."""
    strongest: dict[str | None, Signal] = {}
    for signal in signals:
        other = strongest.get(signal.name)
        if other is None or (signal.value or 0) > (other.value or 0):
            strongest[signal.name] = signal
    return list(strongest.values())


def record_lines(record: Record) -> list[str]:
    """Return lines about a record's flags: signal, value, limit, the figures that may be wrong, and what to do.

    The last line has the signals that are within their limits.
    """
    if record.signals is None:
        return [
            ", ".join(record.flags) or "none",
            *(["made by the rules of 0.1.0, without signals"] if record.flags else []),
        ]
    lines = []
    for flag in record.flags:
        for signal in (signal for signal in record.signals if signal.over and signal.flag == flag):
            changes = f"; can change {', '.join(signal.figures)}" if signal.figures else ""
            lines.append(f"{strength(signal)}: {_limit(signal)}{changes}")
        lines.append(
            f"  to do: {_ADVICE.get(flag, 'look at the signals')}; then `harness run SUITE --retry-flagged`"
        )
    within = [_limit(signal) for signal in record.signals if not signal.over]
    return [*(lines or ["none"]), *([f"within limits: {'; '.join(within)}"] if within else [])]


def _limit(signal: Signal) -> str:
    return f"{signal.name} {signal.value or 0:.3g} (limit {signal.limit or 0:.3g})"

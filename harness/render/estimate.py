"""A table of estimates: latency and memory of a cell, with its slowest and its largest device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.render.console import add_figures, add_texts, print_whole, text_width, wide_console

if TYPE_CHECKING:
    from harness.plan.estimate import DeviceShare, Estimate

__all__ = ["show_estimates"]

GAP = 2
"""Characters between two columns."""

MB = 1e6
"""Bytes of a megabyte, the unit of leaderboards."""


_NAMING = ("method", "device", "runtime")
_FIGURES = ("batch", "latency", "latency w/o input")
_DEVICES = ("slowest device", "largest device")


def show_estimates(estimates: Sequence[Estimate], console: Console | None = None) -> None:
    """Print the estimates in the order of the plan. They are not ranked.

    On a narrow terminal the columns of devices stand in a second table below. No figure is cut.
    """
    console = console or wide_console()
    console.print("[italic]estimates: modelled, not measured, and never ranked with measured rows[/]")
    notes: dict[str, int] = {}  # note -> its number; a note of many rows is printed once, below the table
    rows = [_row(estimate, notes) for estimate in estimates]
    whole = (*_NAMING, *_FIGURES, *_DEVICES, "note")
    blocks: Sequence[Sequence[str]] = [whole]
    if sum(_width(column, rows) + GAP for column in whole) - GAP > console.width:
        blocks = [(*_NAMING, *_FIGURES, "note"), (*_NAMING, *_DEVICES)]
    for columns in blocks:
        print_whole(console, _table(columns, rows), GAP)
    for note, number in notes.items():
        console.print(escape(f"[{number}] {note}"), highlight=False)
    for line in _profiles(estimates):
        console.print(line, highlight=False)


def _row(estimate: Estimate, notes: dict[str, int]) -> dict[str, str]:
    """Return the texts of a row by column. New notes and reasons are numbered in ``notes``."""
    said = [*estimate.notes, *([estimate.reason] if estimate.reason else [])]
    numbers = sorted(notes.setdefault(note, len(notes) + 1) for note in said)
    return {
        "method": escape(estimate.method),
        "device": escape(estimate.device),
        "runtime": escape(estimate.runtime),
        "batch": str(estimate.batch),
        "latency": _latency(estimate),
        "latency w/o input": _time(estimate.resident_s),
        "slowest device": _slowest(estimate.devices),
        "largest device": _largest(estimate.devices),
        "note": f"[yellow]{escape(' '.join(f'[{number}]' for number in numbers))}[/]",
    }


def _width(column: str, rows: Sequence[Mapping[str, str]]) -> int:
    return text_width(column, (Text.from_markup(row[column]).plain for row in rows))


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        if column in _FIGURES:
            add_figures(table, column, _width(column, rows))
        else:
            add_texts(table, column)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _latency(estimate: Estimate) -> str:
    if estimate.latency_s is None or estimate.low_s is None or estimate.high_s is None:
        return "-"
    less, more = (f"{abs(bound / estimate.latency_s - 1):.0%}" for bound in (estimate.low_s, estimate.high_s))
    return f"{_time(estimate.latency_s)} " + (f"± {more}" if less == more else f"-{less} +{more}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _slowest(shares: Sequence[DeviceShare]) -> str:
    timed = [share for share in shares if share.compute_s is not None]
    if len(shares) < 2 or not timed:
        return ""
    slowest = max(timed, key=lambda share: share.compute_s or 0)
    return escape(f"{slowest.device}: {_time(slowest.compute_s)}")


def _largest(shares: Sequence[DeviceShare]) -> str:
    """Return a text about the device with the most memory, or with the most weights if no memory is known."""
    if not shares:
        return ""
    share = max(shares, key=lambda share: (share.memory_bytes or 0, share.weight_bytes))
    text = f"{_mb(share.weight_bytes)} of weights"
    if share.memory_bytes is not None:
        text = f"{_mb(share.memory_bytes)}, {text}"
    if share.memory_limit and (share.memory_bytes or share.weight_bytes) > share.memory_limit:
        text += f", but it has {_mb(share.memory_limit)}"
    if share.weight_budget is not None and share.weight_bytes > share.weight_budget:
        text += f", over its budget of {_mb(share.weight_budget)}"
    return text


def _mb(size: int) -> str:
    return f"{size / MB:.3g} MB" if size < 1000 * MB else f"{size / MB:,.0f} MB"


def _profiles(estimates: Iterable[Estimate]) -> Iterable[str]:
    """Yield a line for each profile that was used."""
    profiles = {}
    for estimate in estimates:
        for share in estimate.devices:
            if share.profile is not None:
                profile = share.profile
                profiles[profile.name, profile.runtime, profile.threads] = profile
    for profile in profiles.values():
        yield escape(
            f"{profile.name} ({profile.provenance}): {profile.device_model}, {1e3 * profile.fixed_s:.3g} ms + "
            f"{1e3 * profile.s_per_gmac:.4g} ms per GMAC, from {profile.low_gmacs:.3g} to {profile.high_gmacs:.3g} "
            f"GMACs; ± {profile.error:.0%} (leave-one-out, root mean square; the worst point {profile.worst:.0%}); "
            f"{profile.origin}"
        )

"""A table of estimates: latency and memory of a cell, with its slowest and its largest device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.render.console import wide_console

if TYPE_CHECKING:
    from harness.plan.estimate import DeviceShare, Estimate

__all__ = ["show_estimates"]

MB = 1e6
"""Bytes of a megabyte, the unit of leaderboards."""


def show_estimates(estimates: Sequence[Estimate], console: Console | None = None) -> None:
    """Print the estimates in the order of the plan. They are not ranked."""
    console = console or wide_console()
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title_justify="left",
        title="estimates: modelled, not measured, and never ranked with measured rows",
    )
    right = ("batch", "latency", "latency w/o input")
    for column in ("method", "device", "runtime", *right, "slowest device", "largest device", "note"):
        figure = column in right
        table.add_column(column, overflow="fold", no_wrap=figure, justify="right" if figure else "left")
    notes: dict[str, int] = {}  # note -> its number; a note of many rows is printed once, below the table
    for estimate in estimates:
        marks = [
            f"[{number}]" for number in sorted(notes.setdefault(n, len(notes) + 1) for n in estimate.notes)
        ]
        table.add_row(
            estimate.method,
            estimate.device,
            estimate.runtime,
            str(estimate.batch),
            _latency(estimate),
            _time(estimate.resident_s),
            _slowest(estimate.devices),
            _largest(estimate.devices),
            f"[yellow]{escape(' '.join([*marks, estimate.reason]).strip())}[/]",
        )
    console.print(table)
    for note, number in notes.items():
        console.print(escape(f"[{number}] {note}"), highlight=False)
    for line in _profiles(estimates):
        console.print(line, highlight=False)


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

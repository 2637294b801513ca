"""Estimates as a person reads them: what a cell would take, and on which devices."""

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

MIB = 2**20


def show_estimates(estimates: Sequence[Estimate], console: Console | None = None) -> None:
    """Print them in the plan's order; they are not ranked."""
    console = console or wide_console()
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title_justify="left",
        title="estimates: modelled, not measured, and never ranked with what is",
    )
    right = ("batch", "latency", "image there")
    for column in ("method", "device", "runtime", *right, "slowest device", "largest device", "note"):
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    notes: dict[str, str] = {}  # what many rows share is said once, below
    for one in estimates:
        marks = [notes.setdefault(note, f"[{len(notes) + 1}]") for note in one.notes]
        table.add_row(
            one.method,
            one.device,
            one.runtime,
            str(one.batch),
            _latency(one),
            _time(one.resident_s),
            _slowest(one.devices),
            _largest(one.devices),
            f"[yellow]{escape(' '.join([*marks, one.reason]).strip())}[/]",
        )
    console.print(table)
    for note, mark in notes.items():
        console.print(escape(f"{mark} {note}"), highlight=False)
    for line in _profiles(estimates):
        console.print(line, highlight=False)


def _latency(one: Estimate) -> str:
    if one.latency_s is None or one.high_s is None:
        return "-"
    share = (one.high_s - one.latency_s) / one.latency_s
    return f"{_time(one.latency_s)} ± {share:.0%}"


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
    """Memory where a profile tells it, else the weights."""
    if not shares:
        return ""
    share = max(shares, key=lambda share: (share.memory_bytes or 0, share.weight_bytes))
    told = f"{share.weight_bytes / MIB:.3g} MiB of weights"
    if share.memory_bytes is not None:
        told = f"{share.memory_bytes / MIB:.0f} MiB, {told}"
    if share.memory_limit and (share.memory_bytes or share.weight_bytes) > share.memory_limit:
        told += f", but it has {share.memory_limit / MIB:.0f} MiB"
    if share.weight_budget is not None and share.weight_bytes > share.weight_budget:
        told += f", over its budget of {share.weight_budget / MIB:.3g} MiB"
    return told


def _profiles(estimates: Iterable[Estimate]) -> Iterable[str]:
    """A line for each profile that was used."""
    found = {}
    for one in estimates:
        for share in one.devices:
            if share.profile is not None:
                key = tuple(share.profile[key] for key in ("name", "runtime", "threads"))
                found[key] = share.profile
    for told in found.values():
        yield escape(
            f"{told['name']} ({told['provenance']}): {told['device_model']}, {1e3 * told['fixed_s']:.3g} ms + "
            f"{1e3 * told['s_per_gmac']:.4g} ms per GMAC, from {told['low_gmacs']:.3g} to {told['high_gmacs']:.3g} "
            f"GMACs; ± {told['error']:.0%} (leave-one-out, root mean square; the worst point {told['worst']:.0%}); "
            f"{told['origin']}"
        )

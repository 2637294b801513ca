"""Two lines of a plan: which differences in accuracy and in latency its comparison can show."""

from __future__ import annotations

from collections.abc import Iterable

from harness.render.counted import counted
from harness.results.sensitivity import POINTS, RATIO, AccuracyPower, LatencyPower, Sensitivity

__all__ = ["sensitivity_lines"]

ALL = 99.95
"""A difference of so many points cannot be seen: it is all that there is."""


def sensitivity_lines(sensitivity: Sensitivity) -> Iterable[str]:
    """Yield a line about accuracy and a line about latency, with the assumptions."""
    rows = f"between two of {sensitivity.rows} rows on {sensitivity.device} (80% power)"
    yield f"accuracy: {_accuracy(sensitivity.accuracy, rows)}"
    yield f"latency: {_latency(sensitivity.latency, rows)}"


def _accuracy(power: AccuracyPower, rows: str) -> str:
    if power.points is None:
        return power.why
    seen = "no difference" if power.points >= ALL else f"a difference from {power.points:.1f} points on"
    return (
        f"{counted(power.seeds, 'seed')} x {power.images:,} test images show {seen} {rows}; "
        f"{POINTS:g} point needs {_needed(power)}; assumed: two methods differ in being right in {power.discordance:.1f}% "
        f"of answers, "
        f"{power.source}"
    )


def _needed(power: AccuracyPower) -> str:
    if power.needed_both is not None:
        seeds, images = power.needed_both
        return f"{counted(seeds, 'seed')} x {images:,} test images"
    needed = [] if power.needed_seeds is None else [counted(power.needed_seeds, "seed")]
    needed += [] if power.needed_images is None else [f"{power.needed_images:,} test images"]
    return " or ".join(needed) or "over 1,000 seeds"


def _latency(power: LatencyPower, rows: str) -> str:
    needed = "over 10,000" if power.needed_processes is None else f"{power.needed_processes:,}"
    takes = f"{RATIO - 1:.0%} needs {needed} processes"
    assumed = f"assumed: p50 spreads by {power.spread:.1%} between processes, {power.source}"
    if power.ratio is None:
        return f"{power.why}; {takes}; {assumed}"
    return f"{power.processes} processes show a difference from {power.ratio - 1:.1%} on {rows}; {takes}; {assumed}"

"""Find the blocks of a window in which the process had its CPU time, and the latency in these blocks.

A block lies between two marks (:mod:`harness.worker.loadgen.marks`). Blocks are chosen by CPU time, never by latency.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.types.signals import Undisturbed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.types import Samples

__all__ = ["BLOCK_LOST", "between_queries_s", "undisturbed"]

BLOCK_LOST = 0.05
"""Largest share of a block without CPU time that counts as undisturbed."""

BLOCK_STOPPED = 0.25
"""Least share of a block without CPU time that can be a stop. Less can be the noise of several threads."""

COMPUTES = 0.5
"""Least CPU time, as a share of the time, of a process that computes itself. Others wait for a GPU or a network."""

ENOUGH = 0.25
"""Least share of the queries in undisturbed blocks for which these blocks have figures."""


def undisturbed(samples: Samples) -> Undisturbed | None:
    """Return the latency in undisturbed blocks, or None if the window has no marks or the process also waits by nature.

    It waits by nature if it uses a GPU, or if other devices have parts.

    The CPU time that a block should have is the share of the time that the best tenth of the blocks had, or that the
    kernel's counts give (CPU time, waiting and steal together), whichever is more. In the server scenario it is the
    time in which queries are answered or late.
    """
    trace = samples.trace
    if trace.marks is None or not len(trace.marks) or samples.parts.traffic:
        return None
    steps = _steps(trace.marks)
    ends = trace.marks[:, 0]
    due, cpu = _due(samples, steps, ends).astype(float), steps[:, 2].astype(float)
    busy = due > 0
    if not busy.any():
        return None
    share = _share(samples, due[busy], cpu[busy])
    if share < COMPUTES:
        return None
    lost = np.maximum(0.0, due - cpu / share)
    clean = lost <= BLOCK_LOST * due
    inside = np.repeat(clean, steps[:, 0])
    latency = np.sort(trace.latency_ns[: len(inside)][inside])
    counts = Undisturbed(
        blocks=int(clean.sum()),
        of_blocks=len(clean),
        queries=len(latency),
        lost_s=float(lost.sum()) / 1e9,
        stopped_s=float(lost[lost > BLOCK_STOPPED * due].sum()) / 1e9,
        longest_s=float(lost.max()) / 1e9,
    )
    if len(latency) < max(1, ENOUGH * len(trace.latency_ns)):
        return counts
    values = latency.tolist()
    wall_s = float(steps[clean, 1].sum()) / 1e9
    server = trace.queue_ns is not None

    def percentile(q: float) -> float | None:
        return stats.percentile(values, q) / 1e6 if len(values) >= stats.EARLY_STOPPING_MIN[q] else None

    figures = {
        "p50_ms": percentile(50),
        "p90_ms": percentile(90),
        "p99_ms": percentile(99),
        "mean_ms": fmean(values) / 1e6,
        "throughput_ips": None if server or not wall_s else len(values) * samples.batch / wall_s,
    }
    return Undisturbed(**{**counts.model_dump(), **figures})


def between_queries_s(samples: Samples) -> float:
    """Return the longest time of a block in which no query was being answered, in seconds; 0 if it is not known.

    In the server scenario this is the greatest delay of the generator itself, not the time until a query is due.
    """
    trace = samples.trace
    if trace.late_ns is not None:
        return float(trace.late_ns.max(initial=0)) / 1e9
    if trace.marks is None or not len(trace.marks):
        return 0.0
    steps = _steps(trace.marks)
    return float((steps[:, 1] - _sums(trace.latency_ns, trace.marks[:, 0])).max()) / 1e9


def _steps(marks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the queries, nanoseconds and nanoseconds of CPU time of each block, int64 [blocks, 3]."""
    return marks - np.vstack((np.zeros((1, 3), np.int64), marks[:-1]))


def _due(samples: Samples, steps: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each block the nanoseconds in which the process had work, int64 [blocks]."""
    trace = samples.trace
    if trace.queue_ns is None:
        return steps[:, 1]
    late = trace.late_ns if trace.late_ns is not None else 0
    return _sums(trace.latency_ns - trace.queue_ns + late, ends)


def _share(samples: Samples, due: NDArray[np.float64], cpu: NDArray[np.float64]) -> float:
    """Return the CPU time that the process has in a nanosecond of work, if nothing disturbs it."""
    if samples.trace.queue_ns is not None:  # its CPU time also contains spinning until a query is due
        return min(1.0, float(np.median(cpu / due)))
    best = float(np.quantile(cpu / due, 0.9))
    counted = samples.environment
    if "delay_s" not in counted or not counted.get("wall_s"):
        return best
    wall = counted["wall_s"]
    return max(best, (counted["cpu_s"] + counted["delay_s"]) / wall + counted.get("steal_cores", 0.0))


def _sums(values: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of the values of each block. ``ends`` are the numbers of values until each block's end."""
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))[ends]
    return sums - np.concatenate((np.zeros(1, np.int64), sums[:-1]))

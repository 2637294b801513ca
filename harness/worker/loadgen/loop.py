"""The closed loop, the server loop, warm-up, and the first query."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from harness.types import LatencyTrace, WarmUp, Workload
from harness.worker.loadgen.marks import Marks
from harness.worker.loadgen.queries import Query, Timer, arrivals, no_collection, queued

__all__ = ["closed_loop", "first_query", "server_loop", "warm_up"]

STEADY = 0.02
"""Largest relative difference between the medians of two successive windows of a steady latency."""
WINDOW_NS = 50_000_000
WINDOW_QUERIES = 10
SPIN_NS = 1_000_000
"""A sleep may last longer than asked for, by the timer's slack and the scheduler's."""


def first_query(query: Query, batch: NDArray[np.float32], clock: Timer = time) -> int:
    """Return the time of one query in nanoseconds. The caller must ensure that no query ran before."""
    latency, _ = closed_loop(query, iter([batch]), lambda n, elapsed_ns: True, clock)
    return int(latency[0])


def warm_up(
    query: Query, inputs: list[NDArray[np.float32]], workload: Workload, clock: Timer = time
) -> WarmUp:
    """Send one query if ``workload.stop.warmup`` is ``one``, else send queries until the latency is steady.

    It is steady if the medians of two successive windows differ by at most 2%. A window is at least 10 queries and 50
    ms, or a quarter of ``warmup_max_s``, whichever comes first. No window begins after ``warmup_max_s``, but two
    always run. If one query takes seconds, they are two queries. The limit is that of Georges et al., "Statistically
    rigorous Java performance evaluation", OOPSLA 2007, section 4.2 (coefficient of variation of 10 iterations below
    0.02), applied to medians so that a single disturbed query does not restart it. Warm-up ends effects of first use
    (caches, allocators, compilation, clocks). A slow drift is not detected here, but in the window itself
    (:mod:`harness.measure.signals`).
    """
    source = itertools.cycle(inputs)
    if workload.stop.warmup == "one":
        return WarmUp(closed_loop(query, source, lambda n, elapsed_ns: True, clock)[0], True)
    longest_ns = int(workload.stop.warmup_max_s * 1e9 / 4)
    latencies: list[NDArray[np.int64]] = []
    last: float | None = None
    spent_ns = 0

    def full(n: int, elapsed_ns: int) -> bool:
        return (n >= WINDOW_QUERIES and elapsed_ns >= WINDOW_NS) or elapsed_ns >= longest_ns

    while True:
        latency, elapsed_ns = closed_loop(query, source, full, clock)
        latencies.append(latency)
        spent_ns += elapsed_ns
        median = float(np.median(latency))
        if last is not None and abs(median - last) <= STEADY * min(median, last):
            return WarmUp(np.concatenate(latencies), True)
        if last is not None and spent_ns >= workload.stop.warmup_max_s * 1e9:
            return WarmUp(np.concatenate(latencies), False)
        last = median


def server_loop(
    query: Query, source: Iterator[NDArray[np.float32]], workload: Workload, clock: Timer = time
) -> LatencyTrace:
    """Send queries when they are due, one at a time. Latency counts from the time when a query was due.

    If latency counted from the start of a query, a query that stalls would hide the waiting of the queries behind it
    ("coordinated omission", G. Tene, "How NOT to measure latency", 2013). The schedule alone determines the last
    query, as in LoadGen. If more queries arrive than can be answered, the maximum time ends the window.

    Raises:
        ValueError: there is no ``target_qps``, or no query was due within the maximum time.
    """
    if workload.target_qps is None:
        raise ValueError("scenario server needs target_qps, mean arrivals per second")
    now = clock.perf_counter_ns
    min_ns, max_ns = int(workload.stop.min_time_s * 1e9), int(workload.stop.max_time_s * 1e9)
    min_n = workload.stop.min_queries
    dues, starts, ends = array("q"), array("q"), array("q")
    marks = Marks()
    with no_collection():
        begin = now()
        for offset in arrivals(workload.target_qps, workload.seed):
            if offset >= max_ns:
                _wait(begin + max_ns, clock)
                break
            batch = next(source)
            due = begin + offset
            start = _wait(due, clock)
            query(batch)
            end = now()
            dues.append(due)
            starts.append(start)
            ends.append(end)
            marks.after(len(ends), end - begin)
            if (offset >= min_ns and len(ends) >= min_n) or end - begin >= max_ns:
                break
        elapsed_ns = now() - begin
    if not ends:
        raise ValueError(
            f"no query was due within max_time ({workload.stop.max_time_s:g} s) at target_qps {workload.target_qps:g}"
        )
    due_ns, start_ns, end_ns = (np.array(times, np.int64) for times in (dues, starts, ends))
    queue_ns, late_ns = queued(due_ns, start_ns, end_ns)
    reached = elapsed_ns >= min_ns and len(ends) >= min_n
    return LatencyTrace(
        end_ns - due_ns, elapsed_ns, reached, queue_ns=queue_ns, late_ns=late_ns, marks=marks.array()
    )


def _wait(due: int, clock: Timer) -> int:
    """Sleep until shortly before ``due``, then spin until ``due``. Return the time at the end."""
    now = clock.perf_counter_ns()
    if due - now > SPIN_NS:
        clock.sleep((due - now - SPIN_NS) / 1e9)
    while now < due:
        now = clock.perf_counter_ns()
    return now


def closed_loop(
    query: Query, source: Iterator[NDArray[np.float32]], stop: Callable[[int, int], bool], clock: Timer = time
) -> tuple[NDArray[np.int64], int]:
    """Send each query when the one before is answered, until ``stop(count, elapsed_ns)`` is true.

    Return the latencies (int64 [n], in nanoseconds) and the total time in nanoseconds.
    """
    now = clock.perf_counter_ns
    latency = np.zeros(4096, np.int64)
    n = 0
    with no_collection():
        begin = now()
        while True:
            batch = next(source)
            start = now()
            query(batch)
            end = now()
            if n == len(latency):
                latency = np.concatenate((latency, np.zeros_like(latency)))
            latency[n] = end - start
            n += 1
            if stop(n, end - begin):
                return latency[:n].copy(), end - begin

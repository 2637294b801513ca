"""The closed loop and the server loop, warm-up and the first query."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from harness.types import Workload
from harness.worker.loadgen.queries import Query, Timed, WarmUp, arrivals, no_collection, queued

__all__ = ["SPIN_NS", "STEADY", "WINDOW_NS", "WINDOW_QUERIES", "first_query", "warm_up"]


WINDOW_NS = 50_000_000


WINDOW_QUERIES = 10


STEADY = 0.02


SPIN_NS = 1_000_000  # a sleep may last longer than asked for by the timer's slack and the scheduler's


def first_query(query: Query, batch: NDArray[np.float32]) -> int:
    """Nanoseconds of one query; the caller sees to it that none ran before."""
    latency, _ = _timed(query, iter([batch]), lambda n, elapsed: True)
    return int(latency[0])


def warm_up(query: Query, inputs: list[NDArray[np.float32]], load: Workload) -> WarmUp:
    """Query once where ``load.warmup`` says so, else until the latency is steady: the medians of two successive windows differ by at most 2%.

    A window is at least 10 queries and 50 ms, or a quarter of ``load.warmup_max_s``, whichever comes first; no more
    begins after that time, but two always run (two queries where one takes seconds). The limit is that of
    Georges et al., "Statistically rigorous Java performance evaluation", OOPSLA 2007, section 4.2
    (coefficient of variation of 10 iterations below 0.02), put on medians so that a single disturbed query
    doesn't restart it. It ends effects of first use (caches, allocators, compilation, clocks); a slow drift
    passes, and is looked for in the window itself (:func:`harness.measure.flags.flags`).
    """
    source = itertools.cycle(inputs)
    if load.warmup == "one":
        return WarmUp(_timed(query, source, lambda n, elapsed: True)[0], True)
    max_s = load.warmup_max_s
    full_ns = int(max_s * 1e9 / 4)
    taken: list[NDArray[np.int64]] = []
    last: float | None = None
    spent = 0

    def full(n: int, elapsed: int) -> bool:
        return (n >= WINDOW_QUERIES and elapsed >= WINDOW_NS) or elapsed >= full_ns

    while True:
        latency, elapsed = _timed(query, source, full)
        taken.append(latency)
        spent += elapsed
        median = float(np.median(latency))
        if last is not None and abs(median - last) <= STEADY * min(median, last):
            return WarmUp(np.concatenate(taken), True)
        if last is not None and spent >= max_s * 1e9:
            return WarmUp(np.concatenate(taken), False)
        last = median


def _served(query: Query, source: Iterator[NDArray[np.float32]], load: Workload) -> Timed:
    """Queries as they are due, one at a time; latency counts from then, not from when a query could be taken up.

    Otherwise a query that stalls would hide what those had to wait that came meanwhile ("coordinated omission",
    G. Tene, "How NOT to measure latency", 2013). The schedule alone says which query is the last, as LoadGen
    has it; when more arrive than can be answered, it is the maximum time that ends the window.
    """
    if load.target_qps is None:
        raise ValueError("scenario server needs target_qps, mean arrivals per second")
    clock = time.perf_counter_ns
    min_ns, max_ns, min_n = int(load.min_time_s * 1e9), int(load.max_time_s * 1e9), load.min_queries
    dues, starts, ends = array("q"), array("q"), array("q")
    with no_collection():
        begin = clock()
        for offset in arrivals(load.target_qps, load.seed):
            if offset >= max_ns:
                _wait(begin + max_ns)
                break
            batch = next(source)
            due = begin + offset
            start = _wait(due)
            query(batch)
            end = clock()
            dues.append(due)
            starts.append(start)
            ends.append(end)
            if (offset >= min_ns and len(ends) >= min_n) or end - begin >= max_ns:
                break
        elapsed = clock() - begin
    if not ends:
        raise ValueError(
            f"no query was due within max_time ({load.max_time_s:g} s) at target_qps {load.target_qps:g}"
        )
    due_ns, start_ns, end_ns = (np.array(one, np.int64) for one in (dues, starts, ends))
    queue_ns, late_ns = queued(due_ns, start_ns, end_ns)
    reached = elapsed >= min_ns and len(ends) >= min_n
    return Timed(end_ns - due_ns, elapsed, reached, queue_ns=queue_ns, late_ns=late_ns)


def _wait(due: int) -> int:
    """Sleep until shortly before ``due``, spin until it; the time then, which is later if ``due`` was past."""
    clock = time.perf_counter_ns
    now = clock()
    if due - now > SPIN_NS:
        time.sleep((due - now - SPIN_NS) / 1e9)
    while now < due:
        now = clock()
    return now


def _timed(
    query: Query, source: Iterator[NDArray[np.float32]], stop: Callable[[int, int], bool]
) -> tuple[NDArray[np.int64], int]:
    """Latencies of queries over ``source`` until ``stop(count, elapsed ns)``, and the time that all took."""
    clock = time.perf_counter_ns
    taken = np.zeros(4096, np.int64)
    n = 0
    with no_collection():
        begin = clock()
        while True:
            batch = next(source)
            start = clock()
            query(batch)
            end = clock()
            if n == len(taken):
                taken = np.concatenate((taken, np.zeros_like(taken)))
            taken[n] = end - start
            n += 1
            if stop(n, end - begin):
                return taken[:n].copy(), end - begin

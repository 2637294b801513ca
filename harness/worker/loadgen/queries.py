"""Generating load, stopping it, and knowing when the measured thing is warm.

Scenarios (MLPerf Inference, Reddi et al., ISCA 2020, section 4; multi-stream as of version 2.0 of its rules):
``single-stream`` sends the next query when the last is answered; ``multi-stream`` does so with queries of
``streams`` samples that arrive at once; ``offline`` sends queries of ``batch`` samples back to back, and its
figure is samples / window. These are one loop here; they differ in what is made of the samples. ``server`` sends
queries when they are due, answered or not: arrivals of a Poisson process, drawn beforehand from a seed.
"""

from __future__ import annotations

import gc
import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.types import Load

__all__ = [
    "Query",
    "Timed",
    "WarmUp",
    "arrivals",
    "batches",
    "first_query",
    "generate",
    "no_collection",
    "per_query",
    "queued",
    "warm_up",
    "whole",
]

Query = Callable[[NDArray[np.float32]], Any]

WINDOW_NS = 50_000_000
WINDOW_QUERIES = 10
STEADY = 0.02
SPIN_NS = 1_000_000  # a sleep may last longer than asked for by the timer's slack and the scheduler's
DRAWN_AT_ONCE = 4096


@dataclass(frozen=True)
class WarmUp:
    """Latencies before the window, int64 [n] in nanoseconds, and whether they became steady."""

    latency_ns: NDArray[np.int64]
    steady: bool


@dataclass(frozen=True)
class Timed:
    """One window: latencies, int64 [n]; its length, both in nanoseconds; whether both minima were met.

    Of the server scenario also, int64 [n]: ``queue_ns``, from when a query was due until it was taken up, a part
    of its latency; and ``late_ns``, what of that is the generator's own, for nothing else was being answered.
    ``reference``: what LoadGen itself says of a window that it drove (:mod:`harness.worker.loadgen.mlperf`).
    """

    latency_ns: NDArray[np.int64]
    window_ns: int
    reached: bool
    queue_ns: NDArray[np.int64] | None = None
    late_ns: NDArray[np.int64] | None = None
    reference: Mapping[str, float | str] = field(default_factory=dict)


def batches(images: NDArray[np.float32], batch: int) -> list[NDArray[np.float32]]:
    """Queries to cycle through: ``images`` [m, ...] cut into contiguous views [batch, ...].

    Fewer than ``batch`` images are repeated to fill one query; a remainder that fills none is left out.

    Raises:
        ValueError: there is no image, or ``batch`` is below 1.
    """
    if batch < 1 or len(images) == 0:
        raise ValueError(f"cannot make queries of {batch} samples from {len(images)} images")
    if len(images) < batch:
        images = np.concatenate([images] * -(-batch // len(images)))
    images = np.ascontiguousarray(images)
    return [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]


def per_query(load: Load) -> int:
    """Images in one query."""
    return load.streams if load.scenario == "multi-stream" else load.batch


def whole(query: Query, load: Load) -> Query:
    """``query``, made to take all images of one query: a multi-stream one is worked off in batches."""
    if load.scenario != "multi-stream" or load.streams == load.batch:
        return query

    def all_of(images: NDArray[np.float32]) -> None:
        for start in range(0, len(images), load.batch):
            query(images[start : start + load.batch])

    return all_of


def first_query(query: Query, batch: NDArray[np.float32]) -> int:
    """Nanoseconds of one query; the caller sees to it that none ran before."""
    latency, _ = _timed(query, iter([batch]), lambda n, elapsed: True)
    return int(latency[0])


def warm_up(query: Query, inputs: list[NDArray[np.float32]], load: Load) -> WarmUp:
    """Query once where ``load.warmup`` says so, else until the latency is steady: the medians of two successive windows differ by at most 2%.

    A window is at least 10 queries and 50 ms, or a quarter of ``load.warmup_max_s``, whichever comes first; no more
    begins after that time, but two always run (two queries where one takes seconds). The limit is that of
    Georges et al., "Statistically rigorous Java performance evaluation", OOPSLA 2007, section 4.2
    (coefficient of variation of 10 iterations below 0.02), put on medians so that a single disturbed query
    doesn't restart it. It ends effects of first use (caches, allocators, compilation, clocks); a slow drift
    passes, and is looked for in the window itself (:func:`harness.machine.state.flags`).
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


def generate(query: Query, inputs: list[NDArray[np.float32]], load: Load) -> Timed:
    """Query until minimum time and minimum count are both met, or the maximum time is: without pause, or as due.

    The timed region holds the call and nothing else; the garbage collector rests.

    Raises:
        ValueError: the server scenario without ``target_qps``, or no query was due within the maximum time.
        ImportError: LoadGen shall generate the load, and is not installed (:func:`harness.worker.loadgen.mlperf.missing`).
    """
    if load.generator == "loadgen":
        from harness.worker.loadgen.mlperf import generate_with_loadgen

        return generate_with_loadgen(query, inputs, load)
    if load.in_flight > 1:
        from harness.worker.loadgen.pipelined import generate_pipelined

        return generate_pipelined(query, inputs, load)  # type: ignore[arg-type]  # the worker's takes frames ahead
    if load.scenario == "server":
        return _served(query, itertools.cycle(inputs), load)
    min_ns, max_ns, min_n = int(load.min_time_s * 1e9), int(load.max_time_s * 1e9), load.min_queries

    def enough(n: int, elapsed: int) -> bool:
        return (elapsed >= min_ns and n >= min_n) or elapsed >= max_ns

    latency, elapsed = _timed(query, itertools.cycle(inputs), enough)
    return Timed(latency, elapsed, elapsed >= min_ns and len(latency) >= min_n)


def arrivals(qps: float, seed: int) -> Iterator[int]:
    """When queries are due, in nanoseconds from a window's begin, without end: a Poisson process."""
    rng = np.random.default_rng(seed)
    last = 0.0
    while True:
        due = last + np.cumsum(rng.exponential(1e9 / qps, DRAWN_AT_ONCE))
        last = float(due[-1])
        yield from map(int, due.tolist())


def queued(
    due_ns: NDArray[np.int64], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``queue_ns`` and ``late_ns`` of :class:`Timed`; all int64 [n], on one clock, one query at a time."""
    queue = start_ns - due_ns
    free = np.concatenate((due_ns[:1], end_ns[:-1]))  # since when nothing was being answered
    return queue, np.where(free <= due_ns, queue, 0)


def _served(query: Query, source: Iterator[NDArray[np.float32]], load: Load) -> Timed:
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


@contextmanager
def no_collection() -> Iterator[None]:
    """The garbage collector rests."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""Generating load, stopping it, and knowing when the measured thing is warm.

Scenarios (MLPerf Inference, Reddi et al., ISCA 2020, section 4): ``single-stream`` sends the next query when
the last is answered; ``offline`` sends queries of ``batch`` samples back to back, and its figure is
samples / window. Both are one loop here; they differ in what is made of the samples.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.types import Load

__all__ = ["Query", "Timed", "WarmUp", "batches", "first_query", "generate", "per_query", "warm_up", "whole"]

Query = Callable[[NDArray[np.float32]], Any]

WINDOW_NS = 50_000_000
WINDOW_QUERIES = 10
STEADY = 0.02


@dataclass(frozen=True)
class WarmUp:
    """Latencies before the window, int64 [n] in nanoseconds, and whether they became steady."""

    latency_ns: NDArray[np.int64]
    steady: bool


@dataclass(frozen=True)
class Timed:
    """One window: latencies, int64 [n]; its length, both in nanoseconds; whether both minima were met."""

    latency_ns: NDArray[np.int64]
    window_ns: int
    reached: bool


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
    passes, and is looked for in the window itself (:func:`harness.state.flags`).
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
    """Query without pause until minimum time and minimum count are both met, or the maximum time is.

    The timed region holds the call and nothing else; the garbage collector rests.

    Raises:
        ValueError: the scenario is one that cannot be generated yet.
    """
    if load.scenario not in ("single-stream", "offline"):
        raise ValueError(
            f"scenario {load.scenario!r} is not there yet; it comes later. allowed: offline, single-stream"
        )
    min_ns, max_ns, min_n = int(load.min_time_s * 1e9), int(load.max_time_s * 1e9), load.min_queries

    def enough(n: int, elapsed: int) -> bool:
        return (elapsed >= min_ns and n >= min_n) or elapsed >= max_ns

    latency, elapsed = _timed(query, itertools.cycle(inputs), enough)
    return Timed(latency, elapsed, elapsed >= min_ns and len(latency) >= min_n)


def _timed(
    query: Query, source: Iterator[NDArray[np.float32]], stop: Callable[[int, int], bool]
) -> tuple[NDArray[np.int64], int]:
    """Latencies of queries over ``source`` until ``stop(count, elapsed ns)``, and the time that all took."""
    clock = time.perf_counter_ns
    taken = np.zeros(4096, np.int64)
    n = 0
    with _no_collection():
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
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""The terms of load generation: queries, the times when they are due, and their images.

Scenarios (MLPerf Inference, Reddi et al., ISCA 2020, section 4; multi-stream as of version 2.0 of its rules):
``single-stream`` sends the next query when the last one is answered. ``multi-stream`` does so with queries of
``streams`` samples that arrive together. ``offline`` sends queries of ``batch`` samples without pause, and its figure
is samples / window. These three use one loop here, and differ in the use of the samples. ``server`` sends queries
when they are due, whether or not earlier ones are answered. The times are the arrivals of a Poisson process, drawn
beforehand from a seed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.types import Workload

__all__ = [
    "InFlight",
    "Query",
    "QueryStream",
    "Timer",
    "arrivals",
    "batches",
    "no_collection",
    "per_query",
    "queued",
    "whole",
]

Query = Callable[[NDArray[np.float32]], Any]
"""A function that answers images [n, ...] and returns when the answer is complete."""

DRAWN_AT_ONCE = 4096


class Timer(Protocol):
    """The functions of the module :mod:`time` that the loops need."""

    def perf_counter_ns(self) -> int:
        """Return a monotonic time in nanoseconds."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Sleep for ``seconds``."""
        ...


class InFlight(Protocol):
    """A query that was begun. Times are nanoseconds of ``time.perf_counter_ns()``.

    ``end_ns`` is set when it is ``done``.
    """

    due_ns: int
    begin_ns: int
    end_ns: int

    @property
    def done(self) -> bool:
        """Return whether the query has ended."""
        ...


class QueryStream(Protocol):
    """An object that takes queries before earlier ones are answered."""

    def submit(self, images: NDArray[np.float32], due_ns: int | None = None) -> InFlight:
        """Begin a query that was due at ``due_ns``, or is due now."""
        ...

    def step(self, until_ns: int | None = None) -> None:
        """Do one step of the queries that were begun. Wait no longer than until ``until_ns``, if given."""
        ...


def batches(images: NDArray[np.float32], batch: int) -> list[NDArray[np.float32]]:
    """Return the queries of a cycle: ``images`` [m, ...] cut into contiguous views [batch, ...].

    Fewer than ``batch`` images are repeated to fill one query. A remainder that does not fill a query is left out.

    Raises:
        ValueError: there is no image, or ``batch`` is below 1.
    """
    if batch < 1 or len(images) == 0:
        raise ValueError(f"cannot make queries of {batch} samples from {len(images)} images")
    if len(images) < batch:
        images = np.concatenate([images] * -(-batch // len(images)))
    images = np.ascontiguousarray(images)
    return [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]


def per_query(workload: Workload) -> int:
    """Return the number of images in one query."""
    return workload.streams if workload.scenario == "multi-stream" else workload.batch


def whole(query: Query, workload: Workload) -> Query:
    """Return a function that answers all images of one query. A multi-stream query is answered in batches."""
    if workload.scenario != "multi-stream" or workload.streams == workload.batch:
        return query

    def all_of(images: NDArray[np.float32]) -> None:
        for start in range(0, len(images), workload.batch):
            query(images[start : start + workload.batch])

    return all_of


def arrivals(qps: float, seed: int) -> Iterator[int]:
    """Yield without end the times when queries are due, in nanoseconds from a window's begin: a Poisson process."""
    rng = np.random.default_rng(seed)
    last = 0.0
    while True:
        due = last + np.cumsum(rng.exponential(1e9 / qps, DRAWN_AT_ONCE))
        last = float(due[-1])
        yield from map(int, due.tolist())


def queued(
    due_ns: NDArray[np.int64], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``queue_ns`` and ``late_ns`` of :class:`harness.types.LatencyTrace`.

    The queries are answered one at a time.

    All are int64 [n], in nanoseconds of one clock.
    """
    queue = start_ns - due_ns
    free = np.concatenate((due_ns[:1], end_ns[:-1]))  # the time since which no query was being answered
    return queue, np.where(free <= due_ns, queue, 0)


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch off the garbage collector for the length of the block."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

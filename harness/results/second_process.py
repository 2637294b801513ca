"""A second process that shares the reading of many records, since Python uses one core of a process."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import TypeVar

from harness.errors import HarnessError
from harness.processes import die_with_parent, starting

__all__ = ["SecondProcess", "map_parts"]

P = TypeVar("P")
R = TypeVar("R")

_AHEAD = 2
"""Parts that the second process has at once: it works on one and has the next one at hand."""


class SecondProcess:
    """A process that starts with its first work and ends with the ``with`` block.

    ``cores``: the cores that this process may use. With one core there is no second process.
    """

    def __init__(self, cores: int | None = None) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._usable = (_cores() if cores is None else cores) > 1

    def __enter__(self) -> SecondProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[[P], R], part: P) -> Future[R] | None:
        """Give a part to the process; None if there is no second core, or no process."""
        if not self._usable:
            return None
        try:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), initializer=die_with_parent
                )
                with starting():
                    return self._pool.submit(function, part)
            return self._pool.submit(function, part)
        except (BrokenExecutor, HarnessError):
            self._usable = False
            return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_parts(
    function: Callable[[P], R], parts: Iterable[P], second: SecondProcess | None = None
) -> Iterator[R]:
    """Yield ``function(part)`` for each part, in order, computed in this process and in the second one.

    What a second process does not return, because the system ended it, is computed here. ``function``, parts and
    results must be picklable if there is a second process.
    """
    results: dict[int, R] = {}
    waiting: deque[tuple[int, P, Future[R]]] = deque()
    following = 0

    def collect() -> None:
        number, part, future = waiting.popleft()
        try:
            results[number] = future.result()
        except BrokenExecutor:
            results[number] = function(part)

    for number, part in enumerate(parts):
        while waiting and waiting[0][2].done():
            collect()
        future = second.submit(function, part) if second and len(waiting) < _AHEAD else None
        if future is None:
            results[number] = function(part)
        else:
            waiting.append((number, part, future))
        while following in results:
            yield results.pop(following)
            following += 1
    while waiting:
        collect()
    yield from (results[number] for number in sorted(results))

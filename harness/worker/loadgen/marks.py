"""Marks within a window: how far it was, and the CPU time of the process until then.

A process that was stopped, or that waited for a core, has less CPU time than the time that passed. The marks show in
which parts of the window that was so. They are set between queries, so no latency contains them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["EVERY_NS", "Marks"]

EVERY_NS = 100_000_000
"""Least time between two marks."""


class Marks:
    """The marks of one window. ``cpu_ns`` returns the CPU time of this process, of all its threads."""

    def __init__(self, cpu_ns: Callable[[], int] = time.process_time_ns, every_ns: int = EVERY_NS) -> None:
        self._cpu_ns, self._every_ns = cpu_ns, every_ns
        self._marks = array("q")
        self._next_ns = every_ns
        self._begin_cpu_ns = cpu_ns()

    def after(self, n: int, elapsed_ns: int, last: bool = False) -> None:
        """Set a mark after the n-th query, if enough time has passed since the last mark, or if it is the last query."""
        if elapsed_ns >= self._next_ns or last:
            self._marks.extend((n, elapsed_ns, self._cpu_ns() - self._begin_cpu_ns))
            self._next_ns = elapsed_ns + self._every_ns

    def array(self) -> NDArray[np.int64]:
        """Return the marks, int64 [k, 3]: queries so far, nanoseconds so far, nanoseconds of CPU time so far."""
        return np.array(self._marks, np.int64).reshape(-1, 3)

"""A buffer for the readings that a device streams. One thread adds readings, another fetches them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Stream"]

KEEP_NS = 3600 * 10**9


class Stream:
    """The readings of the last hour of the device called ``name``, in watts or joules."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts: deque[tuple[NDArray[np.int64], NDArray[np.float64]]] = deque()
        self._more = threading.Condition()
        self._failed = ""

    def add(self, ns: ArrayLike, values: ArrayLike) -> None:
        """Add readings in order of time, later than all readings before. ``ns`` is monotonic nanoseconds."""
        part = np.asarray(ns, np.int64), np.asarray(values, np.float64)
        with self._more:
            self._parts.append(part)
            while self._parts[0][0][-1] < part[0][-1] - KEEP_NS:
                self._parts.popleft()
            self._more.notify_all()

    def fail(self, reason: str) -> None:
        """Record that no more readings come, and the reason."""
        with self._more:
            self._failed = reason
            self._more.notify_all()

    def wait(self, until_ns: int, limit_s: float) -> None:
        """Wait until there is a reading at or after ``until_ns``. Raises ``OSError`` if none comes in ``limit_s``."""
        with self._more:
            self._more.wait_for(lambda: self._failed or self._last() >= until_ns, limit_s)
            if self._last() < until_ns:
                raise OSError(f"{self._name}: {self._failed or f'no reading came for {limit_s:g} s'}")

    def window(self, begin_ns: int, end_ns: int) -> Sequence[tuple[int, float]]:
        """Return the readings of a window, with one reading before and one after it to interpolate both ends."""
        with self._more:
            parts = [part for part in self._parts if part[0][-1] >= begin_ns and part[0][0] <= end_ns]
            earlier = [part for part in self._parts if part[0][-1] < begin_ns][-1:]
            later = [part for part in self._parts if part[0][0] > end_ns][:1]
            parts = earlier + parts + later
        if not parts:
            return []
        ns, values = (np.concatenate([part[i] for part in parts]) for i in range(2))
        first = max(int(np.searchsorted(ns, begin_ns, "right")) - 1, 0)
        after = int(np.searchsorted(ns, end_ns)) + 1
        return list(zip(ns[first:after].tolist(), values[first:after].tolist(), strict=True))

    def _last(self) -> int:
        return int(self._parts[-1][0][-1]) if self._parts else -1

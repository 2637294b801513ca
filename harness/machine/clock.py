"""The offset of another machine's clock, measured by round trips."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.types import Clock

__all__ = ["clock_of"]


def clock_of(
    read_ns: Callable[[], int], round_trips: int, own_ns: Callable[[], int] = time.monotonic_ns
) -> Clock:
    """Return the offset of another clock from this process's clock, by the fastest of several round trips.

    The other clock was read between the beginning and the end of the trip. The error is therefore at most half of the
    trip: Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.

    Args:
        read_ns: requests the other clock in nanoseconds, and waits for the answer. Its errors are raised unchanged.
        round_trips: the number of requests, at least one.
        own_ns: returns this process's clock in nanoseconds.
    """
    trips = []
    for _ in range(round_trips):
        sent = own_ns()
        there = read_ns()
        received = own_ns()
        trips.append((received - sent, there - (sent + received) // 2))
    took, offset = min(trips)
    return Clock(offset_ns=offset, error_ns=took // 2 + 1)

"""The offset of another machine's clock, measured by round trips."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.types import Clock

__all__ = ["clock_of"]


def clock_of(
    read_ns: Callable[[], int], round_trips: int, own_ns: Callable[[], int] = time.monotonic_ns
) -> Clock:
    """Return another clock less this process's clock, by the fastest of several round trips.

    The other clock was read between the beginning and the end of the trip. The error is therefore at most half of the
    trip: Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.

    Args:
        read_ns: asks for the other clock, in nanoseconds, and waits for the answer. What it raises is passed on.
        round_trips: how often it is asked, at least once.
        own_ns: this process's clock.
    """
    trips = []
    for _ in range(round_trips):
        sent = own_ns()
        there = read_ns()
        received = own_ns()
        trips.append((received - sent, there - (sent + received) // 2))
    took, offset = min(trips)
    return Clock(offset_ns=offset, error_ns=took // 2 + 1)

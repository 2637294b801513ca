"""The lengths of a window and of the idle time around it that meters need.

:class:`Durations` holds the three durations of a set of meters. All code that waits for meters takes them from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.types import MeterInfo, Workload

__all__ = ["Durations", "interval_s", "lengthened", "longest_s", "needed_time_s"]

FASTEST_S, SLOWEST_S = 0.01, 0.1
"""Shortest and longest time in seconds between two polls of a meter."""
EDGE_ERROR = 0.1
"""Largest error of a window's two edges, as a share of its energy, if the suite sets no ``energy_error``."""
IDLE_READINGS = 6
SETTLE_S = 0.5
"""Wait in seconds after a load if no meter reads on this machine."""
ROUNDS = 3
"""Largest number of times that a window is measured, longer each time, to reach the ``energy_error`` of a suite."""
LONGEST_IDLE_S = 30.0
"""Largest length in seconds of idle time that is lengthened together with the window."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """The times that a set of meters needs, in seconds.

    ``settle_s``: the time after a load until its energy no longer affects a reading. ``idle_s``: the idle time, after
    the readings have settled, that contains enough readings. ``window_s``: the length of a window for which the error
    of its edges is small enough.
    """

    settle_s: float = SETTLE_S
    idle_s: float = 0.0
    window_s: float = 0.0

    @classmethod
    def of(cls, meters: Iterable[MeterInfo], error: float | None = None) -> Durations:
        """Return durations that are long enough for every meter. ``error`` is relative; the default is 0.1."""
        meters = list(meters)
        if not meters:
            return cls()
        slow = [(max(info.period_s, interval_s(info)), info.averaging_s) for info in meters]
        return cls(
            settle_s=max(2 * period + averaging for period, averaging in slow),
            idle_s=max(IDLE_READINGS * period + averaging for period, averaging in slow),
            window_s=max(needed_time_s(info, error or EDGE_ERROR) for info in meters),
        )


def needed_time_s(info: MeterInfo, error: float, clock_error_s: float = 0.0) -> float:
    """Return the length of a window for which the error of its edges is within ``error`` of the energy, in seconds.

    The time of each edge is known to one reading plus the clock's error. A meter is polled at most 100 times a
    second.
    """
    return 2 * (max(info.period_s, FASTEST_S) + clock_error_s) / error


def interval_s(info: MeterInfo) -> float:
    """Return the seconds between two readings of a polled meter, from 0.01 to 0.1.

    It is the meter's period. For a counter it is a quarter of the period, since the time of a change is known only to
    the poll that saw it.
    """
    return min(max(info.period_s / (4 if info.quantity == "energy" else 1), FASTEST_S), SLOWEST_S)


def lengthened(workload: Workload, meters: Sequence[MeterInfo]) -> Workload:
    """Return the workload with a window and idle time that are long enough for meters read elsewhere.

    The worker that measures does not know these meters, so their settling is a part of its idle time.
    """
    if not meters:
        return workload
    needed = Durations.of(meters, workload.metering.error)
    return replace(
        workload,
        metering=replace(
            workload.metering,
            elsewhere=True,
            idle_s=max(workload.metering.idle_s, needed.idle_s) + needed.settle_s
            if workload.metering.idle_s
            else 0.0,
        ),
        stop=replace(
            workload.stop,
            min_time_s=min(max(workload.stop.min_time_s, needed.window_s), workload.stop.max_time_s),
        ),
    )


def longest_s(workload: Workload, meters: Sequence[MeterInfo] = ()) -> float:
    """Return a time in seconds that a measurement exceeds only if a single query does.

    It is the sum of idle time, warm-up and window, times the number of windows, plus the time to cool down.
    ``meters`` are the meters that are read elsewhere.
    """
    needed = Durations.of(meters, workload.metering.error)
    rounds = ROUNDS if workload.metering.error is not None else 1
    idle_s = max(workload.metering.idle_s, needed.idle_s, LONGEST_IDLE_S if rounds > 1 else 0.0)
    around_s = 2 * (max(needed.settle_s, SETTLE_S) + idle_s)
    once_s = (
        around_s + workload.stop.warmup_max_s + workload.stop.max_time_s + (workload.stop.sustained_s or 0.0)
    )
    return rounds * once_s + (
        workload.metering.cool_limit_s if workload.metering.cool_below_c is not None else 0.0
    )

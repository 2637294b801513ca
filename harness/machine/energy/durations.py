"""How long a window and the idle time around it last, for the meters that read it.

One value holds the three durations of a set of meters: :class:`Durations`. What waits reads it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.types import MeterInfo, Workload

__all__ = ["Durations", "interval_s", "lengthened", "longest_s", "needed_time_s"]

FASTEST_S, SLOWEST_S = 0.01, 0.1
"""A meter is polled at most and at least this often."""
EDGE_ERROR = 0.1
"""Share of a window's energy that its two edges may hide where a suite asks for no error."""
IDLE_READINGS = 6
SETTLE_S = 0.5
"""Wait after a load where no meter reads here."""
ROUNDS = 3
"""How often a window is measured at most, each time longer, for the error that a suite asks for."""
LONGEST_IDLE_S = 30.0
"""Idle time is lengthened together with the window, up to this."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """What a set of meters needs, in seconds.

    ``settle_s``: after a load, until no reading tells of it any more. ``idle_s``: idle time with enough readings
    in it, once they have settled. ``window_s``: the window whose edges hide no more than the admitted error.
    """

    settle_s: float = SETTLE_S
    idle_s: float = 0.0
    window_s: float = 0.0

    @classmethod
    def of(cls, meters: Iterable[MeterInfo], error: float | None = None) -> Durations:
        """Return the greatest duration of any of the meters. ``error`` is relative; the default is 0.1."""
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
    """Return the length of a window for which the error of its two edges is within ``error`` of the energy.

    Each edge is known to one reading, of a meter that is polled 100 times a second at most, and to the clock's
    error.
    """
    return 2 * (max(info.period_s, FASTEST_S) + clock_error_s) / error


def interval_s(info: MeterInfo) -> float:
    """Return the seconds between two readings of a polled meter, 0.01 to 0.1: its period, of a counter a quarter.

    A counter's change is known to the poll that saw it.
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
    """Return the time that no measurement exceeds unless one query does. ``meters`` are those read beside it.

    It is the sum of idle time, warm-up and window, as often as a window is lengthened, and of cooling down.
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

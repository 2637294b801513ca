"""How long a window and the idle time around it last, for the meters that read it."""

from __future__ import annotations

from harness.types.meters import MeterInfo

__all__ = ["FASTEST_POLL_S", "interval_s", "needed_time_s"]


FASTEST_POLL_S = 0.01
FASTEST_S, SLOWEST_S = 0.01, 0.1


def needed_time_s(info: MeterInfo, error: float, clock_error_s: float = 0.0) -> float:
    """Length of a window for which the error of its two edges is within ``error`` of the energy.

    Each edge is known to one reading, of a meter that is polled 100 times a second at most, and to the clock's
    error.
    """
    return 2 * (max(info.period_s, FASTEST_POLL_S) + clock_error_s) / error


def interval_s(info: MeterInfo) -> float:
    """Seconds between two readings of a meter that is polled, 10 to 100 Hz: its period, of a counter a quarter.

    A counter's change is known to the poll that saw it.
    """
    return min(max(info.period_s / (4 if info.quantity == "energy" else 1), FASTEST_S), SLOWEST_S)

"""Figures as text: significant digits, intervals, and a figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["interval_text", "rank_text", "significant", "with_interval"]


def significant(value: float) -> str:
    """Return a number with three significant digits and no exponent; an integer in full."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(f'{digits}e{exponent}'):.{max(0, 2 - int(exponent))}f}"


def with_interval(value: float, interval: Sequence[float]) -> str:
    """Return a number and ± its distance to the farther end of its interval, with as many decimals as the number.

    A distance that is not 0 is never shown as 0.
    """
    text = significant(value)
    decimals = len(text.partition(".")[2])
    farther = max(interval[1] - value, value - interval[0])
    return f"{text} ±{max(farther, 10**-decimals):,.{decimals}f}" if farther > 0 else text


def interval_text(interval: Sequence[float], unit: str) -> str:
    """Return an interval: percentages with two decimals, else with significant digits."""
    low, high = (f"{end:.2f}" if unit == "%" else significant(float(end)) for end in interval)
    return f"[{low}, {high}]"


def rank_text(interval: Sequence[float]) -> str:
    """Return the interval of a rank: ``2`` or ``2-5``."""
    low, high = interval
    return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"

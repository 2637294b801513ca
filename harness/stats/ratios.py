"""Ratios of positive figures, such as latencies, from independent measurements: intervals, tests and planning.

The logarithms of the values are compared. The typical value of a row is the median of its processes. It is estimated
by the mean of the logarithms, which is the same for a log-normal figure and has less variance.

The other rows of a table do not moderate the variance of a row. Rows spread too differently: by 0.2% to 10% between
processes in one run of ``edge``. In simulated tables of six equal rows with three processes, of which one spreads five
times as much as the others, any two rows are separated in 2% of tables at 5%, and in 9% if the mean variance of the
rows adds four degrees of freedom (``benchmarks/cost_ranks.py``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, median

from harness.stats.distributions import beta_regularized, t_quantile
from harness.stats.power import POWER, chi_square_nodes, least

__all__ = [
    "MIN_VALUES",
    "LogSample",
    "detectable_ratio",
    "ratio_interval",
    "ratio_p",
    "typical_interval",
    "values_needed",
]

MIN_VALUES = 3
"""Smallest number of values with an interval. With two values its half-width is 9 standard deviations."""


@dataclass(frozen=True)
class LogSample:
    """The natural logarithms of ``n`` positive values: their mean and their sample variance.

    A figure that is counted, not measured, has the same value each time. Its ``n`` is None and its variance is 0.
    """

    n: int | None
    mean: float
    variance: float

    @classmethod
    def measured(cls, values: Sequence[float]) -> LogSample:
        """Return the sample of measured values.

        Raises:
            ValueError: there are fewer than :data:`MIN_VALUES` values, or one is not above 0.
        """
        if len(values) < MIN_VALUES:
            raise ValueError(f"{len(values)} values; {MIN_VALUES} are needed")
        if min(values) == max(values):  # the mean of equal logarithms may differ from them in the last digit
            return cls(len(values), math.log(values[0]), 0.0)
        logs = [math.log(value) for value in values]
        mean = fmean(logs)
        return cls(len(values), mean, math.fsum((value - mean) ** 2 for value in logs) / (len(values) - 1))

    @classmethod
    def counted(cls, value: float) -> LogSample:
        """Return the sample of a figure without error.

        Raises:
            ValueError: the value is not above 0.
        """
        return cls(None, math.log(value), 0.0)


def typical_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of the median of the distribution that the positive values come from.

    It is Student's t-interval of the mean logarithm, extended to the median of the values if that lies outside. This
    is possible from nine values on.

    Raises:
        ValueError: there are fewer than :data:`MIN_VALUES` values, or one is not above 0.
    """
    sample = LogSample.measured(values)
    if sample.variance == 0:
        return values[0], values[0]
    half = _t(confidence, len(values) - 1) * math.sqrt(sample.variance / len(values))
    middle = median(values)
    return min(_exp(sample.mean - half), middle), max(_exp(sample.mean + half), middle)


def ratio_interval(first: LogSample, second: LogSample, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of the ratio of two typical values, ``first`` over ``second``.

    It is Welch's t-interval of the difference of the mean logarithms, with the degrees of freedom of Satterthwaite
    (Welch 1947, Biometrika 34:28), rounded down to a tenth. The two rows may have different variances.
    """
    difference = first.mean - second.mean
    error, df = _welch(first, second)
    half = _t(confidence, math.floor(10 * df + 1e-6) / 10) * error if error > 0 else 0.0
    return _exp(difference - half), _exp(difference + half)


def ratio_p(first: LogSample, second: LogSample) -> float:
    """Return the two-sided p-value of Welch's t-test of equal mean logarithms.

    Without any variance, equal values give 1 and other values 0.
    """
    difference = first.mean - second.mean
    error, df = _welch(first, second)
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    t = difference / error
    return beta_regularized(df / 2, 0.5, df / (df + t * t))


def _welch(first: LogSample, second: LogSample) -> tuple[float, float]:
    """Return the standard error of the difference of the means, and its degrees of freedom."""
    parts = [(s.variance / s.n, s.n - 1) for s in (first, second) if s.n is not None and s.variance > 0]
    whole = sum(part for part, _ in parts)
    if whole == 0:
        return 0.0, math.inf
    return math.sqrt(whole), 1 / sum((part / whole) ** 2 / df for part, df in parts)


# --- planning -------------------------------------------------------------------------------------


def detectable_ratio(n: int, spread: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest ratio above 1 that the test separates with probability ``power`` at the level ``alpha``.

    Both rows have ``n`` values, whose logarithms have the standard deviation ``spread``.

    Raises:
        ValueError: ``n`` is below :data:`MIN_VALUES`.
    """
    find = _power(n, alpha)
    low, high = 0.0, 1.0
    while find(high) < power:
        high *= 2
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if find(middle) < power else (low, middle)
    return _exp(high * spread * math.sqrt(2 / n))


def values_needed(
    ratio: float, spread: float, *, alpha: float = 0.05, power: float = POWER, most: int = 10_000
) -> int | None:
    """Return the smallest number of values in each row that separates ``ratio``, or None if ``most`` are too few."""

    def separates(n: int) -> bool:
        return _power(n, alpha)(math.log(ratio) / (spread * math.sqrt(2 / n))) >= power

    high = MIN_VALUES
    while high < most and not separates(high):  # small numbers are cheap to try
        high = min(2 * high, most)
    return least(separates, MIN_VALUES, high)


@lru_cache(maxsize=256)
def _power(n: int, alpha: float) -> Callable[[float], float]:
    """Return the power as a function of the difference in standard errors, for rows with the same variance.

    It is an integral over the two estimated variances. Their sum is a chi-square with 2 (n - 1) degrees of freedom. The
    share of the first has a beta distribution, and gives the degrees of freedom of Satterthwaite:
    (n - 1) / (share^2 + (1 - share)^2).
    """
    if n < MIN_VALUES:
        raise ValueError(f"{n} values; {MIN_VALUES} are needed")
    totals = chi_square_nodes(2 * n - 2, _STEPS)
    bars = []
    for share, weight in _shares(n):
        quantile = t_quantile(1 - alpha / 2, (n - 1) / (share**2 + (1 - share) ** 2))
        bars += [(quantile * math.sqrt(total), weight * of_total) for total, of_total in totals]
    return lambda difference: sum(weight * _NORMAL.cdf(difference - bar) for bar, weight in bars)


def _shares(n: int) -> list[tuple[float, float]]:
    """Return nodes and weights for the greater share of two chi-squares with n - 1 degrees of freedom each."""
    width = min(0.5, 3 / math.sqrt(n))  # six standard deviations of the beta distribution
    shares = [0.5 + width * (index + 0.5) / _SHARES for index in range(_SHARES)]
    logs = [((n - 1) / 2 - 1) * math.log(share * (1 - share)) for share in shares]
    weights = [math.exp(value - max(logs)) for value in logs]
    return [(share, weight / sum(weights)) for share, weight in zip(shares, weights, strict=True)]


@lru_cache(maxsize=4096)
def _t(confidence: float, df: float) -> float:
    return t_quantile((1 + confidence) / 2, df)


def _exp(value: float) -> float:
    """Return the exponential, at most the greatest float."""
    return math.exp(min(value, LARGEST))


_NORMAL = NormalDist()
_SHARES, _STEPS = 12, 60
"""Points of the integral over the share of one variance, and over the sum of both."""
LARGEST = math.log(sys.float_info.max)

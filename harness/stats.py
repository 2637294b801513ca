"""Small statistics on raw samples, each with its source. Only the standard library is used.

Notation: ``q`` is a percentile in percent (0 < q < 100). Probabilities and confidences are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist, fmean, stdev

__all__ = [
    "EARLY_STOPPING_MIN",
    "beta_regularized",
    "binomial_cdf",
    "detectable_difference",
    "early_stopping_bound",
    "early_stopping_discard",
    "holm",
    "mcnemar",
    "paired_p",
    "percentile",
    "ruger",
    "t_interval",
    "t_quantile",
    "wilson",
]

EARLY_STOPPING_MIN: dict[float, int] = {50: 11, 90: 64, 95: 130, 97: 219, 99: 662, 99.9: 6636}
"""Percentile -> smallest number of queries from which LoadGen estimates it (confidence 0.99, tolerance 0).

This is the smallest n with P(Binomial(n, 1 - q/100) <= 1) <= 1 - confidence (its ``h_min(1) + 1``).
"""

CONFIDENCE = 0.99
"""LoadGen's confidence (MLPerf Inference, ``loadgen/results.cc``); its tolerance is 0."""


# --- percentiles of latency ---------------------------------------------------------------------


def percentile(values: Sequence[float], q: float) -> float:
    """Return LoadGen's empirical percentile: the sorted sample at 0-based index ``floor(n * q / 100)``.

    It is always one of the samples, never an interpolation. ``q`` is read as a decimal, so that 99.9% of 1,000 is
    exactly 999.

    Raises:
        ValueError: there are no values, or ``q`` is outside (0, 100).
    """
    if len(values) == 0:
        raise ValueError("a percentile of no values")
    if not 0 < q < 100:
        raise ValueError(f"percentile {q} is not between 0 and 100")
    rank = Fraction(str(q)) * len(values) // 100
    return sorted(values)[int(rank)]


def early_stopping_discard(n: int, q: float, confidence: float = CONFIDENCE) -> int:
    """Return LoadGen's t: the largest number of queries that may exceed the ``q``-th percentile, at this confidence.

    This is the largest t >= 1 with P(Binomial(n, 1 - q/100) <= t) <= 1 - confidence; 0 if n is too small.
    """
    over = 1 - q / 100

    def admissible(t: int) -> bool:
        return binomial_cdf(t, n, over) <= 1 - confidence

    if n < 2 or not admissible(1):
        return 0
    low, high = 1, n  # P(X <= n) = 1, so n is never admissible
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if admissible(middle) else (low, middle)
    return low


def early_stopping_bound(values: Sequence[float], q: float, confidence: float = CONFIDENCE) -> float | None:
    """Return LoadGen's early-stopping estimate: an upper bound of percentile ``q`` at this confidence.

    This is the t-th highest sample (t from :func:`early_stopping_discard`); t - 1 samples are discarded. The result
    is ``None`` if there are too few samples. Source: MLPerf Inference, ``loadgen/early_stopping.cc`` and
    ``loadgen/results.cc``.
    """
    discard = early_stopping_discard(len(values), q, confidence)
    return sorted(values)[len(values) - discard] if discard else None


# --- intervals ----------------------------------------------------------------------------------


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t-interval of the mean, (low, high), or ``None`` for fewer than three values.

    With two values its half-width is 9 standard deviations, which is of no use.
    """
    n = len(values)
    if n < 3:
        return None
    mean = fmean(values)
    half = t_quantile((1 + confidence) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, as fractions (Wilson 1927, without continuity correction).

    Raises:
        ValueError: ``n`` is not positive, or ``successes`` is outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


# --- paired comparison of accuracies --------------------------------------------------------------


def mcnemar(b: int, c: int) -> float:
    """Return the p-value of the exact two-sided McNemar test (McNemar 1947, exact binomial form).

    ``b`` is the number of samples that only the first method gets right, and ``c`` the number that only the second
    gets right. If both are 0, the p-value is 1.
    """
    return paired_p([(b, c)])


def paired_p(discordant: Sequence[tuple[int, int]]) -> float:
    """Return one two-sided p-value from one McNemar table (b, c) per seed.

    The seeds share their test samples, so their p-values depend on each other. The one-sided exact p-values are
    combined by :func:`ruger` in each direction, and the smaller result is doubled. Seeds that differ in opposite
    directions therefore do not add up. One seed gives :func:`mcnemar`.

    Raises:
        ValueError: ``discordant`` is empty.
    """
    first = ruger([binomial_cdf(c, b + c, 0.5) for b, c in discordant])
    second = ruger([binomial_cdf(b, b + c, 0.5) for b, c in discordant])
    return min(1.0, 2 * min(first, second))


def ruger(p_values: Sequence[float]) -> float:
    """Combine K p-values under any dependence: K/k times the k-th smallest, k = floor(K/2) + 1.

    Rüger (1978); Vovk and Wang (2020), "Combining p-values via averaging", section 1. With this k more than half of
    the p-values must be small, and the result is below twice the median.

    Raises:
        ValueError: ``p_values`` is empty.
    """
    if not p_values:
        raise ValueError("no p-values to combine")
    k = len(p_values) // 2 + 1
    return min(1.0, len(p_values) / k * sorted(p_values)[k - 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment of p-values, in the order given (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_difference(n: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest difference of two accuracies (a fraction) that a paired test on ``n`` samples detects.

    ``discordance`` is the share of samples that exactly one of the two methods gets right. Solves
    Connor (1987), Biometrics 43:207, for the difference d: ``n d^2 = (z_a sqrt(f) + z_b sqrt(f - d^2))^2``.
    If even d = discordance is too small to be detected, discordance grows with d (all in one direction).

    Raises:
        ValueError: ``n`` is not positive.
    """
    if n < 1:
        raise ValueError("a comparison of no samples")
    z_a = NormalDist().inv_cdf(1 - alpha / 2)
    z_b = NormalDist().inv_cdf(power)

    def seen(difference: float) -> bool:
        share = max(discordance, difference)
        needed = z_a * math.sqrt(share) + z_b * math.sqrt(max(0.0, share - difference * difference))
        return math.sqrt(n) * difference >= needed

    low, high = 0.0, 1.0
    if not seen(high):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


# --- distributions ------------------------------------------------------------------------------


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X ~ Binomial(n, p), through the incomplete beta function (DLMF 8.17.5)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return beta_regularized(n - k, k + 1, 1 - p)


def t_quantile(p: float, df: float) -> float:
    """Return the quantile at ``p`` (0 < p < 1) of Student's t distribution with ``df`` degrees of freedom."""
    if p < 0.5:
        return -t_quantile(1 - p, df)

    def below(t: float) -> bool:  # P(T <= t) < p, in the form whose argument keeps the digits of t
        if p < 0.75:
            return beta_regularized(0.5, df / 2, t * t / (df + t * t)) < 2 * p - 1
        return beta_regularized(df / 2, 0.5, df / (df + t * t)) / 2 > 1 - p

    high = 1.0
    while below(high):
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def beta_regularized(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), a, b > 0 (DLMF 8.17.22, evaluated as by Lentz 1976)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only for the other argument
        return 1 - beta_regularized(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, front * value / a)


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny

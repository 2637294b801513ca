"""Paired comparison of right and wrong answers on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from harness.stats.distributions import binomial_cdf

__all__ = ["detectable_difference", "mcnemar", "paired_p", "ruger"]


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

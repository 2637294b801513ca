"""Intervals of a mean and of a proportion. Confidences are fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from harness.stats.distributions import t_quantile

__all__ = ["t_interval", "wilson"]


def t_interval(
    values: Sequence[float], confidence: float = 0.95, step: float = 0.0
) -> tuple[float, float] | None:
    """Return Student's t-interval of the mean, (low, high), or ``None`` for fewer than three values.

    With two values its half-width is 9 standard deviations, which is of no use. ``step``: values are multiples of it,
    as an accuracy is a multiple of one image. The variance of rounding, step^2 / 12, is then added to theirs (Sheppard's
    correction), so that values that are equal by chance do not give an interval without width.
    """
    n = len(values)
    if n < 3:
        return None
    mean = fmean(values)
    deviation = math.sqrt(stdev(values) ** 2 + step**2 / 12)
    half = t_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
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

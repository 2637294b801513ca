"""Compare two models that answered the same images right or wrong."""

from __future__ import annotations

import math
from statistics import NormalDist

from harness.stats.distributions import binomial_cdf

__all__ = ["difference_interval", "mcnemar"]


def mcnemar(b: int, c: int) -> float:
    """Return the p-value of the exact two-sided McNemar test (McNemar 1947, exact binomial form).

    ``b`` is the number of samples that only the first method gets right, and ``c`` the number that only the second
    gets right. If both are 0, the p-value is 1.
    """
    return min(1.0, 2 * binomial_cdf(min(b, c), b + c, 0.5))


def difference_interval(b: int, c: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the difference of two accuracies on the same ``n`` samples, as fractions.

    ``b`` and ``c`` are as in :func:`mcnemar`. This is Wald's interval with one sample added to each of ``b`` and ``c``
    (Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37:479).

    Raises:
        ValueError: ``n`` is not positive, or ``b`` + ``c`` is outside 0..n.
    """
    if n < 1 or b < 0 or c < 0 or b + c > n:
        raise ValueError(f"{b} and {c} of {n} samples are no paired answers")
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(-1.0, first - second - half), min(1.0, first - second + half)

"""Distributions on the standard library only: binomial, Student's t, and the incomplete beta function."""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["beta_regularized", "binomial_cdf", "t_quantile", "t_tail"]


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X ~ Binomial(n, p), through the incomplete beta function (DLMF 8.17.5)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return beta_regularized(n - k, k + 1, 1 - p)


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """Return the quantile at ``p`` (0 < p < 1) of Student's t distribution with ``df`` degrees of freedom."""
    if p < 0.5:
        return -t_quantile(1 - p, df)

    def below(t: float) -> bool:  # P(T <= t) < p, in the form whose argument keeps the digits of t
        if p < 0.75:
            return beta_regularized(0.5, df / 2, t * t / (df + t * t)) < 2 * p - 1
        return t_tail(t, df) > 1 - p

    high = 1.0
    while below(high):
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def t_tail(t: float, df: float) -> float:
    """Return P(T > t), t >= 0, for Student's t distribution with ``df`` degrees of freedom."""
    return beta_regularized(df / 2, 0.5, df / (df + t * t)) / 2


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

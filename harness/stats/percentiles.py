"""Percentiles of latency as LoadGen (MLPerf Inference) computes them, and its early-stopping bounds.

``q`` is a percentile in percent (0 < q < 100). Confidences are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from harness.stats.distributions import binomial_cdf

__all__ = ["EARLY_STOPPING_MIN", "early_stopping_bound", "early_stopping_discard", "percentile"]

EARLY_STOPPING_MIN: dict[float, int] = {50: 11, 90: 64, 95: 130, 97: 219, 99: 662, 99.9: 6636}
"""Percentile -> smallest number of queries from which LoadGen estimates it (confidence 0.99, tolerance 0).

This is the smallest n with P(Binomial(n, 1 - q/100) <= 1) <= 1 - confidence (its ``h_min(1) + 1``).
"""

CONFIDENCE = 0.99
"""LoadGen's confidence (MLPerf Inference, ``loadgen/results.cc``); its tolerance is 0."""


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

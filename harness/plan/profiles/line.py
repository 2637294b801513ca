"""The line through the timings of a device, and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEAST", "Line", "fit"]


LEAST = 3
"""Number of points of different size that a line with an error needs."""


@dataclass(frozen=True)
class Line:
    """``fixed + slope * x``, for ``low <= x <= high``.

    ``error`` is the root mean square, and ``worst`` the largest, of the points' leave-one-out errors. Such an error is
    the distance of a point from the line through all others, relative to that line's value.
    """

    fixed: float
    slope: float
    error: float
    worst: float
    low: float
    high: float
    points: int

    def at(self, x: float) -> float:
        """Return the line's value at ``x``."""
        return self.fixed + self.slope * x

    def covers(self, x: float) -> bool:
        """Return whether ``x`` is inside the range of the points, within 1%.

        Outside the range the error is unknown.
        """
        return 0.99 * self.low <= x <= 1.01 * self.high


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Return the line with the least sum of squared *relative* residuals and no negative coefficient.

    Residuals are relative because the points of a profile differ by orders of magnitude. With absolute residuals the
    largest point alone would determine the line. Coefficients are not negative because an inference takes no negative
    time, and does not take less time for more MACs. The error comes from leaving each point out in turn (Stone,
    "Cross-validatory choice and assessment of statistical predictions", 1974).

    Raises:
        ValueError: fewer than three different ``xs``, a value that is not positive, or ``ys`` that do not rise.
    """
    if len(xs) != len(ys) or not all(0 < value < float("inf") for value in (*xs, *ys)):
        raise ValueError("a line needs positive, finite values")
    if len(set(xs)) < LEAST:
        raise ValueError(f"a line with an error needs {LEAST} points of different size, not {len(set(xs))}")
    fixed, slope = _least(xs, ys)
    if slope == 0:
        raise ValueError("no line can be fitted: the larger points take no longer than the smaller ones")
    shares = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        a, b = _least([*xs[:i], *xs[i + 1 :]], [*ys[:i], *ys[i + 1 :]])
        shares.append(abs(y / (a + b * x) - 1))
    rms = (sum(share**2 for share in shares) / len(shares)) ** 0.5
    return Line(fixed, slope, rms, max(shares), min(xs), max(xs), len(xs))


def _least(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) >= 0 with the least sum of ((a + b x) / y - 1)^2."""
    import numpy as np

    y = np.asarray(ys, float)
    rows = np.stack([1 / y, np.asarray(xs, float) / y], axis=1)
    scale = rows.max(axis=0)
    rows = rows / scale
    (a, b), *_ = np.linalg.lstsq(rows, np.ones(len(y)), rcond=None)
    if min(a, b) < 0:  # the sum is convex, so the best non-negative pair has one term that is zero
        alone = rows.sum(axis=0) / (rows**2).sum(axis=0)
        left = [float(((rows[:, k] * alone[k] - 1) ** 2).sum()) for k in (0, 1)]
        a, b = (alone[0], 0.0) if left[0] < left[1] else (0.0, alone[1])
    return float(a / scale[0]), float(b / scale[1])

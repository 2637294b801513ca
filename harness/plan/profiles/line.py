"""The line through a device's timings, and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["LEAST", "Line", "fit"]


LEAST = 3
"""Points that differ in size, below which no line has an error."""


@dataclass(frozen=True)
class Line:
    """``fixed + slope * x``, for ``low <= x <= high``.

    ``error`` is the root mean square, and ``worst`` the largest, of the points' leave-one-out errors: what a
    point lies beside the line through all others, as a share of what that line says.
    """

    fixed: float
    slope: float
    error: float
    worst: float
    low: float
    high: float
    points: int

    def at(self, x: float) -> float:
        return self.fixed + self.slope * x

    def covers(self, x: float) -> bool:
        """Whether points lie on both sides, within 1%; beyond them even the error is a guess."""
        return 0.99 * self.low <= x <= 1.01 * self.high


def fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line with the least sum of squared *relative* residuals, neither of whose terms is negative.

    Points of a profile are decades apart: in seconds the largest alone would make the line. An inference that
    costs less than nothing, or less the more it computes, is no model of anything. The error is by leaving
    each point out in turn (Stone, "Cross-validatory choice and assessment of statistical predictions", 1974).

    Raises:
        ValueError: fewer than three different ``xs``, a value that is not positive, or ``ys`` that do not rise.
    """
    if len(xs) != len(ys) or not all(0 < value < float("inf") for value in (*xs, *ys)):
        raise ValueError("a line needs positive, finite values")
    if len(set(xs)) < LEAST:
        raise ValueError(f"a line with an error needs {LEAST} points of different size, not {len(set(xs))}")
    fixed, slope = _least(xs, ys)
    if slope == 0:
        raise ValueError("the larger points take no longer: no line")
    shares = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        a, b = _least([*xs[:i], *xs[i + 1 :]], [*ys[:i], *ys[i + 1 :]])
        shares.append(abs(y / (a + b * x) - 1))
    rms = (sum(share**2 for share in shares) / len(shares)) ** 0.5
    return Line(fixed, slope, rms, max(shares), min(xs), max(xs), len(xs))


def _least(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """(a, b) >= 0 with the least sum of ((a + b x) / y - 1)^2."""
    import numpy as np

    y = np.asarray(ys, float)
    rows = np.stack([1 / y, np.asarray(xs, float) / y], axis=1)
    scale = rows.max(axis=0)
    rows = rows / scale
    (a, b), *_ = np.linalg.lstsq(rows, np.ones(len(y)), rcond=None)
    if min(a, b) < 0:  # convex, so the best is on an edge: one term alone
        alone = rows.sum(axis=0) / (rows**2).sum(axis=0)
        left = [float(((rows[:, k] * alone[k] - 1) ** 2).sum()) for k in (0, 1)]
        a, b = (alone[0], 0.0) if left[0] < left[1] else (0.0, alone[1])
    return float(a / scale[0]), float(b / scale[1])

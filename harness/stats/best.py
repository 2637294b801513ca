"""Tiers and intervals of ranks from comparisons with the best row. Any figure of rows can be ranked.

The caller sorts the rows, best first, and gives a function that compares one row with worse rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from harness.stats.multiple import holm

__all__ = ["ALPHA", "Compare", "rank_intervals", "tiers_by_best"]

ALPHA = 0.05
"""Family-wise error rate of the comparisons of a table."""

Compare: TypeAlias = Callable[[int, Sequence[int]], Sequence[float]]
"""(row, worse rows) -> the p-value of each comparison.

Rows are numbers in the order of rank. A p-value is that of a two-sided test of equal rows. It is 1 if the rows cannot
be compared, or if the tested difference is not in favour of the first row.
"""


def tiers_by_best(count: int, compare: Compare, alpha: float = ALPHA) -> list[int]:
    """Return the tier of each of ``count`` rows, which are sorted best first.

    Tier 1 has the first row, its leader, and all rows that are not separated from the leader. The rule is then
    repeated with the remaining rows. Each leader is compared with the rows below it only (multiple comparisons with
    the best, Hsu 1996).

    The leader is the best row of the sample, not a row that was chosen before. So any two of the k rows may be the pair
    that is tested. The r-th smallest of a leader's p-values is multiplied by k (m - r + 1) / 2, where m counts the
    rows that are not yet separated from the leader when its comparisons begin, rows of earlier tiers included:
    m = k - 1. This is Holm's step-down procedure over the leader's comparisons, times k/2.

    The probability that any row is separated from a leader that is equal to it is at most ``alpha``, whatever the
    other rows are, and however the p-values depend on each other. Proof: take a group of g equal rows. At the first false
    separation inside the group, its g - 1 other rows are not separated, so the p-value of the pair is at most
    alpha / (k (g - 1) / 2). The group has g (g - 1) / 2 pairs, so its error is at most alpha g / k by the union bound.
    The groups together have k rows.
    """
    tier_of = [0] * count
    remaining = list(range(count))
    tier = 0
    while remaining:
        tier += 1
        leader, others = remaining[0], remaining[1:]
        separated = _separated(compare(leader, others), count, alpha) if others else []
        tier_of[leader] = tier
        remaining = []
        for row, apart in zip(others, separated, strict=True):
            if apart:
                remaining.append(row)
            else:
                tier_of[row] = tier
    return tier_of


def rank_intervals(count: int, compare: Compare, alpha: float = ALPHA) -> list[tuple[int, int]]:
    """Return the confidence interval [low, high] of the rank of each of ``count`` rows, which are sorted best first.

    A row's rank is 1 plus the number of better rows. Each row is compared with all others, corrected by Holm over
    these count - 1 comparisons. The interval has all ranks that the separated rows leave (Mogstad, Romano, Shaikh and
    Wilhelm 2024, "Inference for ranks", section 3). It contains the rank of a given row with probability 1 - alpha or
    more. All pairs of rows are compared, so the cost grows with the square of ``count``.
    """
    values = [[1.0] * count for _ in range(count)]
    for row in range(count - 1):
        for other, p in zip(range(row + 1, count), compare(row, range(row + 1, count)), strict=True):
            values[row][other] = values[other][row] = float(p)
    intervals = []
    for row in range(count):
        others = [other for other in range(count) if other != row]
        adjusted = holm([values[row][other] for other in others])
        apart = [other for other, p in zip(others, adjusted, strict=True) if p <= alpha]
        better = sum(other < row for other in apart)
        intervals.append((1 + better, count - (len(apart) - better)))
    return intervals


def _separated(p_values: Sequence[float], count: int, alpha: float) -> list[bool]:
    """Return which rows are separated from a leader, by the step-down procedure of :func:`tiers_by_best`."""
    separated = [False] * len(p_values)
    for rank, row in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[row] * count * (count - 1 - rank) / 2 > alpha:
            break
        separated[row] = True
    return separated

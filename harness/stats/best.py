"""Tiers and intervals of ranks from one set of separated pairs of rows. Any figure of rows can be ranked.

The caller sorts the rows, best first, and gives a function that compares one row with worse rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from harness.stats.multiple import holm

__all__ = ["ALPHA", "Compare", "first_step", "rank_intervals", "tiers_by_best"]

ALPHA = 0.05
"""Family-wise error rate of the comparisons of a table."""

Compare: TypeAlias = Callable[[int, Sequence[int]], Sequence[float]]
"""(row, worse rows) -> the p-value of each comparison.

Rows are numbers in the order of rank. A p-value is that of a two-sided test of equal rows. It is 1 if the rows cannot
be compared, or if the tested difference is not in favour of the first row. If the first row is worse, the p-value is at
most x with a probability of at most x / 2.
"""


def first_step(count: int, alpha: float = ALPHA) -> float:
    """Return the largest p-value that separates a row at the first step of :func:`tiers_by_best`, for two rows or more."""
    return alpha / (count * (count - 1) / 2)


def tiers_by_best(count: int, compare: Compare, alpha: float = ALPHA) -> list[int]:
    """Return the tier of each of ``count`` rows, which are sorted best first.

    Tier 1 has the first row, its leader, and all rows that are not separated from the leader. The rule is then
    repeated with the remaining rows (multiple comparisons with the best, Hsu 1996).

    The leader is the best row of the sample, not a row that was chosen before. So each of the k rows may be a leader,
    and has a share alpha / k of the error. A leader is compared with all rows below it, rows of earlier tiers included.
    The r-th smallest of its p-values is multiplied by k (k - r) / 2. This is Holm's step-down procedure at the level
    alpha / k over the k - 1 one-sided hypotheses "row j is not worse than row i", whose p-values are p / 2.

    The probability that any row is separated from a row that is not better is at most ``alpha``, whatever the other
    rows are, and however the p-values depend on each other. Proof: let t of the k - 1 other rows be as good as row i or
    better. If row i is separated from any of them, then at the first such step at most k - 1 - t rows are separated. So
    one of the t p-values is at most 2 alpha / (k t). In the direction of row i, this has a probability of at most
    alpha / (k t). The sum over t rows is alpha / k, and the sum over all rows i is alpha.
    """
    tier_of = [0] * count
    remaining = list(range(count))
    tier = 0
    while remaining:
        tier += 1
        leader = remaining[0]
        separated = _separated_from(leader, count, compare, alpha)
        for row in remaining:
            if row not in separated:
                tier_of[row] = tier
        remaining = [row for row in remaining if row in separated]
    return tier_of


def rank_intervals(count: int, compare: Compare, alpha: float = ALPHA) -> list[tuple[int, int]]:
    """Return the confidence interval [low, high] of the rank of each of ``count`` rows, which are sorted best first.

    A row's rank is 1 plus the number of better rows. The interval has all ranks that the separated rows leave. All
    intervals together contain the ranks with probability 1 - alpha or more, so any number of rows may be read at once
    (simultaneous confidence sets, Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for ranks", section 3).

    Every row is compared with all rows below it as a leader is in :func:`tiers_by_best`. The proof there holds for all
    rows, so a table has one set of separated pairs for tiers and ranks. The intervals of two rows that are not separated
    overlap. Two rows between them may be separated from both, and would leave no common rank. The interval of the
    better row is then extended. All pairs of rows are compared, so the cost grows with the square of ``count``.
    """
    worse = [_separated_from(row, count, compare, alpha) for row in range(count)]
    low = [1 + sum(row in below for below in worse) for row in range(count)]
    return [
        (
            low[row],
            max([count - len(below), *(low[other] for other in range(row + 1, count) if other not in below)]),
        )
        for row, below in enumerate(worse)
    ]


def _separated_from(row: int, count: int, compare: Compare, alpha: float) -> set[int]:
    """Return the rows below ``row`` that are separated from it, by the procedure of :func:`tiers_by_best`."""
    others = range(row + 1, count)
    if not others:
        return set()
    above = [1.0] * row  # a row that is better in the sample is never found to be worse
    adjusted = holm([*above, *(p * count / 2 for p in compare(row, others))])
    return {other for other, p in zip(others, adjusted[row:], strict=True) if p <= alpha}

"""Tiers of rows by accuracy: the best row and all that no test separates from it, then the same among the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from harness.results.leaderboard.answers import Paired, answers_of, compare
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.why import Why
from harness.stats.best import ALPHA, rank_intervals, tiers_by_best
from harness.stats.power import Spread, detectable_difference

if TYPE_CHECKING:
    from harness.results.leaderboard.answers import AnswersOf

__all__ = ["MOST_RANKED", "no_tiers", "rank_by_tiers"]

MOST_RANKED = 100
"""Rows of a table up to which all pairs are compared for the intervals of ranks."""


def no_tiers(groups: Iterable[Group], reason: str) -> None:
    """Set tier and interval of rank of all rows to null, with a reason."""
    for group in groups:
        group.put("tier", Why(reason if group.good else group.reason))
        group.put("rank_ci", Why(reason if group.good else group.reason))


def rank_by_tiers(groups: list[Group], of_record: AnswersOf) -> float | None:
    """Give each row its tier and the interval of its rank, and sort the rows by tier.

    Rows are compared by :func:`harness.results.leaderboard.answers.compare`, and get tiers by
    :func:`harness.stats.best.tiers_by_best`. ``groups`` must be sorted by accuracy.

    Returns:
        The difference in points that the table's test detects with 80% power between two rows, at the first step of
        the correction, with the median spread of the leader's comparisons and the fewest seeds and images among them.
        ``None`` if no row shares a seed and raw predictions with the leader.
    """
    loaded = [(group, answers_of(group, of_record)) for group in groups]
    ranked = [(group, answers) for group, answers in loaded if answers.of_seed]
    without = [group for group, answers in loaded if not answers.of_seed]

    def paired(row: int, others: Sequence[int]) -> list[Paired | None]:
        return compare(ranked[row][1], [ranked[other][1] for other in others])

    def p_values(row: int, others: Sequence[int]) -> list[float]:
        return [
            1.0 if result is None or result.difference <= 0 else result.p for result in paired(row, others)
        ]

    tiers = tiers_by_best(len(ranked), p_values)
    for (group, _), tier in zip(ranked, tiers, strict=True):
        group.put("tier", tier)
    if len(ranked) <= MOST_RANKED:
        for (group, _), interval in zip(ranked, rank_intervals(len(ranked), p_values), strict=True):
            group.put("rank_ci", list(interval))
    else:
        for group, _ in ranked:
            group.put("rank_ci", Why(f"more than {MOST_RANKED} rows"))
    no_tiers(without, "no raw predictions")
    order = sorted(range(len(ranked)), key=lambda row: tiers[row])
    groups[:] = [*(ranked[row][0] for row in order), *without]
    if len(ranked) < 2:
        return None
    return _detectable([result for result in paired(0, range(1, len(ranked))) if result], len(ranked))


def _detectable(results: Sequence[Paired], rows: int) -> float | None:
    spreads = [result.spread for result in results if result.spread is not None]
    if not spreads:
        return None
    spread = Spread(
        seed=median(each.seed for each in spreads),
        image=median(each.image for each in spreads),
        residual=median(each.residual for each in spreads),
    )
    seeds = min(result.seeds for result in results)
    images = min(result.images for result in results)
    first_step = ALPHA / (rows * (rows - 1) / 2)
    return 100 * detectable_difference(spread, seeds, max(2, images), alpha=first_step)

"""Tiers of rows by accuracy: the best row and all that no test separates from it, then the same among the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.results.leaderboard.answers import ALONE, Answers, Paired, answers_of, compare
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.why import Why
from harness.stats.best import Compare, first_step, rank_intervals, tiers_by_best
from harness.stats.crossed import Prior
from harness.stats.power import Spread, detectable_difference

if TYPE_CHECKING:
    from harness.results.leaderboard.answers import AnswersOf

__all__ = ["MOST_RANKED", "Ranking", "comparison_of", "no_tiers", "rank", "rank_by_tiers"]

MOST_RANKED = 100
"""Rows of a table up to which all pairs are compared for the intervals of ranks."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The ranking of the rows of a table.

    ``tiers``: the tier of each row; ``None`` for a row that shares no seed and test images with the best one.
    ``intervals``: [low, high] of the rank of each row with a tier among these rows, in their order; empty if there are
    more than :data:`MOST_RANKED`. ``detectable``: the difference of two accuracies, as a fraction, that the test detects
    with 80% power at the first step of the correction, with the median spread of the best row's comparisons and the
    fewest seeds and images among them. ``None`` if no row shares a seed and raw predictions with the best one.
    ``one_seed``: whether two rows were compared on one seed.
    """

    tiers: tuple[int | None, ...]
    intervals: tuple[tuple[int, int], ...]
    detectable: float | None
    one_seed: bool = False


def no_tiers(groups: Iterable[Group], reason: str) -> None:
    """Set tier and interval of rank of all rows to null, with a reason."""
    for group in groups:
        group.put("tier", Why(reason if group.good else group.reason))
        group.put("rank_ci", Why(reason if group.good else group.reason))


def rank_by_tiers(groups: list[Group], of_record: AnswersOf) -> Ranking:
    """Give each row its tier and the interval of its rank, and sort the rows by tier. Return the ranking.

    ``groups`` must be sorted by accuracy.
    """
    loaded = [(group, answers_of(group, of_record)) for group in groups]
    ranked = [(group, answers) for group, answers in loaded if answers.of_seed]
    without = [group for group, answers in loaded if not answers.of_seed]
    ranking = rank([answers for _, answers in ranked])
    by_tier: dict[int, list[Group]] = {}
    apart = []
    intervals = iter(ranking.intervals)
    for (group, _), tier in zip(ranked, ranking.tiers, strict=True):
        if tier is None:
            apart.append(group)
            continue
        group.put("tier", tier)
        interval = next(intervals, None)
        group.put("rank_ci", list(interval) if interval else Why(f"more than {MOST_RANKED} rows"))
        by_tier.setdefault(tier, []).append(group)
    if apart:
        no_tiers(apart, f"no seed and test images in common with {ranked[0][0].row['method']}")
    no_tiers(without, "no raw predictions")
    groups[:] = [*(group for tier in sorted(by_tier) for group in by_tier[tier]), *apart, *without]
    return ranking


def rank(rows: Sequence[Answers]) -> Ranking:
    """Return tiers and intervals of ranks of rows, which are sorted best first."""
    if not rows:
        return Ranking(tiers=(), intervals=(), detectable=None)
    pairs = compare(rows[0], rows[1:])
    ranked = [0, *(place for place, paired in enumerate(pairs, 1) if paired)]
    with_best = [paired for paired in pairs if paired]
    prior = _prior(with_best)
    seeds: set[int] = set()
    p_values = _p_values([rows[place] for place in ranked], prior, seeds)
    tier_of = dict(zip(ranked, tiers_by_best(len(ranked), p_values), strict=True))
    return Ranking(
        tiers=tuple(map(tier_of.get, range(len(rows)))),
        intervals=tuple(rank_intervals(len(ranked), p_values)) if len(ranked) <= MOST_RANKED else (),
        detectable=_detectable(with_best, len(ranked), prior),
        one_seed=1 in seeds,
    )


def comparison_of(rows: Sequence[Answers]) -> Compare:
    """Return the comparison of rows, which are sorted best first.

    Rows are compared by :func:`harness.results.leaderboard.answers.compare`. What the comparisons with the best row say
    of the variance over seeds is used for all pairs.
    """
    with_best = compare(rows[0], rows[1:]) if rows else []
    return _p_values(rows, _prior([paired for paired in with_best if paired]), set())


def _p_values(rows: Sequence[Answers], prior: Prior, seeds: set[int]) -> Compare:
    """Return the comparison of rows. It adds the numbers of common seeds to ``seeds``."""

    def p_values(row: int, others: Sequence[int]) -> list[float]:
        results = compare(rows[row], [rows[other] for other in others], prior)
        seeds.update(paired.seeds for paired in results if paired)
        return [1.0 if paired is None or paired.difference <= 0 else paired.p for paired in results]

    return p_values


def _prior(with_best: Sequence[Paired]) -> Prior:
    """Return what the comparisons with the best row say of the variance over seeds."""
    crossed = [paired for paired in with_best if paired.seeds > 1 and paired.spread is not None]
    if not crossed:
        return ALONE
    seeds = min(paired.seeds for paired in crossed)
    images = min(paired.images for paired in crossed)
    return Prior.of([paired.spread for paired in crossed if paired.spread is not None], seeds, images)


def _detectable(with_best: Sequence[Paired], rows: int, prior: Prior) -> float | None:
    spreads = [paired.spread for paired in with_best if paired.spread is not None]
    if not spreads:
        return None
    spread = Spread(
        seed=median(each.seed for each in spreads),
        image=median(each.image for each in spreads),
        residual=median(each.residual for each in spreads),
    )
    seeds = min(paired.seeds for paired in with_best)
    images = min(paired.images for paired in with_best)
    return detectable_difference(spread, seeds, max(2, images), alpha=first_step(rows), prior=prior.freedom)

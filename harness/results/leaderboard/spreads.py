"""How much rows of a table vary, from their records: the answers of two rows, and the latency between processes."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, median
from typing import TYPE_CHECKING

from harness.results.leaderboard.answers import answers_of, compare
from harness.results.leaderboard.costs import Cost, cost_of
from harness.results.leaderboard.rows import Group
from harness.stats.power import Spread
from harness.stats.ratios import LogSample
from harness.types.columns import order

if TYPE_CHECKING:
    from harness.results.leaderboard.answers import AnswersOf

__all__ = ["answer_spread", "latency_spread"]


def answer_spread(groups: Sequence[Group], of_record: AnswersOf) -> Spread | None:
    """Return the mean variances of the differences between the most accurate row's answers and those of the others.

    The result is ``None`` if no other row shares two seeds and their images with it.
    """
    best = sorted((group for group in groups if group.good), key=lambda group: order("top1")(group.row))
    answers = [own for group in best if (own := answers_of(group, of_record)).of_seed]
    pairs = compare(answers[0], answers[1:]) if answers else []
    spreads = [pair.spread for pair in pairs if pair and pair.spread and pair.seeds > 1]
    if not spreads:
        return None
    return Spread(
        seed=fmean(each.seed for each in spreads),
        image=fmean(each.image for each in spreads),
        residual=fmean(each.residual for each in spreads),
    )


def latency_spread(groups: Sequence[Group]) -> float | None:
    """Return the standard deviation of the logarithm of p50 between processes: that of the median row.

    The result is ``None`` if no row has enough processes.
    """
    costs = [cost_of(group.judged.cells["p50"], "latency_p50_ms", None) for group in groups]
    variances = [LogSample.measured(cost.values).variance for cost in costs if isinstance(cost, Cost)]
    return sqrt(median(variances)) if variances else None

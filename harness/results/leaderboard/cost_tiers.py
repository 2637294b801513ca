"""Tiers, ranks and ratios of rows by a cost: latency, throughput, energy, memory, size."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt
from statistics import median, median_low

from harness.results.leaderboard.costs import Cost, cost_of, figure_of
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.tiers import MOST_RANKED
from harness.results.leaderboard.why import Why
from harness.stats.best import Compare, first_step, rank_intervals, tiers_by_best
from harness.stats.ratios import LogSample, detectable_ratio, ratio_interval, ratio_p
from harness.types.columns import COLUMNS

__all__ = ["CostTest", "compare_costs", "no_ratios", "rank_by_cost"]

COMPARED = ("tier", "rank_ci", "ratio", "ratio_ci")
"""The columns that say how a row compares with the others."""


@dataclass(frozen=True)
class _Ranked:
    """A row that is ranked, with the values of its cost and their logarithms."""

    group: Group
    cost: Cost
    sample: LogSample


@dataclass(frozen=True)
class CostTest:
    """The test of two rows by a cost.

    ``ratio``: the typical value of the first row divided by that of the second. ``interval``: its 95% interval, where
    1 inside means that the rows are not separated. ``p``: the two-sided p-value. ``basis``: how many processes or seeds
    of each row. ``exact``: both figures are counted, so they have no error.
    """

    ratio: float
    interval: tuple[float, float]
    p: float
    basis: str
    exact: bool = False


def compare_costs(first: Group, second: Group, name: str) -> CostTest | Why:
    """Return the test of two rows by the column ``name``, a cost, or the reason why they cannot be compared.

    The test is that of a table's tiers, without the correction for several rows.
    """
    costs = []
    for group in (first, second):
        cost = _cost(group, name)
        if isinstance(cost, Why):
            return Why(f"{group.row['method']}: {cost}")
        costs.append(cost)
    ours, theirs = costs
    if ours.counted and theirs.counted:
        equal = ours.values == theirs.values
        ratio = 1.0 if equal else ours.values[0] / theirs.values[0] if theirs.values[0] else inf
        return CostTest(ratio, (ratio, ratio), float(equal), "counted figures have no error", exact=True)
    if min(*ours.values, *theirs.values) <= 0:
        return Why("0 has no ratio")
    if ours.by != theirs.by:
        return Why(f"measured by {ours.by}, and by {theirs.by}")
    if ours.by is not None and first.scope != second.scope:
        return Why(f"measured as {first.scope}, and as {second.scope}")
    basis = " against ".join(_basis(cost) for cost in costs) + (f", by {ours.by}" if ours.by else "")
    samples = _sample(ours), _sample(theirs)
    ratio = exp(samples[0].mean - samples[1].mean)
    low, high = ratio_interval(*samples)
    if _within_step(*samples, max(ours.step, theirs.step)):
        return CostTest(ratio, (min(low, 1.0), max(high, 1.0)), 1.0, basis)
    return CostTest(ratio, (low, high), ratio_p(*samples), basis)


def _basis(cost: Cost) -> str:
    if cost.counted:
        return "a counted figure"
    return f"{len(cost.values)} {'processes' if cost.unit == 'process' else 'seeds'}"


def rank_by_cost(groups: list[Group], name: str) -> float | Why:
    """Give each row its tier, the interval of its rank, and its ratio to the first row, and sort the rows by tier.

    ``groups`` must be sorted by the column ``name``. A row that cannot be compared gets the reason. The others are
    ranked without it, by Welch's t-test of the logarithms. Figures that are counted have no error, so equal ones share
    a tier and others do not.

    Returns:
        The smallest ratio above 1 that the test of a pair would have found with 80% power, at the rows' median spread
        and median number of values, and at the first step of the correction; or the reason why there is none.
    """
    costs = _by_one_meter([_cost(group, name) for group in groups])
    if not any(isinstance(cost, Cost) for cost in costs):
        _put_reasons(groups, costs)
        return Why("no row can be compared")
    if all(cost.counted for cost in costs if isinstance(cost, Cost)):
        _rank_counted(groups, costs, name)
        return Why("counted figures have no error")
    costs = [_with_logarithm(cost) for cost in costs]
    ranked = [
        _Ranked(group, cost, _sample(cost))
        for group, cost in zip(groups, costs, strict=True)
        if isinstance(cost, Cost)
    ]
    _put_reasons(groups, costs)
    compare = _comparison(ranked, higher=COLUMNS[name].better == "higher")
    tiers = tiers_by_best(len(ranked), compare)
    for row, tier in zip(ranked, tiers, strict=True):
        row.group.put("tier", tier)
        row.group.put("rank_ci", Why(f"more than {MOST_RANKED} rows"))
        _put_ratio(row, ranked[0], name)
    if len(ranked) <= MOST_RANKED:
        for row, rank in zip(ranked, rank_intervals(len(ranked), compare), strict=True):
            row.group.put("rank_ci", list(rank))
    tier_of = {id(row.group): tier for row, tier in zip(ranked, tiers, strict=True)}
    last = len(groups) + 1
    groups.sort(key=lambda group: tier_of.get(id(group), last))
    return _detectable([row.sample for row in ranked])


def _cost(group: Group, name: str) -> Cost | Why:
    if not group.good:
        return Why(group.reason)
    figure = figure_of(name)
    cells = group.good if figure is None else group.judged.cells[figure]
    return cost_of(cells, name, group.scope)


def no_ratios(groups: Sequence[Group], reason: str) -> None:
    """Set the ratio of all rows, and its interval, to null, with a reason."""
    for group in groups:
        for column in ("ratio", "ratio_ci"):
            group.put(column, Why(reason if group.good else group.reason))


def _by_one_meter(costs: Sequence[Cost | Why]) -> list[Cost | Why]:
    """Keep the figures of the meter that most rows have. The errors of two meters do not cancel in a ratio."""
    count = Counter(cost.by for cost in costs if isinstance(cost, Cost))
    most = max(count, key=lambda by: count[by], default=None)
    return [
        Why(f"measured by {cost.by}, and other rows by {most}")
        if isinstance(cost, Cost) and cost.by != most
        else cost
        for cost in costs
    ]


def _with_logarithm(cost: Cost | Why) -> Cost | Why:
    return Why("0 has no ratio") if isinstance(cost, Cost) and min(cost.values) <= 0 else cost


def _sample(cost: Cost) -> LogSample:
    return LogSample.counted(cost.values[0]) if cost.counted else LogSample.measured(cost.values)


def _put_reasons(groups: Sequence[Group], costs: Sequence[Cost | Why]) -> None:
    for group, cost in zip(groups, costs, strict=True):
        if isinstance(cost, Why):
            for column in COMPARED:
                group.put(column, cost)


def _comparison(ranked: Sequence[_Ranked], *, higher: bool) -> Compare:
    """Return the test of a row against worse rows. A row whose typical value is not worse has the p-value 1."""

    def p_value(leader: _Ranked, other: _Ranked) -> float:
        worse = other.sample.mean < leader.sample.mean if higher else other.sample.mean > leader.sample.mean
        none = not worse or _within_step(leader.sample, other.sample, other.cost.step)
        return 1.0 if none else ratio_p(other.sample, leader.sample)

    return lambda row, others: [p_value(ranked[row], ranked[other]) for other in others]


def _within_step(first: LogSample, second: LogSample, step: float) -> bool:
    """Return whether two typical values differ by no more than ``step``."""
    return abs(exp(first.mean) - exp(second.mean)) <= step


def _put_ratio(row: _Ranked, first: _Ranked, name: str) -> None:
    """Set the ratio of the figures, and its interval, which is extended to it if it lies outside."""
    ours, theirs = row.group.row.number(name), first.group.row.number(name)
    if not ours or not theirs:
        for column in ("ratio", "ratio_ci"):
            row.group.put(column, Why("a figure is not recorded"))
        return
    ratio = min(ours / theirs, sys.float_info.max)
    low, high = ratio_interval(row.sample, first.sample) if row is not first else (1.0, 1.0)
    row.group.put("ratio", ratio)
    row.group.put("ratio_ci", [min(low, ratio), max(high, ratio)])


def _rank_counted(groups: Sequence[Group], costs: Sequence[Cost | Why], name: str) -> None:
    """Give rows with equal counts the same tier. The rank of a row has no error beyond such ties."""
    _put_reasons(groups, costs)
    ranked = [group for group, cost in zip(groups, costs, strict=True) if isinstance(cost, Cost)]
    values = [cost.values[0] for cost in costs if isinstance(cost, Cost)]
    tier_of = {value: tier for tier, value in enumerate(dict.fromkeys(values), 1)}
    rank_of = {value: values.index(value) + 1 for value in tier_of}
    count = Counter(values)
    for group, value in zip(ranked, values, strict=True):
        group.put("tier", tier_of[value])
        group.put("rank_ci", [rank_of[value], rank_of[value] + count[value] - 1])
        ratio = value / values[0] if values[0] else None
        group.put("ratio", Why("the best row has 0") if ratio is None else ratio)
        group.put("ratio_ci", Why("the best row has 0") if ratio is None else [ratio, ratio])


def _detectable(samples: Sequence[LogSample]) -> float | Why:
    measured = [(sample.n, sample.variance) for sample in samples if sample.n is not None]
    if len(samples) < 2 or not measured:
        return Why("fewer than two rows can be compared")
    n = median_low([n for n, _ in measured])
    return detectable_ratio(
        n, median(sqrt(variance) for _, variance in measured), alpha=first_step(len(samples))
    )

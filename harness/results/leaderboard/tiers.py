"""Tiers: which rows are significantly worse than the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.results.leaderboard.rows import Group, Why
from harness.types.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    SamplesOf = Callable[[Record], Mapping[str, NDArray[Any]]]

__all__ = ["ALPHA", "answers", "paired_tables"]


ALPHA = 0.05
"""Family-wise error rate of a board's pairwise comparisons."""


def _no_tiers(groups: Iterable[Group], reason: str) -> None:
    for group in groups:
        group.put("tier", Why(group.row["reason"] if not group.good else reason))


def _rank_by_tiers(groups: list[Group], samples_of: SamplesOf) -> float | None:
    """Give tiers and sort by them; returns the detectable difference in points.

    Every pair of rows is compared per common seed on the same test samples (exact McNemar), the
    seeds combined, all pairs of the board corrected by Holm. Then tiers peel off: the most accurate
    row and all that no test tells from it, then again with the rest.
    """
    given = [answers(group, samples_of) for group in groups]
    compared: dict[tuple[int, int], list[tuple[int, int]]] = {}
    shares: list[float] = []
    sizes: list[int] = []
    for i in range(len(groups)):
        for j in range(i + 1, len(groups)):
            tables = paired_tables(given[i], given[j])
            if tables:
                compared[i, j] = [(b, c) for b, c, _ in tables]
                shares.append(fmean((b + c) / n for b, c, n in tables))
                sizes += [n for _, _, n in tables]
    adjusted = stats.holm([stats.paired_p(tables) for tables in compared.values()])
    told_apart = {pair for pair, p in zip(compared, adjusted, strict=True) if p <= ALPHA}

    remaining = [i for i, right in enumerate(given) if right]
    tier = 0
    while remaining:
        tier += 1
        leader = remaining[0]
        for i in remaining:
            if (leader, i) not in told_apart:
                groups[i].put("tier", tier)
        remaining = [i for i in remaining if (leader, i) in told_apart]
    _no_tiers((group for group, right in zip(groups, given, strict=True) if not right), "no raw predictions")
    groups.sort(key=lambda group: (group.row["tier"] is None, group.row["tier"] or 0))
    if not shares:
        return None
    return 100 * stats.detectable_difference(min(sizes), median(shares), alpha=ALPHA / len(compared))


def answers(group: Group, samples_of: SamplesOf) -> dict[int, tuple[Any, Any]]:
    """Seed -> (labels, whether each sample was answered right); repeats share their predictions."""
    found: dict[int, tuple[Any, Any]] = {}
    for record in group.good:
        if record.seed not in found and record.samples:
            arrays = samples_of(record)
            if "predictions" in arrays and "labels" in arrays:
                labels = arrays["labels"]
                found[record.seed] = labels, arrays["predictions"] == labels
    return found


def paired_tables(
    first: Mapping[int, tuple[Any, Any]], second: Mapping[int, tuple[Any, Any]]
) -> list[tuple[int, int, int]]:
    """Per common seed with the same samples: (only the first right, only the second right, samples)."""
    tables = []
    for seed in sorted(first.keys() & second.keys()):
        (labels, right), (others, other) = first[seed], second[seed]
        if len(labels) == len(others) and (labels == others).all():
            tables.append((int((right & ~other).sum()), int((other & ~right).sum()), len(labels)))
    return tables

"""Tiers: groups of rows whose accuracy no test distinguishes from the best row of the group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.why import Why
from harness.stats.binary import detectable_difference, paired_p
from harness.stats.multiple import holm
from harness.types.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    SamplesOf: TypeAlias = Callable[[Record], Mapping[str, NDArray[Any]]]
    """A function that reads the raw arrays of a record."""
    Answers: TypeAlias = Mapping[int, tuple[NDArray[Any], NDArray[np.bool_]]]
    """Seed -> labels [n], and whether each of the n images was answered right, bool [n]."""

__all__ = ["ALPHA", "answers_of", "no_tiers", "paired_tables", "rank_by_tiers"]

ALPHA = 0.05
"""Family-wise error rate of the pairwise comparisons of a table."""


def no_tiers(groups: Iterable[Group], reason: str) -> None:
    """Set the tier of all rows to null, with a reason."""
    for group in groups:
        group.put("tier", Why(reason if group.good else group.reason))


def rank_by_tiers(groups: list[Group], samples_of: SamplesOf) -> float | None:
    """Give each row its tier, and sort the rows by it. Return the detectable difference in points.

    Every pair of rows is compared on the same test images, seed by seed (exact McNemar). The seeds are combined, and
    all pairs of the table are corrected by Holm. The first tier has the most accurate row, and all rows that no test
    distinguishes from it. The next tiers are found in the same way among the remaining rows. ``groups`` must be
    sorted by accuracy.

    Returns:
        The detectable difference, or ``None`` if no two rows have a seed and raw predictions in common.
    """
    answers = [answers_of(group, samples_of) for group in groups]
    compared: dict[tuple[int, int], list[tuple[int, int]]] = {}
    shares: list[float] = []
    sizes: list[int] = []
    for i in range(len(groups)):
        for j in range(i + 1, len(groups)):
            tables = paired_tables(answers[i], answers[j])
            if tables:
                compared[i, j] = [(b, c) for b, c, _ in tables]
                shares.append(fmean((b + c) / n for b, c, n in tables))
                sizes += [n for _, _, n in tables]
    adjusted = holm([paired_p(tables) for tables in compared.values()])
    different = {pair for pair, p in zip(compared, adjusted, strict=True) if p <= ALPHA}

    remaining = [i for i, own in enumerate(answers) if own]
    tier_of: dict[int, int] = {}
    tier = 0
    while remaining:
        tier += 1
        leader = remaining[0]
        for i in remaining:
            if (leader, i) not in different:
                tier_of[i] = tier
                groups[i].put("tier", tier)
        remaining = [i for i in remaining if (leader, i) in different]
    no_tiers((group for group, own in zip(groups, answers, strict=True) if not own), "no raw predictions")
    last = len(groups) + 1
    groups[:] = [groups[i] for i in sorted(range(len(groups)), key=lambda i: tier_of.get(i, last))]
    if not shares:
        return None
    return 100 * detectable_difference(min(sizes), median(shares), alpha=ALPHA / len(compared))


def answers_of(group: Group, samples_of: SamplesOf) -> Answers:
    """Return for each seed the labels, and whether each image was answered right. Repeats share their predictions."""
    answers: dict[int, tuple[Any, Any]] = {}
    for record in group.good:
        if record.seed not in answers and not record.samples.empty:
            arrays = samples_of(record)
            if "predictions" in arrays and "labels" in arrays:
                labels = arrays["labels"]
                answers[record.seed] = labels, arrays["predictions"] == labels
    return answers


def paired_tables(first: Answers, second: Answers) -> list[tuple[int, int, int]]:
    """Return one table for each common seed with the same images.

    A table is (images that only the first answers right, images that only the second answers right, all images).
    """
    tables = []
    for seed in sorted(first.keys() & second.keys()):
        (labels, right), (other_labels, other_right) = first[seed], second[seed]
        if len(labels) == len(other_labels) and (labels == other_labels).all():
            only_first, only_second = (right & ~other_right).sum(), (other_right & ~right).sum()
            tables.append((int(only_first), int(only_second), len(labels)))
    return tables

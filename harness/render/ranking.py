"""The notes below a table about tiers, ranks and ratios: by which test, and what it could not find."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from harness.results.leaderboard.leaderboard import Table
from harness.results.leaderboard.selection import has_test
from harness.stats.best import ALPHA
from harness.types.columns import COLUMNS

__all__ = ["rank_notes"]

ALL = 99.95
"""A difference of so many points cannot be found: it is all that there is."""


def rank_notes(table: Table, names: Collection[str]) -> Iterable[str]:
    """Yield the lines about tiers, ranks and ratios for a table that shows the columns ``names``."""
    by = "accuracy" if table.rank_by == "top1" else COLUMNS[table.rank_by or "top1"].heading
    if table.sorted_by not in (None, table.rank_by):
        heading = COLUMNS[table.sorted_by or ""].heading
        tiers = f": tiers and ranks are by {by}" if "tier" in names else ""
        yield f"Sorted by {heading}, which has no test{tiers}"
    if not has_test(table.rank_by or "top1"):
        yield f"No tiers: {by} has no test"
    if "tier" in names:
        yield from _accuracy(table) if table.rank_by == "top1" else _cost(table, by)
    if "rank_ci" in names:
        yield f"Rank: 95% intervals of the ranks of all rows together, by {by}"
    if "ratio_ci" in names:
        yield f"Ratio: {by} divided by that of the best row, 95% interval over processes"


def _accuracy(table: Table) -> Iterable[str]:
    least = table.detectable_top1
    limit = "" if not least else f"; a difference below about {least:.1f} points is too small to be found"
    if least and least >= ALL:
        limit = "; the seeds and images are too few to find any difference"
    test = f"{ALPHA:.0%} level, over seeds and images"
    yield (
        f"Tier: the most accurate row and all rows that no test separates from it, then the same for the rest ({test})"
        f"{limit}"
    )
    if table.one_seed:
        yield "Rows with one common seed are compared by the exact McNemar test: no variation of training is in it"


def _cost(table: Table, by: str) -> Iterable[str]:
    least = table.detectable_ratio
    if least is None:
        if sum(row["tier"] is not None for row in table.rows) > 1:
            yield f"Tier: rows with the same {by}, which is counted and has no error"
        return
    test = f"Welch's t-test over processes, {ALPHA:.0%} level"
    limit = f"; a difference below about {100 * (least - 1):.1f}% is too small to be found"
    yield (
        f"Tier: the best row by {by} and all rows that no test separates from it, then the same for the rest ({test})"
        f"{limit}"
    )
    tiers = [tier for row in table.rows if (tier := row.number("tier")) is not None]
    if tiers not in (sorted(tiers), sorted(tiers, reverse=True)):
        yield "A row whose figure spreads widely can be in a better tier than a row above it: no test separates it"

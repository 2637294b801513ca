"""Select and sort rows of a leaderboard for a person. No figure changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.results.leaderboard.costs import is_cost
from harness.results.leaderboard.filters import parse_where
from harness.results.leaderboard.leaderboard import Leaderboard
from harness.types.columns import COLUMNS, Row, order

__all__ = ["filtered", "has_test", "sorted_by"]


def has_test(name: str) -> bool:
    """Return whether rows can be ranked by a column with a test, so that they get tiers."""
    return name == "top1" or is_cost(name)


def filtered(leaderboard: Leaderboard, where: str) -> Leaderboard:
    """Return the rows for which ``where`` holds, and notes about rows for which that is unknown.

    Raises:
        SuiteError: ``where`` is not a condition, or compares a text with a number.
    """
    keep = parse_where(where)
    tables = [replace(table, rows=tuple(filter(keep, table.rows))) for table in leaderboard.tables]
    notes = keep.unknown([row for table in leaderboard.tables for row in table.rows])
    return Leaderboard(tuple(table for table in tables if table.rows), (*leaderboard.notes, *notes))


def sorted_by(leaderboard: Leaderboard, name: str, *, greatest_first: bool = False) -> Leaderboard:
    """Return the same tables with their rows ordered by one column, nulls last.

    The better values come first. If the column has no better end, the least value comes first. With
    ``greatest_first`` the greatest value comes first.
    """
    tables = (
        replace(t, rows=_ordered(t.rows, name, greatest_first), sorted_by=name) for t in leaderboard.tables
    )
    return replace(leaderboard, tables=tuple(tables))


def _ordered(rows: Sequence[Row], name: str, greatest_first: bool) -> tuple[Row, ...]:
    known = [row for row in rows if row[name] is not None]
    known.sort(key=order(name), reverse=greatest_first and COLUMNS[name].better != "higher")
    return (*known, *(row for row in rows if row[name] is None))

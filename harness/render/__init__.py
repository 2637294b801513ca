"""A leaderboard as text, for people and for machines: a rich table, GitHub, LaTeX, CSV, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results.leaderboard.leaderboard import Leaderboard

__all__ = ["FORMATS", "render"]

FORMATS = ("table", "github", "latex", "csv", "json")


def render(
    leaderboard: Leaderboard, format: str, columns: Sequence[str] | None = None, *, width: int | None = None
) -> str:
    """Return the leaderboard in one of :data:`FORMATS`, without a newline at the end.

    ``columns`` choose and order the columns. By default a table for people has the usual columns and CSV has all
    columns. JSON always has all columns. ``table`` is ``width`` characters wide, by default as wide as the terminal.
    """
    if format == "table":
        from harness.render import terminal

        return terminal.render(leaderboard, columns, width)
    from harness.render import text

    return text.render(leaderboard, format, columns)

"""A leaderboard in a terminal: the columns that fit, a gap between tiers, and marks that are explained below."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.render.view import KEEP, MARKS, Shown, columns_of, notes, setting, title
from harness.results.leaderboard.leaderboard import Leaderboard, Table

__all__ = ["render"]


def render(leaderboard: Leaderboard, columns: Sequence[str] | None = None, width: int | None = None) -> str:
    """Return all tables as text for a terminal of ``width`` characters.

    The default width is that of the terminal, or 120 if there is none. If ``columns`` is None, columns are left out
    until the rest fits. The text is coloured if standard output is a terminal (rich obeys NO_COLOR and FORCE_COLOR).
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or shutil.get_terminal_size((120, 50)).columns,
        force_terminal=True if sys.stdout.isatty() else None,
        highlight=False,
    )
    for table in leaderboard.tables:
        _show(table, console, columns)
    return out.getvalue().rstrip("\n")


def _show(table: Table, console: Console, columns: Sequence[str] | None) -> None:
    shown, left_out = _fit(table, console, columns)
    console.print(Text(title(table), style="bold"))
    if common := setting(table):
        console.print(Text(common, style="dim"))
    console.print()
    console.print(_table(table, shown))
    console.print()
    for line in notes(table, shown):
        console.print(Text(line, style=_NOTES.get(line[0], "dim")))
    if left_out:
        console.print(Text(f"Not shown, the terminal is too narrow: {', '.join(left_out)}", style="dim"))
    console.print()


_NOTES = {MARKS["failed"]: "red", MARKS["partial"]: "yellow", MARKS["flagged"]: "yellow"}
_ROWS = {"failed": "red", "skipped": "dim", "partial": "yellow"}


def _fit(table: Table, console: Console, columns: Sequence[str] | None) -> tuple[list[Shown], list[str]]:
    """Return the columns that fit side by side, and the headings of those that are left out."""
    shown = columns_of(table, columns)
    left_out: list[str] = []
    unbounded = console.options.update(width=10_000)
    while (
        columns is None and console.measure(_table(table, shown), options=unbounded).maximum > console.width
    ):
        spare = [c for c in shown if KEEP.get(c.name, 0) > 1 and c.name != table.rank_by]
        if not spare:
            break
        least = max(spare, key=lambda column: KEEP[column.name])
        shown.remove(least)
        left_out.append(least.heading)
    return shown, left_out


def _table(table: Table, shown: Sequence[Shown]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in shown:
        heading = Text(f"{column.heading}\n{column.unit}")
        drawn.add_column(
            heading, justify="right" if column.numeric else "left", no_wrap=column.name != "flags"
        )
    tiers = [row.number("tier") or len(table.rows) for row in table.rows]
    by_tier = tiers == sorted(tiers)  # no gaps if the rows are sorted by another column
    for index, row in enumerate(table.rows):
        if by_tier and index and tiers[index] != tiers[index - 1]:
            drawn.add_section()
        style = _ROWS.get(str(row["status"]), "bold" if row is table.reference else None)
        drawn.add_row(*(Text(column.cells[index]) for column in shown), style=style)
    return drawn

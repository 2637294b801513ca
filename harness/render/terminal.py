"""A leaderboard in a terminal: the columns that fit, tiers apart, marks explained below."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.render.view import KEEP, MARKS, Shown, columns_of, notes, setting, title
from harness.results.leaderboard.leaderboard import Board, Leaderboard

__all__ = ["render"]


def render(leaderboard: Leaderboard, columns: Sequence[str] | None = None, width: int | None = None) -> str:
    """Every board; without ``columns``, as many of the usual ones as ``width`` (the terminal's, or 120) holds.

    Coloured where standard output is a terminal (rich heeds NO_COLOR and FORCE_COLOR).
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or shutil.get_terminal_size((120, 50)).columns,
        force_terminal=True if sys.stdout.isatty() else None,
        highlight=False,
    )
    for board in leaderboard.boards:
        _show(board, console, columns)
    return out.getvalue().rstrip("\n")


def _show(board: Board, console: Console, columns: Sequence[str] | None) -> None:
    shown, left_out = _fit(board, console, columns)
    console.print(Text(title(board), style="bold"))
    if common := setting(board):
        console.print(Text(common, style="dim"))
    console.print()
    console.print(_table(board, shown))
    console.print()
    for line in notes(board, shown):
        console.print(Text(line, style=_NOTES.get(line[0], "dim")))
    if left_out:
        console.print(Text(f"Not shown for want of width: {', '.join(left_out)}", style="dim"))
    console.print()


_NOTES = {MARKS["failed"]: "red", MARKS["partial"]: "yellow", MARKS["flagged"]: "yellow"}
_ROWS = {"failed": "red", "skipped": "dim", "partial": "yellow"}


def _fit(board: Board, console: Console, columns: Sequence[str] | None) -> tuple[list[Shown], list[str]]:
    """The columns that fit side by side, and the headings of those that had to go."""
    shown = columns_of(board, columns)
    left_out: list[str] = []
    unbounded = console.options.update(width=10_000)
    while (
        columns is None and console.measure(_table(board, shown), options=unbounded).maximum > console.width
    ):
        spare = [c for c in shown if KEEP.get(c.name, 0) > 1 and c.name != board.rank_by]
        if not spare:
            break
        least = max(spare, key=lambda column: KEEP[column.name])
        shown.remove(least)
        left_out.append(least.heading)
    return shown, left_out


def _table(board: Board, shown: Sequence[Shown]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in shown:
        heading = Text(f"{column.heading}\n{column.unit}")
        table.add_column(
            heading, justify="right" if column.numeric else "left", no_wrap=column.name != "flags"
        )
    tiers = [row["tier"] or len(board.rows) for row in board.rows]
    by_tier = tiers == sorted(tiers)  # not where the rows were sorted by another column
    for index, row in enumerate(board.rows):
        if by_tier and index and tiers[index] != tiers[index - 1]:
            table.add_section()
        style = _ROWS.get(row["status"], "bold" if row is board.reference else None)
        table.add_row(*(Text(column.cells[index]) for column in shown), style=style)
    return table

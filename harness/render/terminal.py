"""A leaderboard in a terminal: all columns, in several blocks if they are too wide, and marks explained below."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from harness.render.console import add_figures, add_texts, print_whole, text_width
from harness.render.view import IMPORTANCE, MARKS, SETTINGS, Shown, columns_of, notes, setting, title
from harness.results.leaderboard.leaderboard import Leaderboard, Table
from harness.types.columns import Row

__all__ = ["render"]


MANY = 200
"""Rows from which on the lines of a table are made without rich, which takes a millisecond for each."""


def render(
    leaderboard: Leaderboard,
    columns: Sequence[str] | None = None,
    width: int | None = None,
    *,
    many: int = MANY,
) -> str:
    """Return all tables as text for a terminal of ``width`` characters.

    The default width is that of the terminal, or 120 if there is none. Columns that do not fit stand in further
    blocks; no figure is left out or cut. The text is coloured if standard output is a terminal (rich obeys NO_COLOR and FORCE_COLOR).
    """
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or shutil.get_terminal_size((120, 50)).columns,
        force_terminal=True if sys.stdout.isatty() else None,
        highlight=False,
    )
    for table in leaderboard.tables:
        _show(table, console, columns, many)
    return out.getvalue().rstrip("\n")


def _show(table: Table, console: Console, columns: Sequence[str] | None, many: int) -> None:
    shown = columns_of(table, columns)
    console.print(Text(title(table), style="bold"))
    if common := setting(table, shown):
        console.print(Text(common, style="dim"))
    console.print()
    for block in _blocks(table, shown, console.width, ranked=columns is None):
        if len(table.rows) >= many and _total(block) <= console.width:
            _print_lines(console, table, block)
        else:
            print_whole(console, _table(table, block), GAP)
        console.print()
    for line in notes(table, shown, usual=columns is None):
        console.print(Text(line, style=_NOTES.get(line[0], "dim")))
    console.print()


_NOTES = {MARKS["failed"]: "red", MARKS["partial"]: "yellow", MARKS["flagged"]: "yellow"}
_ROWS = {"failed": "red", "skipped": "dim", "partial": "yellow"}


def _blocks(table: Table, shown: Sequence[Shown], width: int, *, ranked: bool) -> list[list[Shown]]:
    """Return the columns in blocks, one below the other, each of at most ``width`` characters where that is possible.

    Every block names its rows. If ``ranked``, the first block has the most important columns that fit, else the
    columns stay in their order.
    """

    widths = {column: _width(column) for column in shown}

    def fits(columns: Sequence[Shown]) -> bool:
        return sum(widths[column] for column in columns) + GAP * (len(columns) - 1) <= width

    if fits(shown):
        return [list(shown)]
    named = any(column.name == "method" for column in shown)
    naming = [column for column in shown if named and column.name in _NAMING]
    left = [column for column in shown if column not in naming]
    if ranked:
        left.sort(key=lambda column: _importance(table, column.name))
    blocks: list[list[Shown]] = []
    methods = [row["method"] for row in table.rows]
    unique = len(set(methods)) == len(methods)
    repeated = [column for column in naming if column.name == "method"] if unique else naming
    while left or not blocks:
        block = naming if not blocks else repeated
        taken = left[:1]
        for column in left[1:]:
            if fits(_in_order([*block, *taken, column], shown)):
                taken.append(column)
            elif not ranked:
                break
        left = [column for column in left if column not in taken]
        blocks.append(_in_order([*block, *taken], shown))
    return blocks


GAP = 3
"""Characters between two columns."""

_NAMING = ("tier", "rank_ci", "method", *SETTINGS, "started")
"""Columns that say which row it is."""


def _importance(table: Table, name: str) -> int:
    if name in (table.rank_by, "ratio_ci"):
        return -1
    return IMPORTANCE.index(name) if name in IMPORTANCE else len(IMPORTANCE)


def _heading(column: Shown) -> str:
    return f"{column.heading}\n{column.unit}"


def _width(column: Shown) -> int:
    return text_width(_heading(column), column.cells)


def _in_order(columns: Sequence[Shown], shown: Sequence[Shown]) -> list[Shown]:
    return [column for column in shown if column in columns]


def _table(table: Table, shown: Sequence[Shown]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in shown:
        heading = _heading(column)
        if column.numeric:
            add_figures(drawn, heading, _width(column))
        else:
            add_texts(drawn, heading)
    for index, (row, section) in enumerate(zip(table.rows, _sections(table), strict=True)):
        if section:
            drawn.add_section()
        style = _style(table, row)
        drawn.add_row(*(Text(column.cells[index]) for column in shown), style=style)
    return drawn


def _sections(table: Table) -> list[bool]:
    """Return before which rows a tier begins, after the first; nowhere if the rows are sorted by another column."""
    tiers = [row.number("tier") or len(table.rows) for row in table.rows]
    by_tier = tiers == sorted(tiers)
    return [by_tier and place > 0 and tiers[place] != tiers[place - 1] for place in range(len(tiers))]


def _style(table: Table, row: Row) -> str | None:
    return _ROWS.get(str(row["status"]), "bold" if row is table.reference else None)


def _total(shown: Sequence[Shown]) -> int:
    return sum(map(_width, shown)) + GAP * (len(shown) - 1)


def _print_lines(console: Console, table: Table, shown: Sequence[Shown]) -> None:
    """Print what rich makes of :func:`_table`, for columns that fit."""
    widths = [_width(column) for column in shown]

    def line(texts: Sequence[str]) -> str:
        cells = []
        for text, width, column in zip(texts, widths, shown, strict=True):
            space = " " * (width - cell_len(text))
            cells.append(space + text if column.numeric else text + space)
        return (" " * GAP).join(cells)

    def put(text: str, style: str | None) -> None:
        if style is None:
            console.file.write(f"{text}\n")
        else:
            console.print(Text(text, style=style), soft_wrap=True)

    put(line([column.heading for column in shown]), "bold")
    put(line([column.unit for column in shown]), "bold")
    put("─" * _total(shown), None)
    for place, (row, section) in enumerate(zip(table.rows, _sections(table), strict=True)):
        if section:
            put(" " * _total(shown), None)
        put(line([column.cells[place] for column in shown]), _style(table, row))

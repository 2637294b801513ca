"""Consoles for tables, and plain columns. Widths are counted in cells of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.render.characters import shown

__all__ = ["add_figures", "add_texts", "columns", "console_on", "print_whole", "text_width", "wide_console"]


class _Console(Console):
    """A console that prints no control character of any text that it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text`` as it can be shown, before a table measures it."""
        return super().render_str(shown(text), **options)


def wide_console() -> Console:
    """Return a console as wide as the terminal, or 160 columns wide for a file or a pipe."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)


def console_on(stream: IO[str]) -> Console:
    """Return a console that prints to ``stream``."""
    return _Console(file=stream)


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Return lines in which the texts of a column stand below each other, two spaces between the columns.

    Wide characters count as two cells of the terminal, and combining characters as none.
    """
    texts = [[shown(" ".join(str(value).split())) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in texts
    ]


FOLDED = 8
"""Width down to which a column of texts is folded on a narrow terminal."""


def text_width(heading: str, cells: Iterable[str]) -> int:
    """Return the width of a column in which nothing is cut or folded, in characters."""
    return max(cell_len(line) for text in (heading, *cells) for line in shown(text).split("\n"))


def add_figures(table: Table, heading: str, width: int) -> None:
    """Add a column of figures, none of which is ever cut or folded. ``width`` is their :func:`text_width`."""
    table.add_column(Text(shown(heading)), justify="right", no_wrap=True, min_width=width)


def add_texts(table: Table, heading: str) -> None:
    """Add a column of texts, which are folded on a narrow terminal."""
    table.add_column(Text(shown(heading)), overflow="fold")


def print_whole(console: Console, table: Table, gap: int) -> None:
    """Print a table. On a terminal that is too narrow for its figures, its lines are longer than the terminal.

    ``gap`` is the number of characters between two columns.
    """
    least = sum(column.min_width or FOLDED for column in table.columns) + gap * (len(table.columns) - 1)
    width = console.width
    console.width = max(width, least)
    try:
        console.print(table, crop=False)
    finally:
        console.width = width

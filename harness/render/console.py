"""A console for tables. It is as wide as the terminal, or wide enough for whole lines if there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["add_figures", "add_texts", "print_whole", "text_width", "wide_console"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again. The command line decides what a broken pipe means, in the same way for all output."""
        raise  # noqa: PLE0704


def wide_console() -> Console:
    """Return a console as wide as the terminal, or 160 columns wide for a file or a pipe."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)


FOLDED = 8
"""Width down to which a column of texts is folded on a narrow terminal."""


def text_width(heading: str, cells: Iterable[str]) -> int:
    """Return the width of a column in which nothing is cut or folded, in characters."""
    return max(cell_len(line) for text in (heading, *cells) for line in text.split("\n"))


def add_figures(table: Table, heading: str, width: int) -> None:
    """Add a column of figures, none of which is ever cut or folded. ``width`` is their :func:`text_width`."""
    table.add_column(Text(heading), justify="right", no_wrap=True, min_width=width)


def add_texts(table: Table, heading: str) -> None:
    """Add a column of texts, which are folded on a narrow terminal."""
    table.add_column(Text(heading), overflow="fold")


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

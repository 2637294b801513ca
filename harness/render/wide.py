"""A console for tables: as wide as the terminal, and wide enough not to cut where there is none."""

from __future__ import annotations

from rich.console import Console

__all__ = ["wide_console"]


def wide_console() -> Console:
    """The terminal's width, or 160 columns for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=160)

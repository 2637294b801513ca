"""A console for tables: as wide as the terminal, and wide enough not to cut where there is none."""

from __future__ import annotations

from rich.console import Console

__all__ = ["wide_console"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Called where the error is caught; what it comes to is the command line's to say, for every output."""
        raise  # noqa: PLE0704


def wide_console() -> Console:
    """The terminal's width, or 160 columns for a file or a pipe."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)

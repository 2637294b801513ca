"""A console for tables: as wide as the terminal, or wide enough for whole lines where there is none."""

from __future__ import annotations

from rich.console import Console

__all__ = ["wide_console"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again: the command line decides what a broken pipe means, for all output alike."""
        raise  # noqa: PLE0704


def wide_console() -> Console:
    """Return a console as wide as the terminal, or 160 columns wide for a file or a pipe."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)

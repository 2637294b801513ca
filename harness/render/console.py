"""A console for tables. It is as wide as the terminal, or wide enough for whole lines if there is no terminal."""

from __future__ import annotations

from rich.console import Console

__all__ = ["wide_console"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again. The command line decides what a broken pipe means, in the same way for all output."""
        raise  # noqa: PLE0704


def wide_console() -> Console:
    """Return a console as wide as the terminal, or 160 columns wide for a file or a pipe."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)

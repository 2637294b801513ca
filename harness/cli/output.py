"""Print what commands have to say: text without control characters, and JSON that any parser reads."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from harness.errors import HarnessError, first_line

__all__ = ["TRACEBACK", "echo", "echo_json", "unforeseen"]

TRACEBACK = "HARNESS_TRACEBACK"
"""The environment variable that asks for tracebacks on the terminal, as ``--traceback`` of ``harness run`` does."""


def echo(text: object = "", *, err: bool = False, end: str = "\n", **style: Any) -> None:
    """Print a line, or several, to the standard output, or with ``err`` to the standard error.

    ``style`` are the colours of :func:`click.style`, which a terminal alone gets.
    """
    from harness.render.characters import shown

    stream = sys.stderr if err else sys.stdout
    line = shown(str(text), stream)
    coloured = style and stream.isatty() and not os.environ.get("NO_COLOR")
    stream.write((click.style(line, **style) if coloured else line) + end)
    stream.flush()


def echo_json(document: Any, indent: int = 1) -> None:
    """Print a document as JSON to the standard output."""
    from harness.render.characters import json_text

    echo(json_text(document, indent))


def unforeseen(error: Exception) -> tuple[int, str]:
    """Return the exit code and the line for an error that no code of the harness has turned into a line.

    A missing package and a file of the system that cannot be used are matters of the person's machine. Anything else
    is a fault of the harness or of a plugin.
    """
    from harness.extras import missing_module

    if os.environ.get(TRACEBACK):
        echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    if missing := missing_module(error):
        return 2, f"error: this command {missing}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return 2, f"error: {HarnessError(f'{error.filename}: {error.strerror}')}"
    if isinstance(error, MemoryError):
        return 2, "error: out of memory"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return 70, (
        f"error: {first_line(error, kind=True)}{where}: a fault of the harness or of a plugin; {TRACEBACK}=1 prints "
        "the traceback"
    )

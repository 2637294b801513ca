"""Tracebacks of a run's failures: one file each in the results folder, or printed where the user asks for that."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, printable
from harness.store.files import write_atomically

__all__ = ["Tracebacks", "trace_of"]

FOLDER = "tracebacks"
LONGEST = 1_000_000
"""Characters of a traceback that are kept. An exception may carry a whole tensor as text."""


@dataclass(frozen=True)
class Tracebacks:
    """The tracebacks of a run into the results folder ``folder``.

    With ``show`` each is printed by it, and no file is written.
    """

    folder: Path
    show: Callable[[str], None] | None = None

    def keep(self, stage: str, key: str, trace: str) -> str:
        """Keep the traceback of the step or cell with this key.

        Return the name of its file in the results folder, or "" if there is no file. A folder that cannot be written
        is reported by the record of the failure.
        """
        if not trace:
            return ""
        if self.show is not None:
            self.show(trace.rstrip())
            return ""
        name = f"{FOLDER}/{''.join(filter(str.isalnum, stage))}-{key[:12]}.txt"
        with suppress(OSError):
            (self.folder / FOLDER).mkdir(exist_ok=True)
            write_atomically(self.folder / name, trace[:LONGEST])
            return name
        return ""


def trace_of(error: BaseException) -> str:
    """Return the traceback of what caused ``error``, or "" if it is one of the harness's own messages."""
    cause: BaseException | None = error
    while isinstance(cause, HarnessError):
        cause = cause.__cause__
    return "" if cause is None else printable("".join(traceback.format_exception(cause)))

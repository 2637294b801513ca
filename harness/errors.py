"""Errors that a person can act on. Each carries one clear line; none needs a traceback."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable

__all__ = [
    "BoardLost",
    "CellError",
    "DeviceError",
    "HarnessError",
    "PluginError",
    "StorageError",
    "SuiteError",
    "UnknownEntry",
    "first_line",
    "nearest",
    "printable",
    "source_files",
]


class HarnessError(Exception):
    """Base of all errors that the command line prints as one line, with exit code 2."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(printable(str(message)).splitlines()))  # whatever a person typed, one line


class SuiteError(HarnessError):
    """A suite, or a value given for one, is wrong. The message has file:line, key and what is allowed."""


class PluginError(HarnessError):
    """A plugin could not be loaded, or broke its contract. The message names plugin, hook and fix."""


class UnknownEntry(HarnessError):
    """No plugin gives an entry of the name that is asked for. The message says which names there are."""


class DeviceError(HarnessError):
    """A device or its worker could not be used.

    ``files``: source files of the frames in which a worker's error arose, outermost first; empty if unknown.
    """

    def __init__(self, message: object, *, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


class BoardLost(DeviceError):
    """A board does not answer. Its cells are tried again when it answers. ``board`` is its name."""

    def __init__(self, message: object, *, board: str) -> None:
        super().__init__(message)
        self.board = board


class StorageError(HarnessError):
    """A folder cannot be read or written."""


class CellError(HarnessError):
    """One node or cell failed; the rest of the run continues.

    ``stage`` names the step (build, compress, partition, export, deploy, measure, ...) and
    ``plugin`` the plugin whose code ran, where one did.
    """

    def __init__(self, message: str, *, stage: str, plugin: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.plugin = plugin


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return a hint for a mistyped word: the nearest match if there is one, then all allowed words."""
    names = sorted(allowed)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    guess = f"did you mean {match[0]!r}? " if match else ""
    return f"{guess}allowed: {', '.join(names) or 'none'}"


def first_line(error: BaseException, *, kind: bool = False) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty.

    With ``kind`` the name of the type precedes the line: ``ValueError: no such layer``.
    """
    name = type(error).__name__
    try:
        lines = printable(str(error)).strip().splitlines()
    except Exception:  # noqa: BLE001 - the text of an error is code of a plugin or a library, too
        return name
    if not lines:
        return name
    return f"{name}: {lines[0]}" if kind else lines[0]


def source_files(error: BaseException) -> tuple[str, ...]:
    """Return the source files of the frames in which an error arose, outermost first.

    Those of another process, where it arose there, come last (:class:`DeviceError`).
    """
    frames = tuple(frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return (*frames, *getattr(error, "files", ()))


def printable(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it: what was no UTF-8 in a file's name becomes ``\\udcff``, say."""
    return text.encode("utf-8", "backslashreplace").decode()

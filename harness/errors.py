"""Errors that a person can act on. The message of each is one clear line, and no traceback is needed."""

from __future__ import annotations

import difflib
import re
import signal
import traceback
from collections.abc import Iterable

__all__ = [
    "BoardLost",
    "BrokenContract",
    "CellError",
    "DeviceError",
    "HarnessError",
    "PluginError",
    "Stopped",
    "StorageError",
    "SuiteError",
    "UnknownEntry",
    "first_line",
    "last_line",
    "nearest",
    "printable",
    "source_files",
]


class HarnessError(Exception):
    """Base of all errors that the command line prints as one line, with exit code 2."""

    def __init__(self, message: object) -> None:
        lines = str(message).splitlines()  # a typed text may have line breaks
        super().__init__(_shortened(printable(" ".join(lines)), LONGEST_MESSAGE))


class Stopped(KeyboardInterrupt):
    """A signal ended the command, or its output can no longer be written. Ctrl-C is a plain ``KeyboardInterrupt``.

    It is no ``Exception``, so that code that expects errors does not catch it. ``code`` is the exit code of the
    command, and ``reason`` is one line for a person.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code

    @property
    def signal(self) -> int | None:
        """Return the number of the signal that ended the command, or None if no signal did."""
        return self.code - 128 if self.code > 128 else None

    @classmethod
    def of(cls, error: KeyboardInterrupt) -> Stopped:
        """Return ``error`` itself if it is a ``Stopped``, else the ``Stopped`` that describes a Ctrl-C."""
        return error if isinstance(error, cls) else cls("interrupted", 128 + signal.SIGINT)


class SuiteError(HarnessError):
    """A suite, or a value that a person set for one, is wrong. The message has file:line, key and what is allowed."""


class PluginError(HarnessError):
    """A plugin could not be loaded, or broke its contract. The message names plugin, hook and fix."""


class BrokenContract(PluginError):
    """A plugin's function raised an error, or returned what its contract does not allow.

    ``plugin`` is the plugin's name, or ``None`` if the place that checks does not know it.
    """

    def __init__(self, message: object, *, plugin: str | None = None) -> None:
        super().__init__(message)
        self.plugin = plugin


class UnknownEntry(HarnessError):
    """No plugin has an entry with the name that was asked for. The message lists the names that exist."""


class DeviceError(HarnessError):
    """A device or its worker could not be used.

    ``files`` are the source files of the stack frames in which a worker's error arose, outermost first. It is empty
    if they are unknown. For a worker that died they are the files of the runtime that it had loaded. ``plugin`` is
    the plugin in whose code the error arose, as another machine named it; its files are not on this machine.
    """

    def __init__(self, message: object, *, files: tuple[str, ...] = (), plugin: str | None = None) -> None:
        super().__init__(message)
        self.files = files
        self.plugin = plugin


class BoardLost(DeviceError):
    """A board does not answer. Its cells are tried again when it answers. ``board`` is its name."""

    def __init__(self, message: object, *, board: str) -> None:
        super().__init__(message)
        self.board = board


class StorageError(HarnessError):
    """A folder cannot be read or written."""


class CellError(HarnessError):
    """One node or cell failed. The rest of the run continues.

    ``stage`` names the step (build, compress, partition, export, deploy, measure, ...) and ``plugin`` names the
    plugin whose code ran, if it was a plugin's code.
    """

    def __init__(self, message: str, *, stage: str, plugin: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.plugin = plugin


_OTHER_NAMES = {
    "lr": ("learningrate", "baselr", "peaklr"),
    "min_lr": ("finallr", "endlr", "minlearningrate"),
    "weight_decay": ("wd", "l2", "decay"),
    "batch_size": ("bs", "batch", "trainbatchsize"),
    "batch": ("bs", "batchsize"),
    "epochs": ("numepochs", "nepochs", "passes", "iterations"),
    "warmup_epochs": ("warmup", "warmupsteps"),
    "schedule": ("scheduler", "lrschedule", "lrscheduler"),
    "optimizer": ("opt", "optim"),
    "label_smoothing": ("smoothing",),
    "clip_grad": ("gradclip", "maxgradnorm", "gradientclipping"),
    "image_size": ("imgsize", "size", "resolution", "inputsize"),
    "dim": ("embeddim", "hiddendim", "hiddensize", "width", "channels"),
    "depth": ("numlayers", "layers", "numblocks", "nlayers"),
    "heads": ("numheads", "nheads", "attentionheads"),
    "patch_size": ("patch",),
    "min_time": ("duration", "time"),
    "min_queries": ("queries", "minquerycount", "iterations"),
    "warmup": ("warmupqueries", "warmupiterations"),
    "repeats": ("repetitions", "runs", "trials"),
    "seeds": ("seed", "randomseed"),
    "build": ("model", "architecture", "arch", "backbone"),
    "from": ("base", "parent", "extends"),
    "data": ("dataset",),
    "name": ("model", "modelname", "architecture", "arch"),
    "weights": ("checkpoint", "checkpointpath", "file", "path"),
    "crop_pct": ("crop", "centercrop", "cropratio"),
    "interpolation": ("resample", "resampling"),
    "normalize": ("normalise", "mean", "std", "normalization"),
}
"""Name of the harness -> what other tools call the same, without underscores."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return a hint for a mistyped word: the nearest match if there is one, then all allowed words.

    A word that other tools use for an allowed one, like ``learning_rate`` for ``lr``, is matched first.
    """
    names = sorted(allowed)
    bare = word.replace("_", "").replace("-", "").lower()
    match = [name for name in names if bare in _OTHER_NAMES.get(name, ())]
    match = match or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    guess = f"did you mean {match[0]!r}? " if match else ""
    return f"{guess}allowed: {', '.join(names) or 'none'}"


LONGEST_LINE = 1000
"""Characters of an error's first line that are kept. A library may put a whole model into its message."""

LONGEST_MESSAGE = 8000
"""Characters of a message of ours that are kept. Lists of allowed names can be long."""


def first_line(error: BaseException, *, kind: bool = False) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty.

    With ``kind`` the name of the type precedes the line: ``ValueError: no such layer``. Control characters are
    escaped, and a line of more than :data:`LONGEST_LINE` characters is cut.
    """
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - the text of an error is code of a plugin or a library, too
        return name
    if not lines:
        return name
    line = _shortened(printable(lines[0]), LONGEST_LINE)
    return f"{name}: {line}" if kind else line


def last_line(text: str, default: str = "it said nothing") -> str:
    """Return the last line of what a program printed, in printable form, or ``default`` if it printed nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _shortened(printable(lines[-1]), LONGEST_LINE) if lines else default


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ... ({len(text):,} characters)"


def source_files(error: BaseException) -> tuple[str, ...]:
    """Return the source files of the stack frames in which an error arose, outermost first.

    If the error arose in another process, the files of that process come last (:class:`DeviceError`).
    """
    frames = tuple(frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return (*frames, *getattr(error, "files", ()))


_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and newline
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # they change the direction or the line of what follows
    "\ud800-\udfff]"  # bytes of a file's name that are not UTF-8
)


def printable(text: str) -> str:
    """Return ``text`` in a form that is safe to print to a terminal as UTF-8. Line breaks and tabs stay.

    A control character becomes an escape such as ``\\x1b``, and a byte of a file's name that is not UTF-8 becomes
    ``\\udcff``.
    """
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

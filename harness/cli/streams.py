"""The standard streams of a command: closed, full or without a reader, and characters that they do not have."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from harness.errors import Stopped

__all__ = ["standard_streams"]

UNREAD = 128 + signal.SIGPIPE
"""Exit code of a command whose output nobody reads: the reader of the pipe ended, or the output is closed."""


class _Output(io.FileIO):
    """The standard output. The first write that fails ends the command, and later writes are dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost = False

    def write(self, data: object) -> int:
        """Write ``data``, or raise :class:`~harness.errors.Stopped`."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self.lost:
            return size
        try:
            while (written := super().write(data)) is None:  # type: ignore[arg-type]
                select.select([], [self], [])  # another program made the pipe non-blocking
        except OSError as error:
            self.lost = True
            if error.errno in (errno.EPIPE, errno.EBADF):
                raise Stopped("", UNREAD) from None
            if error.errno == errno.EIO:
                raise Stopped("error: the terminal is closed", UNREAD) from None
            raise Stopped(f"error: cannot write output: {error.strerror}", 2) from None
        return written


class _Messages(_Output):
    """The standard error. A message that cannot be written is dropped, and the command continues."""

    def write(self, data: object) -> int:
        """Write ``data`` if that is possible."""
        with suppress(Stopped):
            return super().write(data)
        return memoryview(data).nbytes  # type: ignore[arg-type]


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let the standard streams print any text, and end the command if its output cannot be written."""
    _hold_closed_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - it stays open like any standard stream
    sys.stdout = _stream(1, sys.stdout, _Output)
    sys.stderr = _stream(2, sys.stderr, _Messages)
    try:
        yield
    finally:
        with suppress(Stopped):
            sys.stdout.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _hold_closed_descriptors() -> None:
    """Open something on the standard descriptors that are closed, so that no file of a command gets their number.

    A write to it fails, as a write to a closed descriptor does.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            held = os.open(os.devnull, os.O_RDONLY)  # the lowest free number, which is this one
            os.set_inheritable(held, True)


def _stream(descriptor: int, stream: TextIO | None, kind: type[_Output]) -> TextIO:
    """Return a stream on ``descriptor`` in place of ``stream``; ``stream`` itself if that is no file (in tests)."""
    from harness.render.characters import UNENCODABLE

    encoding, by_line = "utf-8", True
    if stream is not None:
        try:
            if stream.fileno() != descriptor:
                return stream
        except (OSError, ValueError):
            return stream
        encoding = stream.encoding
        by_line = bool(stream.line_buffering or getattr(stream, "write_through", False))
    buffer = io.BufferedWriter(kind(descriptor))
    return io.TextIOWrapper(buffer, encoding=encoding, errors=UNENCODABLE, line_buffering=by_line)

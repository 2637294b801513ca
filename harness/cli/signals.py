"""Signals that end a command in order: what is finished is kept, and one line says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import Stopped

__all__ = ["stopping_signals"]

ENDINGS = {signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "ended by SIGHUP: the terminal was closed"}


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Raise :class:`~harness.errors.Stopped` for the first SIGTERM or SIGHUP. Further ones do not disturb the end.

    A signal that the parent process ignores stays ignored, as ``nohup`` wants.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise Stopped(ENDINGS[signal.Signals(number)], 128 + number)

    before = {number: signal.getsignal(number) for number in ENDINGS}
    caught = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])

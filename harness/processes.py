"""Start child processes that end with their parent, and say why one ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

__all__ = ["die_with_parent", "died", "start"]


def die_with_parent() -> None:
    """End this process when its parent ends, even by ``kill -9``. This uses one sleeping thread."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start(process: BaseProcess) -> None:
    """Start a child process that Ctrl-C never reaches.

    The child inherits the blocked signal, so this holds even while it imports. A Ctrl-C during the start takes effect
    in this process afterwards. No child is therefore left with only a part of its arguments.
    """
    resource_tracker.ensure_running()  # a later start would unblock the signal first
    with _interrupt_deferred():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Delay SIGINT until the end of the block.

    Blocking the signal is not enough: another thread may take it, and Python then runs the handler in the main
    thread.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def died(code: int | None, what: str = "its process") -> str:
    """Return a message that ``what`` ended before its answer, with the reason that its exit code gives."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"{what} was ended by {name}{hint}"
    return f"{what} ended with exit code {code}"

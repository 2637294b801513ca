"""Start child processes that end with their parent, and say why one ended.

There are two kinds of children. A child of :mod:`multiprocessing` calls :func:`die_with_parent`. Any other program is
started by the command that :func:`bound` returns.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from harness.errors import HarnessError
from harness.quiet import clean_path

__all__ = ["bound", "die_with_parent", "died", "start", "starting"]

PR_SET_PDEATHSIG = 1
"""The option in ``linux/prctl.h`` for the signal that a process gets when its parent ends. It persists over ``exec``."""

_BOUND = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Code that binds a process to its parent and then runs another program. ``preexec_fn`` is unsafe with threads."""


def die_with_parent() -> None:
    """End this process of :mod:`multiprocessing` when its parent ends, even by ``kill -9``.

    This uses one sleeping thread. The kernel's signal (:func:`bound`) would come too early, because it comes when the
    thread of the parent ends that started this process.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def bound(command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` as a child of this process until this process ends, at the latest.

    The kernel kills the child (``kill -9``) when the thread that started it ends. The process keeps its number and
    its open files. A program that cannot be started gives exit code 1.
    """
    return [sys.executable, "-ISc", _BOUND, str(os.getpid()), *command]


def start(process: BaseProcess) -> None:
    """Start a child process that Ctrl-C and the end of the terminal never reach (:func:`starting`).

    Raises:
        HarnessError: the system could not start it, or ended it, or the process that forks it, at once.
    """
    with starting():
        process.start()


@contextmanager
def starting() -> Iterator[None]:
    """Start child processes in this block that Ctrl-C and the end of the terminal never reach.

    A child inherits the blocked signals, so this holds even while it imports. A signal that comes during the start
    takes effect in this process afterwards. No child is therefore left with only a part of its arguments. The current
    folder is not on a child's path while it starts. Afterwards the child has the path of this process.

    Raises:
        HarnessError: the system could not start a child, or ended it, or the process that forks it, at once.
    """
    with clean_path(), _interrupt_deferred():
        resource_tracker.ensure_running()  # a later start would unblock the signal first
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            yield
        except (EOFError, OSError) as error:  # EOFError: of a forkserver that was ended
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it was ended"
            raise HarnessError(f"cannot start a process: {reason} (out of memory?)") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Delay the signals that end a command until the end of the block.

    Blocking a signal is not enough: another thread may take it, and Python then runs the handler in the main thread.
    """
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: handler for number in ends if callable(handler := signal.getsignal(number))}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def died(code: int | None, what: str = "its process") -> str:
    """Return a message that ``what`` ended before its answer, with the reason that its exit code gives."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"{what} was ended by {name}{hint}"
    return f"{what} ended with exit code {code}"

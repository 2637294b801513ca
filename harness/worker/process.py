"""The process of a worker, which its parent starts, sends commands to, and ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from harness.errors import BoardLost, DeviceError, HarnessError
from harness.processes import died, start
from harness.types import Monitor
from harness.worker import worker
from harness.worker.commands import Command, Failed, Load, Lost, Observe, Reply

__all__ = ["WorkerProcess"]

A = TypeVar("A")


class WorkerProcess:
    """A fresh :mod:`harness.worker.worker` on this machine. ``name`` is the name of its device, for messages.

    Without ``preload`` it is spawned, without torch. With ``preload`` it is forked from a server that has only
    imported those modules. ``affinity``: the cores that it may use. The process that reads meters may use all cores.
    """

    def __init__(
        self, name: str, monitor: Monitor, *, preload: Sequence[str] = (), affinity: Sequence[int] = ()
    ) -> None:
        self.name = name
        self._runtime_files: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._reaping = threading.Lock()
        if preload:
            context: Any = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(preload))
        else:
            context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=worker.main, args=(theirs,), daemon=True)
        try:
            start(self._process)
        except HarnessError as error:
            ours.close()
            raise DeviceError(f"the worker on {name}: {error}") from error
        finally:
            theirs.close()
        self._conn: Connection | None = ours
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.ask(Observe(monitor))
        if affinity:
            os.sched_setaffinity(self.pid, affinity)

    def ask(self, command: Command[A]) -> A:
        """Return the answer to a command. Only one command runs at a time, even if several threads ask.

        Raises:
            DeviceError: the worker answers with an error, died, or is closed.
            BoardLost: another board, which the command needs, does not answer.
        """
        if isinstance(command, Load):
            self._runtime_files = _files_of(command.loader)
        with self._lock:
            if self._conn is None:
                raise DeviceError(f"{self.name} is closed")
            try:
                self._conn.send(command)
                reply: Reply = self._conn.recv()
            except (EOFError, OSError):
                raise DeviceError(self._death(self._wait(5)), files=self._runtime_files) from None
        match reply:
            case Lost(board, message):
                raise BoardLost(message, board=board)
            case Failed(message, files):
                raise DeviceError(f"{command.name} on {self.name}: {message}", files=files)
        answer: A = reply.answer
        return answer

    def death(self) -> str | None:
        """Return why the process ended, or None if it still runs after 1 s."""
        code = self._wait(1.0)
        return None if code is None else self._death(code)

    def kill(self) -> None:
        """End the process at once, from any thread. A command that waits for its answer then raises an error."""
        with self._reaping:  # otherwise its number could belong to another process by now
            self._process.kill()

    def close(self) -> None:
        """End the process. It is asked to end first, and is killed if it has not ended within a second."""
        conn = self._conn
        if conn is None:
            return
        if self._lock.acquire(blocking=False):  # otherwise it works for another thread
            try:
                conn.send(None)
                self._wait(0.2)
            except OSError:
                pass
            finally:
                self._lock.release()
        if self._wait(0) is None:
            self.kill()
            self._wait(1)
        with self._lock:
            self._conn = None
            conn.close()

    def _wait(self, seconds: float) -> int | None:
        """Return the exit code once there is one, or None after ``seconds``.

        The system gives the code to only one thread, so only one thread asks at a time.
        """
        end = time.monotonic() + seconds
        while True:
            with self._reaping:
                code = self._process.exitcode
            if code is not None or time.monotonic() >= end:
                return code
            time.sleep(0.01)

    def _death(self, code: int | None) -> str:
        return died(code, f"the worker on {self.name}")


def _files_of(loader: str) -> tuple[str, ...]:
    """Return the file of a runtime's function "module:function", if its module is imported here."""
    file = getattr(sys.modules.get(loader.partition(":")[0]), "__file__", None)
    return () if file is None else (file,)

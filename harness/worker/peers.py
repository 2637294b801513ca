"""A worker that serves the central one: its socket for frames, and how it is reached on the same machine."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

from harness.errors import HarnessError, first_line, source_files
from harness.types import Answer, Answers, Peer
from harness.types.json import Facts
from harness.worker.frames import FrameError, Pieces
from harness.worker.messages import (
    Done,
    Echo,
    Failure,
    Keep,
    RequestRefused,
    Run,
    answer_of,
    pack_done,
    pack_failure,
    read_request,
)

__all__ = ["LOCAL", "LocalPeer", "Server", "open_local"]

LOCAL = "harness.worker.peers:open_local"
"""What a worker of the same machine is opened with."""
MAX_ECHO = 2**26

Handle = Callable[[Run | Keep, Sequence[Any]], Done]
"""Takes a request and its tensors, and returns the answer."""


class Server:
    """A server of frames on a private socket at ``address``, for clients that have the ``key``.

    It is an abstract Unix socket, which leaves nothing behind after a kill. A thread of its own reads each
    connection, ahead of the work. Therefore a client that connects and sends nothing delays no other client.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.key = os.urandom(32)
        self.address = f"\0harness-{os.urandom(16).hex()}"
        self._listener = Listener(self.address, "AF_UNIX")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._let_in(self._listener.accept())
            except (OSError, RuntimeError, MemoryError):
                time.sleep(0.01)  # no file descriptor or thread is available

    def _let_in(self, conn: Connection) -> None:
        threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: Connection) -> None:
        """Check the key as :class:`Listener` does with ``authkey``, but without delaying other clients.

        Then read frames.
        """
        arrived: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        with suppress(OSError, EOFError, AuthenticationError, RuntimeError, MemoryError):
            deliver_challenge(conn, self.key)
            answer_challenge(conn, self.key)
            threading.Thread(target=self._work, args=(conn, arrived), daemon=True).start()
            self._read(conn, arrived)

    @staticmethod
    def _read(conn: Connection, arrived: queue.SimpleQueue[tuple[int, bytes] | None]) -> None:
        """Queue each frame with its time of arrival. Queue ``None`` after the last one."""
        while True:
            try:
                frame = conn.recv_bytes()
            except (EOFError, OSError):
                arrived.put(None)
                return
            arrived.put((time.perf_counter_ns(), frame))

    def _work(self, conn: Connection, arrived: queue.SimpleQueue[tuple[int, bytes] | None]) -> None:
        while (got := arrived.get()) is not None:
            came, frame = got
            try:
                conn.send_bytes(b"".join(self._answer(frame, came)))
            except OSError:
                return

    def _answer(self, frame: bytes, came: int) -> Pieces:
        """Return the answer to a frame. If the request fails, it is an error."""
        number: int | None = None
        part = ""
        try:
            request, tensors = read_request(frame)
            number = request.number
            part = request.part if isinstance(request, Run) else ""
            done = _echo(request) if isinstance(request, Echo) else self._handle(request, tensors)
            return pack_done(done, queue_ns=time.perf_counter_ns() - came - (done.compute_ns or 0))
        except RequestRefused as error:
            return pack_failure(Failure(error.number, str(error), error.part))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a runtime may raise anything; the central node reports it
            line = first_line(error, kind=not isinstance(error, HarnessError))
            return pack_failure(Failure(number, line, part, source_files(error)))


def _echo(request: Echo) -> Done:
    """Return an answer with the number of zeros that the request asks for."""
    import numpy as np

    if request.reply_bytes > MAX_ECHO:
        raise FrameError(f"reply_bytes: 0 to {MAX_ECHO}")
    return Done(request.number, outputs=[np.zeros(request.reply_bytes, np.uint8)])


class LocalPeer:
    """A worker on this machine as a :class:`harness.types.Peer`."""

    def __init__(self, device: str, conn: Connection, answers: Answers) -> None:
        self.device = device
        self._conn = conn
        self._answers = answers
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        """Send a frame over the socket."""
        self._conn.send_bytes(b"".join(frame))

    def close(self) -> None:
        """Close the socket."""
        self._conn.close()

    def _read(self) -> None:
        while True:
            try:
                frame = self._conn.recv_bytes()
            except (EOFError, OSError):
                self._answers(
                    Answer(peer=self.device, query=-1, part="", error="the worker went away", lost=True)
                )
                return
            self._answers(answer_of(self.device, frame))


def open_local(details: Facts, answers: Answers) -> Peer:
    """Connect to a worker on this machine.

    ``details`` has the fields of :class:`harness.worker.commands.Listening`, and ``device``.
    """
    conn = Client(details["address"], "AF_UNIX", authkey=bytes.fromhex(details["key"]))
    assert isinstance(conn, Connection)
    return LocalPeer(details["device"], conn, answers)

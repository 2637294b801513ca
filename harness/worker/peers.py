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

from harness.errors import BoardLost, HarnessError, first_line, source_files
from harness.types import Answer, Answers, Peer
from harness.types.json import JsonObject
from harness.worker.frames import FrameError, pack, size_of, unpack

__all__ = ["LOCAL", "MAX_KEPT_BYTES", "MAX_SLOTS", "LocalPeer", "Server", "answer_of", "open_local"]

LOCAL = "harness.worker.peers:open_local"
"""What a worker of the same machine is opened with."""
MAX_SLOTS = 4096
MAX_KEPT_BYTES = 2**30
MAX_ECHO = 2**26

Handle = Callable[[JsonObject, Sequence[Any]], tuple[JsonObject, Sequence[Any]]]
"""Takes a request's header and tensors, and returns those of the answer."""


class Server:
    """Answers frames on a private socket at ``address``, for whoever has the ``key``.

    It is an abstract Unix socket, of which nothing is left after a kill. Each connection is read by a thread of its
    own, ahead of the work. So a stranger that connects and sends nothing delays nobody.
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
                time.sleep(0.01)  # no descriptor or thread left

    def _let_in(self, conn: Connection) -> None:
        threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: Connection) -> None:
        """Check the key as :class:`Listener` does with ``authkey``, but without holding up others; then read frames."""
        arrived: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        with suppress(OSError, EOFError, AuthenticationError, RuntimeError, MemoryError):
            deliver_challenge(conn, self.key)
            answer_challenge(conn, self.key)
            threading.Thread(target=self._work, args=(conn, arrived), daemon=True).start()
            self._read(conn, arrived)

    @staticmethod
    def _read(conn: Connection, arrived: queue.SimpleQueue[tuple[int, bytes] | None]) -> None:
        """Queue each frame with its time of arrival; ``None`` when no more come."""
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

    def _answer(self, frame: bytes, came: int) -> list[bytes | memoryview]:
        """Return the answer to a frame, in pieces; to one that fails, the error."""
        about: JsonObject = {"id": None}
        try:
            header, tensors = unpack(frame)
            about = _about(header)
            if header.get("op") == "echo":
                fields, outputs = _echo(header)
            else:
                fields, outputs = self._handle(header, tensors)
            spent = fields.get("compute_ns", 0)
            return pack({**about, **fields, "queue_ns": time.perf_counter_ns() - came - spent}, outputs)
        except BoardLost as error:
            return pack({**about, "error": _line(error), "lost": error.board})
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the central node reports it
            return pack({**about, "error": _line(error), "files": _files(error)})


def _about(header: JsonObject) -> JsonObject:
    """Return what an answer repeats of its request, except a name that would make its header too long."""
    part = header.get("part")
    named = {"part": part} if isinstance(part, str) and len(part) <= 200 else {}
    return {"id": _number(header.get("id")), **named}


def _number(id: Any) -> int | None:
    return id if type(id) is int and abs(id) < 2**63 else None


def _line(error: BaseException) -> str:
    """Return one line that says what failed."""
    return first_line(error, kind=not isinstance(error, HarnessError))[:2000]


def _files(error: BaseException) -> list[str]:
    """Return the innermost files in which an error arose: as many as a header certainly has room for."""
    return [file for file in source_files(error) if len(file) < 1000 and file.isascii()][-20:]


def _echo(header: JsonObject) -> tuple[JsonObject, Sequence[Any]]:
    """Return as many zeros as the header asks for."""
    import numpy as np

    size = header.get("reply_bytes", 0)
    if type(size) is not int or not 0 <= size <= MAX_ECHO:
        raise FrameError(f"reply_bytes: 0 to {MAX_ECHO}")
    return {}, [np.zeros(size, np.uint8)]


class LocalPeer:
    """A worker of this machine as a :class:`harness.types.Peer`."""

    def __init__(self, device: str, conn: Connection, answers: Answers) -> None:
        self.device = device
        self._conn = conn
        self._answers = answers
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        self._conn.send_bytes(b"".join(frame))

    def close(self) -> None:
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


def answer_of(device: str, frame: bytes | memoryview) -> Answer:
    """Return the answer in a peer's frame. A frame that cannot be read is an answer with an error."""
    try:
        header, tensors = unpack(frame)
    except FrameError as error:
        return Answer(peer=device, query=-1, part="", error=f"answers with {error}", lost=True)
    return Answer(
        peer=device,
        query=-1 if (number := _number(header.get("id"))) is None else number,
        part=str(header.get("part", "")),
        output=tensors[0] if tensors else None,
        error=str(header.get("error", "")),
        files=_strings(header.get("files")),
        queue_ns=_count(header.get("queue_ns")),
        compute_ns=_count(header.get("compute_ns")),
        received_bytes=size_of([frame]),
    )


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def open_local(details: JsonObject, answers: Answers) -> Peer:
    """Reach a worker of this machine. ``details``: the fields of :class:`harness.worker.commands.Listening`, and ``device``."""
    conn = Client(details["address"], "AF_UNIX", authkey=bytes.fromhex(details["key"]))
    assert isinstance(conn, Connection)
    return LocalPeer(details["device"], conn, answers)

"""The agent's data plane: frames from the network to the worker's socket, answers back, tensors untouched.

Whoever reads the network feeds the frames, and answers itself what the worker need not be asked. A thread of the
relay's own takes the worker's answers, gives it the next frame, and sends the answer on. The worker has one frame
at a time; those that come meanwhile wait in a bounded queue, behind which the network's own flow control holds the
sender.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np

from harness.errors import DeviceError, HarnessError
from harness.worker.frames import MAX_HEADER, header_of, pack, with_header

__all__ = ["MAX_WAITING", "Buffer", "Frame", "Relay"]

MAX_WAITING = 64
"""Frames of one stream that wait for its worker."""

JOIN_S = 3.0
ENDED = "the board's worker ended"

Buffer = bytes | memoryview
Frame = list[Buffer]
"""In pieces."""


@dataclass(frozen=True)
class _Arrived:
    data: Buffer
    at_ns: int


class Relay:
    """One stream's frames to and from a worker that listens at ``address``.

    ``allowed`` are the requests that this stream may make; ``max_bytes`` the greatest frame, and four of them are
    the most that waits for the worker. ``reply`` sends an answer on, from any thread, and raises ``OSError`` where
    nobody takes it; ``over`` is called once when nothing will be answered any more: with the reason, empty if the stream
    was ended here.

    Raises:
        DeviceError: the worker does not answer.
    """

    def __init__(
        self,
        address: str,
        key: str,
        allowed: frozenset[str],
        max_bytes: int,
        reply: Callable[[Frame], None],
        over: Callable[[str], None],
    ) -> None:
        try:
            self._worker: Connection = Client(address, "AF_UNIX", authkey=bytes.fromhex(key))
        except (OSError, EOFError) as error:
            raise DeviceError(f"the board's worker does not answer: {error or 'it has ended'}") from None
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._reply, self._over = reply, over
        self._changed = threading.Condition()
        # _changed guards all below
        self._running: _Arrived | None = None
        self._replying = False
        self._waiting: deque[_Arrived] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._fault = ""  # a text: an error would keep its frames, and with them the connection
        self._socket = socket.socket(fileno=os.dup(self._worker.fileno()))
        self._thread = threading.Thread(target=self._answers, name="answers", daemon=True)
        self._thread.start()

    def feed(self, data: Buffer) -> bool:
        """Take a frame, as soon as there is room for it; false when the stream is over.

        Raises:
            FrameError: it is none.
        """
        frame = _Arrived(data, time.monotonic_ns())
        header, _ = header_of(data)
        own = self._own_answer(header)
        if own is not None:
            try:
                self._reply(own)
            except OSError:
                self.end()
            return not self._closed
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._room(len(data)))
            if self._closed:
                return False
            if self._running is not None:
                self._waiting.append(frame)
                self._waiting_bytes += len(data)
                return True
            self._running = frame
        try:
            self._worker.send_bytes(data)
        except (OSError, ValueError):
            self._broken(ENDED)
            return False
        return True

    def drain(self) -> None:
        """No more frames will come: wait until all are answered."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not (self._running or self._waiting or self._replying)
            )

    def end(self) -> None:
        """Answer no more. From any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)  # the answers' thread waits there

    def join(self) -> None:
        """After the end: until ``over`` was called, for some seconds at most."""
        self._thread.join(JOIN_S)

    def _room(self, size: int) -> bool:
        fits = self._waiting_bytes + size <= 4 * self._max_bytes or not self._waiting
        return fits and len(self._waiting) < MAX_WAITING

    def _own_answer(self, header: dict[str, Any]) -> Frame | None:
        """The answer to what the worker is not asked: an echo, or what is refused."""
        op, told = header.get("op"), {"id": header.get("id")}
        if not isinstance(op, str) or op not in self._allowed:
            return pack({**told, "error": f"no request {str(op)[:40]!r} on this stream"})
        if op != "echo" or header.get("worker"):
            return None
        size, most = header.get("reply_bytes", 0), self._max_bytes - MAX_HEADER
        if type(size) is not int or not 0 <= size <= most:
            return pack({**told, "error": f"reply_bytes: allowed are 0 to {most}"})
        zeros = [np.zeros(size, np.uint8)] if size else []
        return pack({**told, "compute_ns": 0, "queue_ns": 0}, zeros)

    def _broken(self, fault: str) -> None:
        with self._changed:
            if not self._closed:
                self._fault = self._fault or fault
        self.end()

    # --- the answers' thread ---

    def _answers(self) -> None:
        try:
            while True:
                self._reply(self._next())
                with self._changed:
                    self._replying = False
                    self._changed.notify_all()
        except OSError:  # nobody takes it
            self.end()
        except HarnessError as error:
            self._broken(str(error))
        except MemoryError:
            self._broken("the board is out of memory")
        except Exception as error:  # noqa: BLE001 - whoever waits for an answer is told
            self._broken(f"{type(error).__name__}: {error}")
        finally:
            self._over(self._fault)
            with self._changed:
                self._socket.close()

    def _next(self) -> Frame:
        """The worker's next answer, with the time that its frame was queued; the worker has its next frame by then."""
        try:
            answer = self._worker.recv_bytes()
        except (OSError, EOFError):
            raise DeviceError(ENDED) from None
        ready_ns = time.monotonic_ns()
        with self._changed:
            frame, self._running = self._running, self._waiting.popleft() if self._waiting else None
            following, self._replying = self._running, True
            if following is not None:
                self._waiting_bytes -= len(following.data)
            self._changed.notify_all()
        if following is not None:
            try:
                self._worker.send_bytes(following.data)
            except (OSError, ValueError):
                raise DeviceError(ENDED) from None
        header, body = header_of(answer)
        if frame is None or type(header.get("compute_ns", 0)) is not int:
            raise DeviceError("the board's worker gave an answer that nobody asked for")
        header["queue_ns"] = max(0, ready_ns - frame.at_ns - header.get("compute_ns", 0))
        return with_header(header, body)

"""The agent's data plane: raw frames from a gRPC stream to the worker's socket, answers back, tensors untouched.

Two threads per stream. The reader takes frames off the network, stamps their arrival, and hands one at a time to
the worker; those that come meanwhile wait in a bounded queue, behind which the network's own flow control holds the
sender. The other, gRPC's, takes the worker's answers, feeds it the next frame, and sends the answer on.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from typing import Any

from harness.errors import DeviceError, HarnessError
from harness.frames import MAX_HEADER, header_of, pack, with_header

__all__ = ["MAX_WAITING", "Relay"]

MAX_WAITING = 64
"""Frames of one stream that wait for its worker."""


@dataclass(frozen=True)
class _Frame:
    data: bytes
    arrived_ns: int


class Relay:
    """One stream's frames to and from a worker that listens at ``address``.

    ``allowed`` are the requests that this stream may make; ``max_bytes`` the greatest frame, and four of them are
    the most that waits for the worker.

    Raises:
        DeviceError: the worker does not answer.
    """

    def __init__(self, address: str, key: str, allowed: frozenset[str], max_bytes: int) -> None:
        try:
            self._worker: Connection = Client(address, "AF_UNIX", authkey=bytes.fromhex(key))
        except (OSError, EOFError) as error:
            raise DeviceError(f"the board's worker does not answer: {error or 'it has ended'}") from None
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        # _changed guards _wake and all below
        self._running: _Frame | None = None
        self._waiting: deque[_Frame] = deque()
        self._waiting_bytes = 0
        self._own: deque[tuple[dict[str, Any], int]] = deque()  # answers that need no worker, and their zeros
        self._drained = False  # no more frames will come
        self._closed = False
        # not as the error itself, which would keep its frames, and with them gRPC's call
        self._fault: tuple[type[HarnessError], str] | None = None

    def answers(
        self, frames: Iterable[bytes], on_end: Callable[[Callable[[], None]], Any]
    ) -> Iterator[bytes]:
        """Every frame's answer, until ``frames`` ends, or the stream (of which ``on_end`` tells).

        Raises:
            DeviceError: the worker is gone.
            FrameError: what came is no frame.
        """
        reader = threading.Thread(target=self._read, args=(frames,), name="frames", daemon=True)
        worker, poller = self._worker.fileno(), select.poll()
        poller.register(worker, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        on_end(self._end)
        reader.start()
        try:
            while not self._done():
                ready = {handle for handle, _ in poller.poll(1000)}
                if worker in ready:
                    yield self._answer()
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                while (own := self._next_own()) is not None:
                    yield own
        finally:
            self._end()
            self._worker.close()
            with self._changed:
                os.close(self._wake)
                self._wake = -1

    def _done(self) -> bool:
        with self._changed:
            if self._fault is not None:
                kind, told = self._fault
                raise kind(told)
            idle = self._running is None and not self._waiting and not self._own
            return self._closed or (self._drained and idle)

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._signal()

    def _answer(self) -> bytes:
        """The worker's next answer, with the time that its frame was queued; the worker has its next frame by then."""
        try:
            answer = self._worker.recv_bytes()
        except (OSError, EOFError):
            raise DeviceError("the board's worker ended") from None
        ready_ns = time.monotonic_ns()
        with self._changed:
            frame, self._running = self._running, self._waiting.popleft() if self._waiting else None
            following = self._running
            if following is not None:
                self._waiting_bytes -= len(following.data)
            self._changed.notify_all()
        if following is not None:
            self._send(following)
        header, body = header_of(answer)
        if frame is None or type(header.get("compute_ns", 0)) is not int:
            raise DeviceError("the board's worker gave an answer that nobody asked for")
        header["queue_ns"] = max(0, ready_ns - frame.arrived_ns - header.get("compute_ns", 0))
        return b"".join(with_header(header, body))

    def _next_own(self) -> bytes | None:
        with self._changed:
            if not self._own:
                return None
            header, size = self._own.popleft()
            self._changed.notify_all()
        return _zeros(header, size)

    def _send(self, frame: _Frame) -> None:
        try:
            self._worker.send_bytes(frame.data)
        except (OSError, ValueError):
            raise DeviceError("the board's worker ended") from None

    # The reader's thread.

    def _read(self, frames: Iterable[bytes]) -> None:
        fault: tuple[type[HarnessError], str] | None = None
        try:
            for data in frames:
                if not self._take(_Frame(data, time.monotonic_ns())):
                    break
        except HarnessError as error:
            fault = type(error), str(error)
        except Exception as error:  # noqa: BLE001 - a cancelled stream's frames end with gRPC's own errors
            error.__traceback__ = None  # gRPC keeps the error: with its frames it would keep the call
            fault = DeviceError, "the stream was broken off"
        with self._changed:
            self._drained, self._fault = True, fault
            self._signal()

    def _take(self, frame: _Frame) -> bool:
        """Hand a frame on; false when the stream has ended."""
        header, _ = header_of(frame.data)
        own = self._own_answer(header)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._room(len(frame.data)))
            if self._closed:
                return False
            if own is not None:
                self._own.append(own)
                self._signal()
                return True
            if self._running is not None:
                self._waiting.append(frame)
                self._waiting_bytes += len(frame.data)
                return True
            self._running = frame
        self._send(frame)
        return True

    def _room(self, size: int) -> bool:
        fits = self._waiting_bytes + size <= 4 * self._max_bytes or not self._waiting
        return fits and max(len(self._waiting), len(self._own)) < MAX_WAITING

    def _own_answer(self, header: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
        """The answer to what the worker is not asked: an echo, or what is refused."""
        op, told = header.get("op"), {"id": header.get("id")}
        if not isinstance(op, str) or op not in self._allowed:
            return {**told, "error": f"no request {str(op)[:40]!r} on this stream"}, 0
        if op != "echo" or header.get("worker"):
            return None
        size, most = header.get("reply_bytes", 0), self._max_bytes - MAX_HEADER
        if type(size) is not int or not 0 <= size <= most:
            return {**told, "error": f"reply_bytes: allowed are 0 to {most}"}, 0
        return {**told, "compute_ns": 0, "queue_ns": 0}, size

    def _signal(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)


def _zeros(header: dict[str, Any], size: int) -> bytes:
    import numpy as np

    return b"".join(pack(header, [np.zeros(size, np.uint8)] if size else []))

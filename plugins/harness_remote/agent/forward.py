"""Forward frames from the network to the worker's socket, and answers back. Tensors are not read.

The thread that reads the network passes frames to the forwarder. It answers a frame itself if the worker is not
needed. A thread of the forwarder receives the worker's answers, gives the worker the next frame, and sends the
answer. The worker has one frame at a time. Further frames wait in a bounded queue. If it is full, the network's flow
control stops the sender.
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

import numpy as np

from harness.errors import DeviceError, HarnessError
from harness.worker.commands import Listening
from harness.worker.frames import MAX_HEADER
from harness.worker.messages import (
    Done,
    Echo,
    Failure,
    Request,
    RequestRefused,
    pack_done,
    pack_failure,
    request_of,
    requeued,
)

__all__ = ["MAX_WAITING", "Buffer", "Forwarder", "Frame"]

MAX_WAITING = 64
"""The largest number of frames of one board that wait for the worker."""

JOIN_S = 3.0
ENDED = "the board's worker ended"

Buffer = bytes | memoryview
Frame = list[Buffer]
"""A frame in pieces."""


@dataclass(frozen=True)
class _Arrived:
    """A frame and the time of its arrival, in monotonic ns."""

    data: Buffer
    at_ns: int


class Forwarder:
    """The frames of one board, to and from the worker that listens at ``worker``.

    ``max_bytes`` is the largest frame. Frames of at most four times that size wait for the worker. ``reply`` sends an
    answer, from any thread, and raises ``OSError`` if nobody receives it. ``over`` is called once, when no more
    answers follow, with the reason; the reason is empty if :meth:`end` was called.

    Raises:
        DeviceError: the worker does not answer.
    """

    def __init__(
        self, worker: Listening, max_bytes: int, reply: Callable[[Frame], None], over: Callable[[str], None]
    ) -> None:
        try:
            conn = Client(worker.address, "AF_UNIX", authkey=bytes.fromhex(worker.key))
        except (OSError, EOFError) as error:
            raise DeviceError(f"the board's worker does not answer: {error or 'it has ended'}") from None
        assert isinstance(conn, Connection)
        self._worker = conn
        self._max_bytes = max_bytes
        self._reply, self._over = reply, over
        self._changed = threading.Condition()
        # _changed guards the attributes below
        self._running: _Arrived | None = None
        self._waiting: deque[_Arrived] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._fault = (
            ""  # text, because an exception would keep stack frames alive, and with them the connection
        )
        self._socket = socket.socket(fileno=os.dup(self._worker.fileno()))
        self._thread = threading.Thread(target=self._answers, name="answers", daemon=True)
        self._thread.start()

    def feed(self, data: Buffer) -> bool:
        """Accept a frame as soon as there is room for it. Return whether more frames may follow.

        Raises:
            FrameError: the bytes are not a frame.
        """
        frame = _Arrived(data, time.monotonic_ns())
        try:
            own = self._own_answer(request_of(data))
        except RequestRefused as error:
            own = pack_failure(Failure(error.number, str(error), error.part))
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

    def end(self) -> None:
        """Stop answering. Any thread may call this."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)  # the answers' thread waits there

    def join(self) -> None:
        """After the end, wait until ``over`` was called, for at most 3 seconds."""
        self._thread.join(JOIN_S)

    def _room(self, size: int) -> bool:
        fits = self._waiting_bytes + size <= 4 * self._max_bytes or not self._waiting
        return fits and len(self._waiting) < MAX_WAITING

    def _own_answer(self, request: Request) -> Frame | None:
        """Return the answer to an echo of the agent, or None if the worker must answer."""
        if not isinstance(request, Echo) or request.worker:
            return None
        size, most = request.reply_bytes, self._max_bytes - MAX_HEADER
        if size > most:
            return pack_failure(Failure(request.number, f"reply_bytes: allowed are 0 to {most}"))
        zeros = [np.zeros(size, np.uint8)] if size else []
        return pack_done(Done(request.number, outputs=zeros, compute_ns=0), queue_ns=0)

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
        except OSError:  # nobody takes it
            self.end()
        except HarnessError as error:
            self._broken(str(error))
        except MemoryError:
            self._broken("the board is out of memory")
        except Exception as error:  # noqa: BLE001 - the sender, which waits for an answer, gets the error
            self._broken(f"{type(error).__name__}: {error}")
        finally:
            self._over(self._fault)
            with self._changed:
                self._socket.close()

    def _next(self) -> Frame:
        """Return the worker's next answer, and give the worker its next frame.

        The answer contains the time for which its frame was queued, in ns.
        """
        try:
            answer = self._worker.recv_bytes()
        except (OSError, EOFError):
            raise DeviceError(ENDED) from None
        ready_ns = time.monotonic_ns()
        with self._changed:
            frame, self._running = self._running, self._waiting.popleft() if self._waiting else None
            following = self._running
            if following is not None:
                self._waiting_bytes -= len(following.data)
            self._changed.notify_all()
        if following is not None:
            try:
                self._worker.send_bytes(following.data)
            except (OSError, ValueError):
                raise DeviceError(ENDED) from None
        if frame is None:
            raise DeviceError("the board's worker gave an answer that nobody asked for")
        return requeued(answer, ready_ns - frame.at_ns)

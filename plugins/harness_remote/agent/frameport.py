"""The agent's second port: other boards, with a ticket, send frames to this board's worker.

Beside gRPC, which takes several times as long for a few kilobytes. A thread per board; a stranger holds one for
:data:`GREET_S` at most.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from harness.errors import DeviceError, HarnessError
from harness.worker.frames import FrameError, header_of, pack
from harness_remote.agent.calls import Calls, TooMuchError
from harness_remote.agent.session import Session
from harness_remote.wire import framesocket
from harness_remote.wire.framesocket import PING_S, FrameSocket, Pieces
from harness_remote.wire.wire import MAX_GREETING_BYTES, MAX_MESSAGE_BYTES

__all__ = ["FramePort"]

_LOG = logging.getLogger(__name__)

GREET_S = 10.0
LEAVE_S = 1.0
MAX_STRANGERS = 32


class FramePort:
    """Answers frames at ``listener`` until it is stopped; ``context`` is its side of TLS, if there is one."""

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext | None, calls: Calls, max_guests: int
    ) -> None:
        self._listener = listener
        self._context = context
        self._calls = calls
        self._places = threading.BoundedSemaphore(max_guests)
        self._max_guests = max_guests
        self._strangers: dict[socket.socket, float] = {}  # and when they came
        self._guests: set[_Guest] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, name="frames: accept", daemon=True).start()
        threading.Thread(target=self._watch, name="frames: watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # whoever accepts is told
        self._listener.close()
        for stranger in list(self._strangers):
            _hang_up(stranger)
        for guest in list(self._guests):
            guest.cancel()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:  # no descriptor left; or stopped
                self._stopped.wait(0.05)
                continue
            if len(self._strangers) >= MAX_STRANGERS:
                sock.close()
                continue
            self._strangers[sock] = time.monotonic()
            try:
                threading.Thread(target=self._serve, args=(sock,), name="frames: board", daemon=True).start()
            except (RuntimeError, MemoryError):  # no more threads
                self._strangers.pop(sock)
                sock.close()

    def _watch(self) -> None:
        """Show guests that this side is there; strangers out, and guests that were told to go."""
        while not self._stopped.wait(PING_S / 5):
            now = time.monotonic()
            for guest in list(self._guests):
                guest.see_to(now)
            for stranger in [one for one, came in list(self._strangers.items()) if came < now - GREET_S]:
                _hang_up(stranger)

    def _serve(self, sock: socket.socket) -> None:
        """One connection, from its handshake to its end: a stranger until its ticket is found good."""
        guest: _Guest | None = None
        try:
            conn = framesocket.accept(sock, self._context, MAX_GREETING_BYTES)
            ticket = _ticket(conn)
            conn.settle(MAX_MESSAGE_BYTES)
            why = ""
            try:
                session = self._calls.admit(ticket)
                if not self._places.acquire(blocking=False):
                    raise TooMuchError(f"{self._max_guests} boards send frames already")
                guest = _Guest(conn)
                self._strangers.pop(sock, None)
                self._answer(session, guest)
            except HarnessError as error:
                why = " ".join(str(error).split())[:2000]
            conn.last(_told(why))
            conn.drain(LEAVE_S)
        except (OSError, FrameError):  # gone, or no board: TLS told why, and a stranger is told nothing
            pass
        finally:
            self._strangers.pop(sock, None)
            _hang_up(sock)
            if guest is not None:
                self._guests.discard(guest)
                guest.ended()
                self._places.release()

    def _answer(self, session: Session, guest: _Guest) -> None:
        """Every frame, until no more come."""
        conn = guest.conn

        def frames() -> Iterator[memoryview]:
            conn.send(_told(""))  # welcome
            self._guests.add(guest)
            yield from iter(conn.receive, None)

        try:
            self._calls.frames(session, frames(), guest, conn.send, guest.farewell)
        except (HarnessError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the other board is told
            _LOG.warning("a board's frames failed: %s", error, exc_info=error)
            raise DeviceError(f"{type(error).__name__}: {error}") from None


class _Guest:
    """A board that was let in (:class:`harness_remote.agent.calls.Connected`)."""

    def __init__(self, conn: FrameSocket) -> None:
        self.conn = conn
        self._leaves = math.inf
        self._lock = threading.Lock()
        self._then: list[Callable[[], None]] | None = []

    def on_end(self, then: Callable[[], None]) -> None:
        with self._lock:
            if self._then is not None:
                return self._then.append(then)
        return then()

    def cancel(self) -> None:
        self.conn.hang_up()
        self.ended()

    def ended(self) -> None:
        with self._lock:
            then, self._then = self._then or [], None
        for one in then:
            one()

    def farewell(self, why: str) -> None:
        """Tell it that no more answers come; it has a moment to hang up."""
        self.conn.last(_told(why))
        self._leaves = time.monotonic() + LEAVE_S

    def see_to(self, now: float) -> None:
        if now > self._leaves:
            return self.conn.hang_up()
        with suppress(OSError, MemoryError):
            self.conn.ping()
        return None


def _told(error: str) -> Pieces:
    """A frame that answers none."""
    return pack({"id": None, "error": error} if error else {"id": None})


def _ticket(conn: FrameSocket) -> str:
    frame = conn.receive()
    told = header_of(frame)[0].get("ticket") if frame is not None else None
    if not isinstance(told, str):
        raise FrameError("no ticket")
    return told


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

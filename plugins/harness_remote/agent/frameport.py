"""The agent's second port, on which other boards with a ticket send frames to this board's worker.

It does not use gRPC, which takes several times as long for a few kilobytes. Each board has a thread. A stranger,
which has sent no ticket yet, has its thread for at most ``greet_s`` seconds.
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
from dataclasses import dataclass, field

from harness.errors import DeviceError, HarnessError
from harness.worker.frames import FrameError
from harness_remote.agent.calls import Calls, TooMuchError
from harness_remote.agent.session import LeaseSession
from harness_remote.wire import framesocket
from harness_remote.wire.framesocket import FrameSocket, Silence
from harness_remote.wire.greeting import pack_refusal, pack_welcome, ticket_of
from harness_remote.wire.wire import MAX_GREETING_BYTES, MAX_MESSAGE_BYTES

__all__ = ["FrameLimits", "FramePort"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameLimits:
    """Limits of the frame port.

    ``guests`` boards may send frames at once, and ``strangers`` more connections may be without a ticket. A stranger
    must send its ticket within ``greet_s`` seconds. A board that was refused, or whose worker ended, has ``leave_s``
    seconds to hang up.
    """

    guests: int = 16
    strangers: int = 32
    greet_s: float = 10.0
    leave_s: float = 1.0
    silence: Silence = field(default_factory=Silence)


class FramePort:
    """A server for frames at ``listener``, until it is stopped. ``context`` is its side of TLS, or None."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        calls: Calls,
        limits: FrameLimits = FrameLimits(),
    ) -> None:
        self._limits = limits
        self._listener = listener
        self._context = context
        self._calls = calls
        self._places = threading.BoundedSemaphore(limits.guests)
        self._strangers: dict[socket.socket, float] = {}  # since when
        self._guests: set[_Guest] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, name="frames: accept", daemon=True).start()
        threading.Thread(target=self._watch, name="frames: watch", daemon=True).start()

    def stop(self) -> None:
        """Stop accepting connections, and hang up on all boards."""
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        for stranger in list(self._strangers):
            _hang_up(stranger)
        for guest in list(self._guests):
            guest.cancel()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:  # no descriptor is left, or the port was stopped
                self._stopped.wait(0.05)
                continue
            if len(self._strangers) >= self._limits.strangers:
                sock.close()
                continue
            self._strangers[sock] = time.monotonic()
            try:
                threading.Thread(target=self._serve, args=(sock,), name="frames: board", daemon=True).start()
            except (RuntimeError, MemoryError):  # no more threads
                self._strangers.pop(sock)
                sock.close()

    def _watch(self) -> None:
        """Ping guests, and hang up on strangers and guests whose time is over."""
        while not self._stopped.wait(self._limits.silence.ping_s / 5):
            now = time.monotonic()
            for guest in list(self._guests):
                guest.see_to(now)
            for stranger in [
                one for one, came in list(self._strangers.items()) if came < now - self._limits.greet_s
            ]:
                _hang_up(stranger)

    def _serve(self, sock: socket.socket) -> None:
        """Serve one connection from its handshake to its end. It is a stranger until its ticket has been accepted."""
        guest: _Guest | None = None
        try:
            conn = framesocket.accept(sock, self._context, MAX_GREETING_BYTES, self._limits.silence)
            ticket = _ticket(conn)
            conn.settle(MAX_MESSAGE_BYTES)
            why = ""
            try:
                session = self._calls.admit(ticket)
                if not self._places.acquire(blocking=False):
                    raise TooMuchError(f"{self._limits.guests} boards send frames already")
                guest = _Guest(conn, self._limits.leave_s)
                self._strangers.pop(sock, None)
                self._answer(session, guest)
            except HarnessError as error:
                why = " ".join(str(error).split())[:2000]
            conn.last(pack_refusal(why) if why else pack_welcome())
            conn.drain(self._limits.leave_s)
        except (OSError, FrameError):  # the other side is gone, or is no board; a stranger gets no answer
            pass
        finally:
            self._strangers.pop(sock, None)
            _hang_up(sock)
            if guest is not None:
                self._guests.discard(guest)
                guest.ended()
                self._places.release()

    def _answer(self, session: LeaseSession, guest: _Guest) -> None:
        """Answer every frame until no more arrive."""
        conn = guest.conn

        def frames() -> Iterator[memoryview]:
            conn.send(pack_welcome())
            self._guests.add(guest)
            yield from iter(conn.receive, None)

        try:
            self._calls.frames(session, frames(), guest, conn.send, guest.farewell)
        except (HarnessError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the other board gets the error
            _LOG.warning("a board's frames failed: %s", error, exc_info=error)
            raise DeviceError(f"{type(error).__name__}: {error}") from None


class _Guest:
    """An admitted board (:class:`harness_remote.agent.calls.Connected`)."""

    def __init__(self, conn: FrameSocket, leave_s: float) -> None:
        self.conn = conn
        self._leave_s = leave_s
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
        """Call all functions that wait for the end."""
        with self._lock:
            then, self._then = self._then or [], None
        for callback in then:
            callback()

    def farewell(self, why: str) -> None:
        """Send the reason why no more answers follow. The board then has ``leave_s`` seconds to hang up."""
        self.conn.last(pack_refusal(why))
        self._leaves = time.monotonic() + self._leave_s

    def see_to(self, now: float) -> None:
        """Ping the board, or hang up if its time is over. ``now`` is in monotonic seconds."""
        if now > self._leaves:
            return self.conn.hang_up()
        with suppress(OSError, MemoryError):
            self.conn.ping()
        return None


def _ticket(conn: FrameSocket) -> str:
    frame = conn.receive()
    if frame is None:
        raise FrameError("no ticket")
    return ticket_of(frame)


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

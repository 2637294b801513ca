"""The agent's second port: other boards, with a ticket, send frames to this board's worker.

Beside gRPC, which takes several times as long for a few kilobytes. A thread per board; a stranger holds one for
:data:`GREET_S` at most.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from harness.errors import HarnessError
from harness.frames import FrameError, header_of, pack
from harness_remote import framesocket
from harness_remote.calls import Calls
from harness_remote.framesocket import PING_S, FrameSocket
from harness_remote.wire import MAX_GREETING_BYTES, MAX_MESSAGE_BYTES

__all__ = ["FramePort"]

_LOG = logging.getLogger(__name__)

GREET_S = 10.0
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
            threading.Thread(target=self._serve, args=(sock,), name="frames: board", daemon=True).start()

    def _watch(self) -> None:
        """Show guests that this side is there, and strangers out."""
        while not self._stopped.wait(PING_S / 5):
            for guest in list(self._guests):
                guest.ping()
            late = time.monotonic() - GREET_S
            for stranger in [one for one, came in list(self._strangers.items()) if came < late]:
                _hang_up(stranger)

    def _serve(self, sock: socket.socket) -> None:
        try:
            conn = framesocket.accept(sock, self._context, MAX_GREETING_BYTES)
            ticket = _ticket(conn)
        except (OSError, FrameError):  # TLS told why; a stranger is told nothing
            return
        finally:
            self._strangers.pop(sock, None)
        guest = _Guest(conn)
        try:
            conn.settle(MAX_MESSAGE_BYTES)
            told = self._answer(ticket, guest)
            conn.send(pack({"id": None, "error": told} if told else {"id": None}))
            conn.end()
        except OSError:  # it is gone
            pass
        finally:
            conn.hang_up()
            guest.ended()

    def _answer(self, ticket: str, guest: _Guest) -> str:
        """Every frame, until no more come, or why not."""
        if not self._calls.admits(ticket):
            return "its ticket is wrong, or holds no more: the board's worker was ended, or opened anew"
        if not self._places.acquire(blocking=False):
            return f"{self._max_guests} boards send frames already"
        conn = guest.conn

        def frames() -> Iterator[memoryview]:
            conn.send(pack({"id": None}))  # welcome
            yield from iter(conn.receive, None)

        self._guests.add(guest)
        try:
            self._calls.frames(ticket, frames(), guest, conn.send, conn.deaf)
        except OSError:
            raise
        except HarnessError as error:
            return " ".join(str(error).split())[:2000]
        except Exception as error:  # noqa: BLE001 - the other board is told
            _LOG.warning("a board's frames failed: %s", error, exc_info=error)
            return f"{type(error).__name__}: {error}"[:2000]
        finally:
            self._guests.discard(guest)
            self._places.release()
        return ""


class _Guest:
    """A board that was let in, as its call (:class:`harness_remote.calls.Call`)."""

    def __init__(self, conn: FrameSocket) -> None:
        self.conn = conn
        self._lock = threading.Lock()
        self._then: list[Callable[[], None]] | None = []

    def lease(self) -> str:
        return ""

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

    def ping(self) -> None:
        with suppress(OSError):
            self.conn.ping()


def _ticket(conn: FrameSocket) -> str:
    frame = conn.receive()
    told = header_of(frame)[0].get("ticket") if frame is not None else None
    if not isinstance(told, str):
        raise FrameError("no ticket")
    return told


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

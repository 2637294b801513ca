"""The connection over which the central board's worker sends frames to another board's agent. It stays open.

This module imports nothing of the control plane, because it runs beside the workload.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import Answer, Answers, Peer
from harness.worker.frames import FrameError, size_of
from harness.worker.messages import answer_of
from harness_remote.wire import framesocket
from harness_remote.wire.framesocket import SILENCE, FrameSocket, Silence
from harness_remote.wire.greeting import pack_ticket, refusal_of
from harness_remote.wire.secrets import refusal
from harness_remote.wire.wire import MAX_MESSAGE_BYTES

__all__ = ["FramePeer", "open_peer"]

CONNECT_S = 10.0
SHORT = 16_384
"""The largest frame, in bytes, that the calling thread sends. A thread per board sends longer frames, in parallel."""


def open_peer(details: Mapping[str, Any], answers: Answers) -> Peer:
    """Open a connection to another board's agent.

    Args:
        details: the ``device``'s name, and ``target`` (host:port), ``certificate`` (PEM) and ``ticket`` of its agent.
        answers: called with each answer, from any thread.

    Raises:
        OSError: the agent cannot be reached, or refuses the ticket.
    """
    return FramePeer(details, answers)


class FramePeer:
    """The worker of another board (:class:`harness.types.Peer`)."""

    def __init__(
        self,
        details: Mapping[str, Any],
        answers: Answers,
        connect_s: float = CONNECT_S,
        silence: Silence = SILENCE,
    ) -> None:
        self.device: str = details["device"]
        self._answers = answers
        self._gone = ""
        self._closed = False
        self._not_sent = ""
        self._frames: queue.SimpleQueue[Sequence[bytes | memoryview] | None] = queue.SimpleQueue()
        self._queued = self._written = 0  # frames given to the writer and sent by it; equal if it is idle
        try:
            self._conn = self._open(details, connect_s, silence)
        except TimeoutError:
            raise OSError(f"{details['target']}: no answer within {connect_s:g} s") from None
        except (OSError, FrameError, ValueError) as error:  # ValueError: no host can have this name
            raise OSError(f"{details['target']}: {_reason(error)}") from None
        for name, run in (("frames to", self._write), ("answers of", self._read)):
            threading.Thread(target=run, name=f"{name} {self.device}", daemon=True).start()

    @staticmethod
    def _open(details: Mapping[str, Any], connect_s: float, silence: Silence) -> FrameSocket:
        """Return a connection whose ticket the agent has accepted."""
        certificate = details["certificate"].encode()
        conn = framesocket.connect(details["target"], certificate, connect_s, MAX_MESSAGE_BYTES, silence)
        late = threading.Timer(connect_s, conn.hang_up)
        late.daemon = True
        late.start()
        try:
            conn.send(pack_ticket(details["ticket"]))
            welcome = conn.receive()
            conn.settle(MAX_MESSAGE_BYTES)
        finally:
            late.cancel()
        refused = "it closed the connection" if welcome is None else refusal_of(welcome)
        if refused:
            conn.hang_up()
            raise OSError(refused)
        return conn

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        """Begin to send a frame. Its pieces must not change later. Only one thread may call this.

        Raises:
            OSError: the connection is lost.
        """
        if self._gone:
            raise OSError(self._gone)
        if self._queued == self._written and size_of(frame) <= SHORT:
            try:
                left = self._conn.offer(frame)
            except OSError as error:  # the reader reports the error, and may know the reason
                self._not_sent = _reason(error)
                return
            if left is None:
                return
            frame = left
        self._queued += 1
        self._frames.put(frame)

    def close(self) -> None:
        """Close the connection. No answer comes after that."""
        self._closed = True
        self._frames.put(None)
        self._conn.hang_up()

    def _write(self) -> None:
        try:
            while True:
                try:
                    frame = self._frames.get(timeout=self._conn.silence.ping_s)
                except queue.Empty:
                    self._conn.ping()
                    continue
                if frame is None:
                    return
                self._conn.send(frame)
                self._written += 1
        except OSError as error:  # the reader reports the error, and may know the reason
            self._not_sent = _reason(error)
        except Exception as error:  # noqa: BLE001 - for example out of memory
            self._not_sent = _reason(error)
            self._conn.hang_up()

    def _read(self) -> None:
        why = ""
        try:
            while (frame := self._conn.receive()) is not None:
                answer = answer_of(self.device, frame)
                if answer.lost or (answer.query < 0 and answer.error):
                    why = answer.error
                    break
                self._answers(answer)
        except Exception as error:  # noqa: BLE001 - after any error no more answers come
            why = _reason(error)
        self._lost(why or self._not_sent or "it closed the connection")

    def _lost(self, why: str) -> None:
        """Report that no more answers come, unless this side closed the connection."""
        self._gone = why
        self._frames.put(None)
        self._conn.hang_up()
        if not self._closed:
            self._answers(Answer(peer=self.device, query=-1, part="", error=self._gone, lost=True))


def _reason(error: Exception) -> str:
    system = getattr(error, "strerror", None)
    text = system.lower() if system else str(error) or type(error).__name__
    return refusal(str(error)) or " ".join(text.split())[:300]

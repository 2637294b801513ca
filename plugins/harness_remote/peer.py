"""Another board, as the central node's worker reaches it: one stream of frames to its agent, kept open.

Imports gRPC and nothing of the control plane: it runs beside the load.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from harness.frames import pack
from harness.peers import answer_of
from harness.types import Answer, Answers, Peer
from harness_remote.channel import open_channel, refusal
from harness_remote.wire import STREAM, TICKET

__all__ = ["StreamPeer", "open_peer"]

CONNECT_S = 10.0
GREETING = -1
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),  # a board that is unplugged answers no ping
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def open_peer(details: Mapping[str, Any], answers: Answers) -> Peer:
    """``details``: the ``device``'s name, ``target`` (host:port), ``certificate`` (PEM) and ``ticket`` of its agent.

    Raises:
        OSError: it cannot be reached.
    """
    return StreamPeer(details, answers)


class StreamPeer:
    """A worker of another board (:class:`harness.types.Peer`)."""

    def __init__(self, details: Mapping[str, Any], answers: Answers) -> None:
        self.device: str = details["device"]
        self._answers = answers
        self._gone = ""
        self._closed = False
        self._greeted = threading.Event()
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = open_channel(details["target"], details["certificate"].encode(), *KEEPALIVE)
        stream = self._channel.stream_stream(STREAM, request_serializer=None, response_deserializer=None)
        self._call = stream(iter(self._frames.get, None), metadata=((TICKET, details["ticket"]),))
        threading.Thread(target=self._read, name=f"answers of {self.device}", daemon=True).start()
        self.send(pack({"op": "echo", "id": GREETING, "reply_bytes": 0}))
        if not self._greeted.wait(CONNECT_S) or self._gone:
            why = self._gone or f"no answer within {CONNECT_S:g} s"
            self.close()
            raise OSError(f"{details['target']}: {why}")

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        if self._gone:
            raise OSError(self._gone)
        self._frames.put(b"".join(frame))

    def close(self) -> None:
        self._closed = True
        self._frames.put(None)
        self._call.cancel()
        self._channel.close()

    def _read(self) -> None:
        why = "it closed the stream"
        try:
            for frame in self._call:
                answer = answer_of(self.device, frame)
                if answer.lost:
                    why = answer.error
                    break
                if self._greeted.is_set():
                    self._answers(answer)
                self._greeted.set()
        except grpc.RpcError as error:
            told = " ".join((error.details() or error.code().name).split())
            why = refusal(told) or told[:300]
        self._gone = why
        greeted = self._greeted.is_set()
        self._greeted.set()
        if greeted and not self._closed:
            self._frames.put(None)
            self._channel.close()
            self._answers(Answer(peer=self.device, query=-1, part="", error=why, lost=True))

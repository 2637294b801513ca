"""A board's worker asked by its lease's holder: one stream of frames, kept open."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from harness.errors import BoardLost, DeviceError
from harness.worker.frames import FrameError, pack, unpack
from harness_remote.client.client import Client

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FrameStream", "probe_link"]

AHEAD = 2
PROBE_BYTES = 2**19
PROBES = 5
SMALL = 16


class FrameStream:
    """A kept-open stream of frames to the board's worker."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._number = 0
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = client.stream(iter(self._requests.get, None))

    def ask(self, header: Mapping[str, Any], tensors: Sequence[NDArray[Any]]) -> Iterator[Any]:
        """One answer for each tensor, in order; some are sent ahead of their answers."""
        first = self._number
        for ahead in tensors[:AHEAD]:
            self._send(header, ahead)
        for index in range(len(tensors)):
            told, answer = self._receive(first + index + 1)
            if index + AHEAD < len(tensors):
                self._send(header, tensors[index + AHEAD])
            if "lost" in told:
                raise BoardLost(told.get("error"), board=str(told["lost"]))
            if "error" in told or len(answer) != 1:
                raise DeviceError(
                    f"{header['op']} on {self._client.name}: {told.get('error', 'no tensor came')}"
                )
            yield answer[0]

    def _send(self, header: Mapping[str, Any], tensor: NDArray[Any]) -> None:
        self._number += 1
        self._requests.put(b"".join(pack({**header, "id": self._number}, [tensor])))

    def _receive(self, number: int) -> tuple[dict[str, Any], list[Any]]:
        limit = self._client.timeouts.work
        watch = threading.Timer(limit, self._call.cancel)
        watch.daemon = True
        watch.start()
        begin = time.monotonic()
        try:
            told, tensors = unpack(next(self._call))
        except StopIteration:
            raise BoardLost(f"{self._client.name} closed the stream", board=self._client.name) from None
        except grpc.RpcError as error:
            if time.monotonic() - begin >= limit:
                raise DeviceError(f"{self._client.name} did not answer a frame within {limit:g} s") from None
            raise self._client.failure(error, "Stream") from None
        except FrameError as error:
            raise DeviceError(f"{self._client.name} answers with {error}") from None
        finally:
            watch.cancel()
        if told.get("id") != number:
            raise DeviceError(f"{self._client.name} answers out of order")
        return told, tensors

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()


def probe_link(client: Client) -> dict[str, float]:
    """Round trip of a few bytes, and megabits a second each way, of a board that is held and has a worker: medians.

    A rate is that of bytes that went beyond the round trip; it holds what TLS and copies cost.
    """
    import numpy as np

    stream = FrameStream(client)

    def took(up: int, down: int) -> float:
        payload = np.zeros(up, np.uint8)
        times = []
        for _ in range(PROBES):
            begin = time.perf_counter()
            for _ in stream.ask({"op": "echo", "reply_bytes": down}, [payload]):
                times.append(time.perf_counter() - begin)
        return float(np.median(times))

    try:
        took(SMALL, SMALL)  # the stream is set up
        rtt = took(SMALL, SMALL)
        up, down = took(PROBE_BYTES, SMALL), took(SMALL, PROBE_BYTES)
    finally:
        stream.close()
    megabits = 8e-6 * PROBE_BYTES
    return {
        "rtt_ms": rtt * 1e3,
        "up_mbps": megabits / max(up - rtt, 1e-6),
        "down_mbps": megabits / max(down - rtt, 1e-6),
    }

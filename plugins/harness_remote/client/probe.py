"""Measure round-trip time and rates of the link to a board, by echoes over the connection for frames."""

from __future__ import annotations

import queue
import time
from statistics import median
from typing import Any

import numpy as np

from harness.errors import BoardLost, DeviceError
from harness.types import Answer
from harness.worker.messages import Echo, pack_request
from harness_remote.client.peer import open_peer

__all__ = ["probe_link"]

PROBE_BYTES = 2**19
PROBES = 5
SMALL = 16


def probe_link(details: dict[str, Any], answer_s: float) -> dict[str, float]:
    """Return the round-trip time of a few bytes (``rtt_ms``) and the rates each way (``up_mbps``, ``down_mbps``).

    All are medians. Rates are in 10^6 bits per second. The round-trip time is subtracted from a rate's time, which
    includes the cost of TLS and of copies.

    Args:
        details: the argument of :func:`~harness_remote.client.peer.open_peer` for a board that serves.
        answer_s: the longest wait for one echo, in seconds.

    Raises:
        OSError: the board's port for frames cannot be reached.
        BoardLost: the connection broke, or an echo took longer than ``answer_s``.
    """
    board = str(details["device"])
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    peer = open_peer(details, answers.put)

    def took(up: int, down: int) -> float:
        payload = np.zeros(up, np.uint8)
        times = []
        for number in range(PROBES):
            begin = time.perf_counter()
            peer.send(pack_request(Echo(number, down), [payload]))
            try:
                answer = answers.get(timeout=answer_s)
            except queue.Empty:
                raise BoardLost(
                    f"{board} did not answer an echo within {answer_s:g} s", board=board
                ) from None
            if answer.lost:
                raise BoardLost(f"{board}: {answer.error}", board=board)
            if answer.error:
                raise DeviceError(f"echo on {board}: {answer.error}")
            times.append(time.perf_counter() - begin)
        return median(times)

    try:
        took(SMALL, SMALL)  # the first round trips allocate buffers
        rtt = took(SMALL, SMALL)
        up, down = took(PROBE_BYTES, SMALL), took(SMALL, PROBE_BYTES)
    finally:
        peer.close()
    megabits = 8e-6 * PROBE_BYTES
    return {
        "rtt_ms": rtt * 1e3,
        "up_mbps": megabits / max(up - rtt, 1e-6),
        "down_mbps": megabits / max(down - rtt, 1e-6),
    }

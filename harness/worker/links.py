"""The central worker's links to peers, the workers that have the other parts: open, use and reopen them.

A peer is known by a key ``DEVICE#N``, since several workers of one machine may have one device's name.
"""

from __future__ import annotations

import contextlib
import itertools
import pkgutil
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import BoardLost, DeviceError, HarnessError
from harness.types import Answer, Peer, PeerAddress
from harness.worker.messages import Echo, Keep, Request, pack_request

__all__ = ["REOPEN_S", "Arrival", "Links", "device_of"]

REOPEN_S = 1.0
EXCHANGE_S = 60.0
PROBE_S = 1.0
PROBES = (3, 20)
SMALL = 16


class Arrival(NamedTuple):
    """An answer, the time of its arrival (``time.perf_counter_ns()``), and the number of its peer's connection."""

    at_ns: int
    connection: int
    answer: Answer


class Links:
    """The links to peers. ``peers`` maps each part on another worker to the address of that worker.

    Use it from one thread. Answers arrive from other threads. ``lost`` maps the key of a peer that does not answer to
    the reason. A lost peer is tried again after ``reopen_s`` seconds.

    Raises:
        BoardLost: a peer cannot be reached.
    """

    def __init__(self, peers: Mapping[str, PeerAddress], reopen_s: float = REOPEN_S) -> None:
        distinct: list[PeerAddress] = []
        for address in peers.values():
            if address not in distinct:
                distinct.append(address)
        self._addresses = {f"{address.device}#{n}": address for n, address in enumerate(distinct)}
        self._keys = {part: f"{peer.device}#{distinct.index(peer)}" for part, peer in peers.items()}
        self.arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self.lost: dict[str, str] = {}
        self._peers: dict[str, Peer] = {}
        self._connections: dict[str, int] = {}  # number of connections that each peer has had
        self._reopening: dict[str, threading.Thread] = {}
        self._reopen_s = reopen_s
        self._numbers = itertools.count(1)
        for key in self._addresses:
            self._open(key)

    @property
    def parts(self) -> Iterable[str]:
        """Return the names of the parts that peers have."""
        return self._keys.keys()

    def where(self, part: str) -> str:
        """Return the key of the worker that has a part; empty for this worker."""
        return self._keys.get(part, "")

    def next_number(self) -> int:
        """Return a number that no other request of this worker has."""
        return next(self._numbers)

    def send(self, key: str, frame: Sequence[bytes | memoryview]) -> None:
        """Send a frame.

        Raises:
            OSError, EOFError: the connection is closed.
        """
        self._peers[key].send(frame)

    def is_current(self, arrival: Arrival) -> bool:
        """Return whether an arrival came over its peer's present connection, not over an earlier one."""
        return arrival.connection == self._connections[arrival.answer.peer]

    def reopen(self, key: str) -> None:
        """Try in the background to reach a lost peer again, for later queries."""
        trying = self._reopening.get(key)
        if trying is not None and trying.is_alive():
            return

        def attempt() -> None:
            time.sleep(self._reopen_s)
            if key not in self.lost:  # the previous attempt has just succeeded
                return
            with contextlib.suppress(HarnessError, RuntimeError, MemoryError):  # such as no more threads
                self._open(key)
                self.lost.pop(key, None)

        trying = self._reopening[key] = threading.Thread(target=attempt, daemon=True)
        with contextlib.suppress(RuntimeError):
            trying.start()

    def close(self) -> None:
        """Close every connection."""
        for peer in self._peers.values():
            peer.close()

    def _open(self, key: str) -> None:
        address = self._addresses[key]
        if key in self._peers:
            self._peers[key].close()
        connection = self._connections[key] = self._connections.get(key, 0) + 1

        def take(answer: Answer) -> None:
            self.arrivals.put(Arrival(time.perf_counter_ns(), connection, answer))

        try:
            opened = pkgutil.resolve_name(address.open)({**address.details, "device": key}, take)
        except (OSError, EOFError) as error:
            raise BoardLost(f"{address.device} cannot be reached: {error}", board=address.device) from None
        self._peers[key] = opened

    # --- between queries ---

    def exchange(
        self,
        key: str,
        request: Request,
        tensors: Sequence[NDArray[Any]],
        *,
        others_may_be_lost: bool = False,
        limit_s: float = EXCHANGE_S,
    ) -> Answer:
        """Send one request, whose number no other request has, and return its answer. No query may be in flight.

        Raises:
            BoardLost: the peer does not answer within ``limit_s``, or another peer is lost meanwhile and
                ``others_may_be_lost`` is false.
            DeviceError: the peer answers with an error.
        """
        device = device_of(key)
        try:
            self.send(key, pack_request(request, tensors))
            end = time.monotonic() + limit_s
            while True:
                arrival = self.arrivals.get(timeout=max(0.0, end - time.monotonic()))
                answer = arrival.answer
                if answer.lost and self.is_current(arrival):
                    self.lost[answer.peer] = answer.error
                    if answer.peer == key or not others_may_be_lost:
                        name = device_of(answer.peer)
                        raise BoardLost(f"{name} does not answer any more: {answer.error}", board=name)
                if answer.query == request.number:
                    break
        except (OSError, EOFError, queue.Empty) as error:
            why = str(error) or f"no answer within {limit_s:g} s"
            raise BoardLost(f"{device} does not answer: {why}", board=device) from None
        if answer.error:
            raise DeviceError(f"{device}: {answer.error}", files=answer.files)
        return answer

    def keep(self, parts: Iterable[str], inputs: Sequence[NDArray[Any]], *, others_may_be_lost: bool) -> None:
        """Have every worker that has one of ``parts`` keep these inputs, each in a slot of its own."""
        for key in {self.where(part) for part in parts}:
            for slot, images in enumerate(inputs):
                request = Keep(self.next_number(), slot)
                self.exchange(key, request, [images], others_may_be_lost=others_may_be_lost)

    def probe(
        self, image_bytes: int, traffic: Mapping[str, int], *, others_may_be_lost: bool
    ) -> dict[str, int]:
        """Measure each link with the bytes of one query. The times are medians in nanoseconds.

        Args:
            image_bytes: bytes that are sent to a part that ``traffic`` does not contain.
            traffic: ``sent_bytes:PART`` and ``received_bytes:PART`` of one query.
            others_may_be_lost: whether to leave out links of peers that do not answer.

        Returns:
            For each part on a peer: ``rtt:PART`` (a few bytes both ways), ``up:PART`` (the query's bytes there and a
            few back) and ``down:PART`` (the reverse).
        """
        times: dict[str, int] = {}
        for part, key in self._keys.items():
            if others_may_be_lost and key in self.lost:
                continue
            ways = {
                "rtt": (SMALL, SMALL),
                "up": (traffic.get(f"sent_bytes:{part}", image_bytes), SMALL),
                "down": (SMALL, traffic.get(f"received_bytes:{part}", SMALL)),
            }
            try:
                for kind, (up, down) in ways.items():
                    times[f"{kind}:{part}"] = self._echo(key, up, down, others_may_be_lost)
            except HarnessError:
                if not others_may_be_lost:
                    raise
        return times

    def _echo(self, key: str, up: int, down: int, others_may_be_lost: bool) -> int:
        """Return the median time of several exchanges of ``up`` bytes for ``down`` bytes, in nanoseconds."""
        times: list[int] = []
        began = time.perf_counter()
        least, most = PROBES
        payload = np.zeros(up, np.uint8)
        while len(times) < least or (len(times) < most and time.perf_counter() - began < PROBE_S):
            start = time.perf_counter_ns()
            request = Echo(self.next_number(), down)
            self.exchange(key, request, [payload], others_may_be_lost=others_may_be_lost)
            times.append(time.perf_counter_ns() - start)
        return int(np.median(times))


def device_of(key: str) -> str:
    """Return the name of the device whose worker has this key."""
    return key.rpartition("#")[0]

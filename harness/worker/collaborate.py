"""Running a partition from its central node: parts that are elsewhere are asked, own ones run here.

Every part starts as soon as its inputs are there. Peers say how long they computed and how long the query
waited; the clocks of two hosts are never subtracted: ``transport`` is the round trip less the peer's time.
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import to_pixels
from harness.errors import BoardLost, HarnessError
from harness.types import IMAGE, Answer, Graph, GraphPart, Peer, PeerAddress, Session, Workload
from harness.worker.frames import pack, size_of

__all__ = ["Collaboration", "Frame"]

Array = NDArray[np.float32]

WHOLE, SUBSTITUTED, UNANSWERED = 0, 1, 2
HANG_S = 120.0  # whoever takes longer, hangs
REOPEN_S = 1.0
KEEP_S = 60.0
PROBE_S = 1.0
PROBES = (3, 20)
SMALL = 16


@dataclass
class Frame:
    """A query on its way through the graph. Times in nanoseconds of this process's clock."""

    number: int
    images: Array
    due_ns: int
    begin_ns: int
    slot: int | None
    waiting: dict[str, GraphPart]
    values: dict[str, Array]
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    stood_in: list[str] = field(default_factory=list)
    outcome: int = WHOLE
    end_ns: int = 0
    output: Array | None = None
    pixels: NDArray[np.uint8] | None = None

    @property
    def done(self) -> bool:
        return self.end_ns > 0


class Collaboration:
    """The central node's view of a partition. Used from one thread.

    Raises:
        BoardLost: a peer cannot be reached, or (``on_missing: fail``) does not answer any more, or in time.
        HarnessError: a part failed on a peer.
    """

    def __init__(
        self, graph: Graph, sessions: Mapping[str, Session], peers: Mapping[str, PeerAddress]
    ) -> None:
        self.graph = graph
        self.sessions = sessions
        self.missed: dict[str, int] = {}
        self.traffic: dict[str, int] = {}
        self._last = graph.parts[-1].name
        self._by_name = {part.name: part for part in graph.parts}
        self._addresses = dict(peers)
        distinct: list[PeerAddress] = []
        for address in peers.values():
            if address not in distinct:
                distinct.append(address)
        self._keys = {part: f"{one.device}#{distinct.index(one)}" for part, one in peers.items()}
        """Of each part elsewhere its worker's: several workers of one machine have one name."""
        self._peers: dict[str, Peer] = {}
        self._connections: dict[str, int] = {}  # how many each peer has had
        self._lost: dict[str, str] = {}
        self._answers: queue.SimpleQueue[tuple[int, int, Answer]] = queue.SimpleQueue()
        self._frames: dict[int, Frame] = {}
        self._number = 0
        self._fusing_ns = 0
        self._reopening: dict[str, threading.Thread] = {}
        self._rehearsing = False
        self.follow(Workload())
        for key in dict.fromkeys(self._keys.values()):
            self._open(key)

    # --- peers ---

    def _open(self, key: str) -> None:
        address = next(self._addresses[part] for part, one in self._keys.items() if one == key)
        if key in self._peers:
            self._peers[key].close()
        connection = self._connections[key] = self._connections.get(key, 0) + 1

        def take(answer: Answer) -> None:
            self._answers.put((time.perf_counter_ns(), connection, answer))

        module, _, name = address.open.partition(":")
        try:
            opened = getattr(importlib.import_module(module), name)({**address.details, "device": key}, take)
        except (OSError, EOFError) as error:
            raise BoardLost(f"{address.device} cannot be reached: {error}", board=address.device) from None
        self._peers[key] = opened

    @property
    def remote(self) -> bool:
        """Whether any part is on another device."""
        return bool(self._addresses)

    def where(self, part: str) -> str:
        """The worker that has a part; empty for this one."""
        return self._keys.get(part, "")

    def _reopen(self, key: str) -> None:
        """Try in the background to reach a lost peer again, for later queries."""
        trying = self._reopening.get(key)
        if trying is not None and trying.is_alive():
            return

        def attempt() -> None:
            time.sleep(REOPEN_S)
            if key not in self._lost:  # the last attempt had just got through
                return
            with contextlib.suppress(HarnessError, RuntimeError, MemoryError):  # no thread is left, say
                self._open(key)
                self._lost.pop(key, None)

        trying = self._reopening[key] = threading.Thread(target=attempt, daemon=True)
        with contextlib.suppress(RuntimeError):
            trying.start()

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()

    # --- one query ---

    def __call__(self, images: Array, missing: Sequence[str] = ()) -> Array | None:
        """The answer for ``images`` [n, ...]; ``None`` where none came by the deadline (``substitute`` only)."""
        frame = self.submit(images, missing=missing)
        while not frame.done:
            self.step()
        return frame.output

    def submit(
        self, images: Array, due_ns: int | None = None, slot: int | None = None, missing: Sequence[str] = ()
    ) -> Frame:
        """Begin a query: what can be sent, is. ``slot``: the images that the peers keep there."""
        now = time.perf_counter_ns()
        self._number += 1
        frame = Frame(
            number=self._number,
            images=images,
            due_ns=due_ns or now,
            begin_ns=now,
            slot=slot,
            waiting=dict(self._by_name),
            values={IMAGE: images},
        )
        self._frames[frame.number] = frame
        for part in missing:
            self._stand_in(frame, part)
        self._dispatch(frame)
        return frame

    def step(self, until_ns: int | None = None) -> None:
        """One thing: a part of our own, or an answer, waited for until ``until_ns`` or a query's deadline."""
        while not self._answers.empty():
            self._arrived(*self._answers.get())
        for frame in list(self._frames.values()):
            own = self._ready(frame, here=True)
            if own is not None:
                return self._run(frame, own)
        wait_ns = min((d for d in (until_ns, self._next_deadline()) if d is not None), default=None)
        if not self._frames and until_ns is None:
            return None
        try:
            timeout = None if wait_ns is None else max(0.0, (wait_ns - time.perf_counter_ns()) / 1e9)
            self._arrived(*self._answers.get(timeout=timeout))
        except queue.Empty:
            self._expire()
        return None

    def _ready(self, frame: Frame, *, here: bool) -> GraphPart | None:
        for part in frame.waiting.values():
            if (part.name not in self._addresses) is here and all(one in frame.values for one in part.inputs):
                return part
        return None

    def _dispatch(self, frame: Frame) -> None:
        """Send every part of other devices whose inputs are there."""
        while not frame.done and (part := self._ready(frame, here=False)) is not None:
            del frame.waiting[part.name]
            device = self.where(part.name)
            if (why := self._lost.get(device)) is not None:
                self._reopen(device)
                self._missing(frame, part.name, device, why)
                continue
            begin = time.perf_counter_ns()
            request = self._request(frame, part)
            sent = time.perf_counter_ns()
            frame.spent[f"encode:{part.name}"] = sent - begin
            frame.sent[part.name] = (sent, size_of(request))
            try:
                self._peers[device].send(request)
            except (OSError, EOFError) as error:
                self._gone(device, str(error) or type(error).__name__)

    def _request(self, frame: Frame, part: GraphPart) -> list[bytes | memoryview]:
        header: dict[str, Any] = {"op": "run", "id": frame.number, "part": part.name, "wire": part.wire_dtype}
        tensors = []
        if self._rehearsing:
            header["rehearse"] = True
        if frame.slot is not None and IMAGE in part.inputs:
            header["slot"] = frame.slot
            header["from"] = ["slot" if one == IMAGE else "tensor" for one in part.inputs]
        for one in part.inputs:
            if one == IMAGE and frame.slot is not None:
                continue
            value = frame.values[one]
            if one == IMAGE and self.graph.input_wire == "uint8":
                if frame.pixels is None:
                    frame.pixels = to_pixels(value, self.graph.mean, self.graph.std)
                value = frame.pixels  # type: ignore[assignment]
                header["normalise"] = {"mean": self.graph.mean, "std": self.graph.std}
            elif one != IMAGE:
                value = value.astype(self._by_name[one].wire_dtype, copy=False)
            tensors.append(value)
        return pack(header, tensors)

    def _run(self, frame: Frame, part: GraphPart) -> None:
        del frame.waiting[part.name]
        begin = time.perf_counter_ns()
        session = self.sessions[part.name]
        run = session.rehearse if self._rehearsing else session.run  # type: ignore[attr-defined]
        frame.values[part.name] = run(tuple(frame.values[one] for one in part.inputs))
        frame.spent[f"compute:{part.name}"] = spent = time.perf_counter_ns() - begin
        if part.name == self._last:
            self._fusing_ns = max(self._fusing_ns, spent)
        self._after(frame)

    def _after(self, frame: Frame) -> None:
        """Something became known: send what it was awaited for, or end the query."""
        if self._last in frame.values:
            self._end(frame, SUBSTITUTED if frame.stood_in else WHOLE)
        else:
            self._dispatch(frame)

    def _end(self, frame: Frame, outcome: int) -> None:
        frame.end_ns = time.perf_counter_ns()
        frame.outcome, frame.output = outcome, frame.values.get(self._last)
        self._frames.pop(frame.number, None)
        self.outcomes.append(outcome)
        for name, taken in self.timeline.items():
            taken.append(frame.spent.get(name, -1))

    def _arrived(self, at_ns: int, connection: int, answer: Answer) -> None:
        if answer.lost:
            if connection == self._connections[answer.peer]:  # and not one that was replaced meanwhile
                self._gone(answer.peer, answer.error)
            return None
        frame = self._frames.get(answer.query)
        if frame is not None and answer.error and not answer.part:  # of a request that was not understood
            for part in [name for name in frame.sent if self.where(name) == answer.peer]:
                frame.sent.pop(part)
                self._missing(frame, part, answer.peer, answer.error, lost=False)
            return None
        if frame is None or answer.part not in frame.sent or answer.part in frame.values:
            return None  # too late: its query is over
        sent, request_bytes = frame.sent.pop(answer.part)
        if answer.output is None:
            return self._missing(frame, answer.part, answer.peer, answer.error, lost=False)
        device_ns = answer.queue_ns + answer.compute_ns
        frame.spent[f"compute:{answer.part}"] = answer.compute_ns
        frame.spent[f"queue:{answer.part}"] = answer.queue_ns
        frame.spent[f"transport:{answer.part}"] = max(0, at_ns - sent - device_ns)
        self.traffic[f"sent_bytes:{answer.part}"] = request_bytes
        self.traffic[f"received_bytes:{answer.part}"] = answer.received_bytes
        frame.values[answer.part] = answer.output.astype(np.float32, copy=False)
        return self._after(frame)

    # --- what does not answer ---

    def _gone(self, device: str, why: str) -> None:
        if device in self._lost:
            return
        self._lost[device] = why
        for frame in list(self._frames.values()):
            for part in [name for name in frame.sent if self.where(name) == device]:
                frame.sent.pop(part)
                self._missing(frame, part, device, why)
        if self.substitute:
            self._reopen(device)
        else:
            raise BoardLost(f"{_name(device)} does not answer any more: {why}", board=_name(device))

    def _missing(self, frame: Frame, part: str, device: str, why: str, lost: bool = True) -> None:
        """A part will not answer this query: what its edges declare stands in, or the query ends."""
        if frame.done:
            return
        if not self.substitute:
            self._frames.clear()  # of no use to anyone: the measurement ends here
            told = f"part {part} on {_name(device)}: {why}"
            raise BoardLost(told, board=_name(device)) if lost else HarnessError(told)
        self.missed[part] = self.missed.get(part, 0) + 1
        try:
            self._stand_in(frame, part)
        except HarnessError:
            self._end(frame, UNANSWERED)
        else:
            self._after(frame)

    def _stand_in(self, frame: Frame, name: str) -> None:
        part = self._by_name.get(name)
        users = [one for one in self.graph.parts if name in one.inputs]
        if part is None or not users or any(name not in one.missing for one in users):
            raise HarnessError(f"nothing stands in for part {name}")
        values = users[0].missing[name]
        one = np.reshape(values, part.output.shape) if values else np.zeros(part.output.shape)
        frame.values[name] = np.repeat(one[None].astype(np.float32), len(frame.images), axis=0)
        frame.waiting.pop(name, None)
        frame.stood_in.append(name)

    def _next_deadline(self) -> int | None:
        """When the oldest query must be ended, so that it is answered in time: its fusion takes a while."""
        if not self._frames:
            return None
        return min(one.due_ns for one in self._frames.values()) + self.deadline_ns - self._fusing_ns

    def _expire(self) -> None:
        now = time.perf_counter_ns()
        for frame in list(self._frames.values()):
            if now < frame.due_ns + self.deadline_ns - self._fusing_ns:
                continue
            late = list(frame.sent)
            for part in late:
                if not frame.done:
                    frame.sent.pop(part, None)
                    device = self.where(part)
                    self._missing(frame, part, device, f"no answer within {self.deadline_ns / 1e9:g} s")
            if not frame.done and self._ready(frame, here=True) is None and not late:
                self._end(frame, UNANSWERED)

    # --- before a window ---

    def follow(self, load: Workload) -> None:
        """Forget earlier queries; deadlines and stand-ins as the load says.

        ``timeline`` then holds, for each query that ends, nanoseconds by ``KIND:PART``; -1 where it did not get there.
        """
        kinds = {True: ("encode", "transport", "queue", "compute"), False: ("compute",)}
        self.timeline = {
            f"{kind}:{name}": array("q") for name in self._by_name for kind in kinds[name in self._addresses]
        }
        self.outcomes = array("b")
        self.missed.clear()
        self.deadline_ns = int((load.deadline_s or HANG_S) * 1e9)
        self.substitute = load.on_missing == "substitute"

    def rehearse(self, inputs: Sequence[Array]) -> None:
        """Have every part rehearsed on these (:mod:`harness.worker.replay`), here and elsewhere."""
        self.follow(Workload())
        self._rehearsing = True
        try:
            for images in inputs:
                self(images)
        finally:
            self._rehearsing = False

    def keep(self, inputs: Sequence[Array]) -> None:
        """Let every peer that takes images keep these, each in a slot of its own."""
        takers = {
            self.where(p.name) for p in self.graph.parts if IMAGE in p.inputs and p.name in self._addresses
        }
        for device in takers:
            for slot, images in enumerate(inputs):
                self._exchange(device, {"op": "keep", "slot": slot}, [images], KEEP_S)

    def probe(self, one: Array) -> dict[str, int]:
        """Each link with the bytes of one query: ``rtt``, ``up`` and ``down`` of every part elsewhere, medians in ns.

        ``up`` sends the query's bytes and gets a few back, ``down`` the reverse, ``rtt`` a few both ways. Where others
        may stand in for what is missing, links of peers that do not answer are left out.
        """
        found = {}
        for name in self._addresses:
            if self.substitute and self.where(name) in self._lost:
                continue
            ways = {
                "rtt": (SMALL, SMALL),
                "up": (self.traffic.get(f"sent_bytes:{name}", one.nbytes), SMALL),
                "down": (SMALL, self.traffic.get(f"received_bytes:{name}", SMALL)),
            }
            try:
                for kind, (up, down) in ways.items():
                    found[f"{kind}:{name}"] = self._echo(self.where(name), up, down)
            except HarnessError:
                if not self.substitute:
                    raise
        return found

    def _echo(self, device: str, up: int, down: int) -> int:
        taken: list[int] = []
        began = time.perf_counter()
        least, most = PROBES
        payload = np.zeros(up, np.uint8)
        while len(taken) < least or (len(taken) < most and time.perf_counter() - began < PROBE_S):
            start = time.perf_counter_ns()
            self._exchange(device, {"op": "echo", "reply_bytes": down}, [payload], KEEP_S)
            taken.append(time.perf_counter_ns() - start)
        return int(np.median(taken))

    def _exchange(
        self, device: str, header: Mapping[str, Any], tensors: Sequence[NDArray[Any]], limit_s: float
    ) -> Answer:
        """One frame there and its answer back, between queries."""
        self._number += 1
        try:
            self._peers[device].send(pack({**header, "id": self._number}, tensors))
            end = time.monotonic() + limit_s
            while True:
                _, connection, answer = self._answers.get(timeout=max(0.0, end - time.monotonic()))
                if answer.lost and connection == self._connections[answer.peer]:
                    self._lost[answer.peer] = answer.error
                    if answer.peer == device or not self.substitute:
                        name = _name(answer.peer)
                        raise BoardLost(f"{name} does not answer any more: {answer.error}", board=name)
                if answer.query == self._number:
                    break
        except (OSError, EOFError, queue.Empty) as error:
            why = str(error) or f"no answer within {limit_s:g} s"
            raise BoardLost(f"{_name(device)} does not answer: {why}", board=_name(device)) from None
        if answer.error:
            raise HarnessError(f"{_name(device)}: {answer.error}")
        return answer

    def output_bytes(self, one: Array) -> dict[str, int]:
        """Bytes of every part's output for one query, and of the image, as they are sent."""
        frame = self.submit(one)
        while not frame.done:
            self.step()
        pixels = one.size * (1 if self.graph.input_wire == "uint8" else one.itemsize)
        sizes = {
            name: value.size * np.dtype(self._by_name[name].wire_dtype).itemsize
            for name, value in frame.values.items()
            if name != IMAGE
        }
        return {IMAGE: pixels, **sizes}


def _name(key: str) -> str:
    return key.rpartition("#")[0]

"""The path of one query through a partition: the central worker runs its own parts and requests the others.

Every part starts as soon as its inputs are known. A peer states how long it computed and how long the query waited.
The clocks of two hosts are never subtracted. ``transport`` is the round trip minus the peer's time.
"""

from __future__ import annotations

import queue
import time
from array import array
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import to_pixels
from harness.errors import BoardLost, DeviceError, HarnessError
from harness.types import IMAGE, Graph, GraphPart, PeerAddress, Session, Workload
from harness.worker.frames import Pieces, size_of
from harness.worker.links import REOPEN_S, Arrival, Links, device_of
from harness.worker.messages import Run, Statistics, pack_request
from harness.worker.query import SUBSTITUTED, UNANSWERED, WHOLE, QueryInFlight
from harness.worker.traffic import crossing_bytes

__all__ = ["Collaboration"]

Array = NDArray[np.float32]

HANG_S = 120.0
"""Time in seconds after which a peer without an answer counts as hanging."""


class Collaboration:
    """The queries of the central worker. Use it from one thread.

    ``timeline`` has nanoseconds by ``KIND:PART``. ``outcomes`` says how each query ended. ``missed`` is the number of
    queries that a part did not answer. ``traffic`` is the bytes of the last query by part. ``on_answer`` is called
    with the images and the answer of each query that ends whole, before its time ends.

    Raises:
        BoardLost: a peer cannot be reached, or, with ``on_missing: fail``, does not answer in time.
        HarnessError: a part failed on a peer.
    """

    def __init__(
        self,
        graph: Graph,
        sessions: Mapping[str, Session],
        peers: Mapping[str, PeerAddress],
        reopen_s: float = REOPEN_S,
    ) -> None:
        self.graph = graph
        self.sessions = sessions
        self.links = Links(peers, reopen_s)
        self.missed: dict[str, int] = {}
        self.traffic: dict[str, int] = {}
        self.on_answer: Callable[[Array, Array], None] | None = None
        self._last = graph.parts[-1].name
        self._by_name = {part.name: part for part in graph.parts}
        self._remote = frozenset(peers)
        self._arrivals = self.links.arrivals
        self._lost = self.links.lost
        self._queries: dict[int, QueryInFlight] = {}
        self._fusing_ns = 0
        self._rehearsing = False
        self.follow(Workload())

    @property
    def remote(self) -> bool:
        """Return whether a part is on another device."""
        return bool(self._remote)

    def follow(self, workload: Workload) -> None:
        """Discard earlier queries, and take the rules for deadlines and stand-ins from the workload.

        ``timeline`` then has one entry for each query that ends. It is -1 if the query did not reach the part.
        """
        kinds = {True: ("encode", "transport", "queue", "compute"), False: ("compute",)}
        self.timeline = {
            f"{kind}:{name}": array("q") for name in self._by_name for kind in kinds[name in self._remote]
        }
        self.outcomes = array("b")
        self.missed.clear()
        self.deadline_ns = int((workload.fleet.deadline_s or HANG_S) * 1e9)
        self.substitute = workload.fleet.on_missing == "substitute"
        self._several = workload.fleet.in_flight > 1

    # --- one query ---

    def __call__(self, images: Array, absent: Sequence[str] = ()) -> Array | None:
        """Return the answer to ``images`` [n, ...], or ``None`` if none came by the deadline (with ``substitute``)."""
        query = self.submit(images, absent=absent)
        while not query.done:
            self.step()
        return query.output

    def submit(
        self, images: Array, due_ns: int | None = None, slot: int | None = None, absent: Sequence[str] = ()
    ) -> QueryInFlight:
        """Begin a query, and request all parts of peers whose inputs are known.

        Args:
            due_ns: the time when the query was due; now if ``None``.
            slot: the slot in which the peers have these images.
            absent: parts that are treated as if they did not answer.
        """
        now = time.perf_counter_ns()
        query = QueryInFlight(
            number=self.links.next_number(),
            images=images,
            due_ns=due_ns or now,
            begin_ns=now,
            slot=slot,
            waiting=dict(self._by_name),
            values={IMAGE: images},
        )
        self._queries[query.number] = query
        for part in absent:
            self._stand_in(query, part)
        self._dispatch(query)
        return query

    def step(self, until_ns: int | None = None) -> None:
        """Do one step: run a part of this worker, or wait for an answer until ``until_ns`` or a query's deadline."""
        while not self._arrivals.empty():
            self._arrived(self._arrivals.get())
        for query in list(self._queries.values()):
            own = self._ready(query, here=True)
            if own is not None:
                return self._run(query, own)
        wait_ns = min((d for d in (until_ns, self._next_deadline()) if d is not None), default=None)
        if not self._queries and until_ns is None:
            return None
        try:
            timeout = None if wait_ns is None else max(0.0, (wait_ns - time.perf_counter_ns()) / 1e9)
            self._arrived(self._arrivals.get(timeout=timeout))
        except queue.Empty:
            self._expire()
        return None

    def _ready(self, query: QueryInFlight, *, here: bool) -> GraphPart | None:
        """Return a part of this worker (``here``) or of a peer that is not started and whose inputs are known."""
        for part in query.waiting.values():
            if (part.name not in self._remote) is here and all(name in query.values for name in part.inputs):
                return part
        return None

    def _dispatch(self, query: QueryInFlight) -> None:
        """Request every part of a peer whose inputs are known."""
        while not query.done and (part := self._ready(query, here=False)) is not None:
            del query.waiting[part.name]
            key = self.links.where(part.name)
            if (why := self._lost.get(key)) is not None:
                self.links.reopen(key)
                self._give_up(query, part.name, why)
                continue
            begin = time.perf_counter_ns()
            request = self._request(query, part)
            sent = time.perf_counter_ns()
            query.spent[f"encode:{part.name}"] = sent - begin
            query.sent[part.name] = (sent, size_of(request))
            try:
                self.links.send(key, request)
            except (OSError, EOFError) as error:
                self._peer_lost(key, str(error) or type(error).__name__)

    def _request(self, query: QueryInFlight, part: GraphPart) -> Pieces:
        """Return the frame that requests a part."""
        tensors = []
        statistics = None
        slot = query.slot if IMAGE in part.inputs else None
        for name in part.inputs:
            if name == IMAGE and query.slot is not None:
                continue
            value = query.values[name]
            if name == IMAGE and self.graph.input_wire == "uint8":
                if query.pixels is None:
                    query.pixels = to_pixels(value, self.graph.mean, self.graph.std)
                value = query.pixels  # type: ignore[assignment]
                statistics = Statistics(self.graph.mean, self.graph.std)
            elif name != IMAGE:
                value = value.astype(self._by_name[name].wire_dtype, copy=False)
            tensors.append(value)
        request = Run(
            query.number,
            part.name,
            wire=part.wire_dtype,
            rehearse=self._rehearsing,
            slot=slot,
            places=() if slot is None else tuple("slot" if n == IMAGE else "tensor" for n in part.inputs),
            normalise=statistics,
        )
        return pack_request(request, tensors)

    def _run(self, query: QueryInFlight, part: GraphPart) -> None:
        """Run a part of this worker."""
        del query.waiting[part.name]
        begin = time.perf_counter_ns()
        session = self.sessions[part.name]
        run = session.rehearse if self._rehearsing else session.run  # type: ignore[attr-defined]
        output = run(tuple(query.values[name] for name in part.inputs))
        # a runtime may write its next answer, to another query, into the same memory
        query.values[part.name] = output.copy() if self._several else output
        query.spent[f"compute:{part.name}"] = spent = time.perf_counter_ns() - begin
        if part.name == self._last:
            self._fusing_ns = max(self._fusing_ns, spent)
        self._continue(query)

    def _continue(self, query: QueryInFlight) -> None:
        """Request the parts that need a value that is now known, or end the query."""
        if self._last in query.values:
            self._end(query, SUBSTITUTED if query.stood_in else WHOLE)
        else:
            self._dispatch(query)

    def _end(self, query: QueryInFlight, outcome: int) -> None:
        if outcome == WHOLE and self.on_answer is not None:
            self.on_answer(query.images, query.values[self._last])
        query.end_ns = time.perf_counter_ns()
        query.outcome, query.output = outcome, query.values.get(self._last)
        self._queries.pop(query.number, None)
        self.outcomes.append(outcome)
        for name, times in self.timeline.items():
            times.append(query.spent.get(name, -1))

    def _arrived(self, arrival: Arrival) -> None:
        """Process a peer's answer, or the message that the peer is lost."""
        answer = arrival.answer
        if answer.lost:
            if self.links.is_current(arrival):
                self._peer_lost(answer.peer, answer.error)
            return None
        query = self._queries.get(answer.query)
        if query is not None and answer.error and not answer.part:  # the peer did not understand it
            for part in [name for name in query.sent if self.links.where(name) == answer.peer]:
                query.sent.pop(part)
                self._give_up(query, part, answer.error, lost=False, files=answer.files)
            return None
        if query is None or answer.part not in query.sent or answer.part in query.values:
            return None  # too late, since its query has ended
        sent_ns, request_bytes = query.sent.pop(answer.part)
        if answer.output is None:
            return self._give_up(query, answer.part, answer.error, lost=False, files=answer.files)
        device_ns = answer.queue_ns + answer.compute_ns
        query.spent[f"compute:{answer.part}"] = answer.compute_ns
        query.spent[f"queue:{answer.part}"] = answer.queue_ns
        query.spent[f"transport:{answer.part}"] = max(0, arrival.at_ns - sent_ns - device_ns)
        self.traffic[f"sent_bytes:{answer.part}"] = request_bytes
        self.traffic[f"received_bytes:{answer.part}"] = answer.received_bytes
        query.values[answer.part] = answer.output.astype(np.float32, copy=False)
        return self._continue(query)

    # --- parts that do not answer ---

    def _peer_lost(self, key: str, why: str) -> None:
        """Give up every part that was requested of a peer. Without stand-ins the measurement ends."""
        if key in self._lost:
            return
        self._lost[key] = why
        for query in list(self._queries.values()):
            for part in [name for name in query.sent if self.links.where(name) == key]:
                query.sent.pop(part)
                self._give_up(query, part, why)
        if self.substitute:
            self.links.reopen(key)
        else:
            device = device_of(key)
            raise BoardLost(f"{device} does not answer any more: {why}", board=device)

    def _give_up(
        self, query: QueryInFlight, part: str, why: str, lost: bool = True, files: tuple[str, ...] = ()
    ) -> None:
        """Continue without a part: use its stand-ins, or end the query without an answer.

        Raises:
            BoardLost: there is no stand-in, and the part's peer is ``lost``.
            DeviceError: there is no stand-in, and the part failed, in ``files``.
        """
        if query.done:
            return
        if not self.substitute:
            self._queries.clear()  # the query is of no use, since the measurement ends here
            device = device_of(self.links.where(part))
            message = f"part {part} on {device}: {why}"
            raise BoardLost(message, board=device) if lost else DeviceError(message, files=files)
        self.missed[part] = self.missed.get(part, 0) + 1
        try:
            self._stand_in(query, part)
        except HarnessError:
            self._end(query, UNANSWERED)
        else:
            self._continue(query)

    def _stand_in(self, query: QueryInFlight, name: str) -> None:
        """Use the stand-in that a part's edges declare. Raise :class:`HarnessError` if an edge declares none."""
        part = self._by_name.get(name)
        users = [user for user in self.graph.parts if name in user.inputs]
        if part is None or not users or any(name not in user.stand_ins for user in users):
            raise HarnessError(f"part {name} has no stand-in")
        values = users[0].stand_ins[name]
        sample = np.reshape(values, part.output.shape) if values else np.zeros(part.output.shape)
        query.values[name] = np.repeat(sample[None].astype(np.float32), len(query.images), axis=0)
        query.waiting.pop(name, None)
        query.stood_in.append(name)

    def _next_deadline(self) -> int | None:
        """Return the time by which the oldest query must get its last part to be answered in time, fusion included."""
        if not self._queries:
            return None
        return min(query.due_ns for query in self._queries.values()) + self.deadline_ns - self._fusing_ns

    def _expire(self) -> None:
        """Give up the parts of queries whose deadline has passed."""
        now = time.perf_counter_ns()
        for query in list(self._queries.values()):
            if now < query.due_ns + self.deadline_ns - self._fusing_ns:
                continue
            late = list(query.sent)
            for part in late:
                if not query.done:
                    query.sent.pop(part, None)
                    self._give_up(query, part, f"no answer within {self.deadline_ns / 1e9:g} s")
            if not query.done and self._ready(query, here=True) is None and not late:
                self._end(query, UNANSWERED)

    # --- before a window ---

    def rehearse(self, inputs: Sequence[Array]) -> None:
        """Have every part rehearse these inputs, here and on peers. All sessions here must have ``rehearse``."""
        self.follow(Workload())
        self._rehearsing = True
        try:
            for images in inputs:
                self(images)
        finally:
            self._rehearsing = False

    def keep(self, inputs: Sequence[Array]) -> None:
        """Have every peer that takes images keep these images, each in a slot of its own."""
        takers = (part.name for part in self.graph.parts if IMAGE in part.inputs)
        remote = [name for name in takers if name in self._remote]
        self.links.keep(remote, inputs, others_may_be_lost=self.substitute)

    def probe(self, images: Array) -> dict[str, int]:
        """Measure each link with the bytes of one query (:meth:`harness.worker.links.Links.probe`)."""
        return self.links.probe(images.nbytes, self.traffic, others_may_be_lost=self.substitute)

    def sent_bytes(self, images: Array) -> dict[str, int]:
        """Return the bytes that cross the links in one query (:func:`harness.worker.traffic.crossing_bytes`).

        The query runs once, so that ``traffic`` is that of a query whose images are sent.
        """
        self(images)
        return crossing_bytes(self.graph, self._remote, images)

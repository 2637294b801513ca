"""The worker: loads exported artifacts, generates load next to them, and sends raw samples back.

Torch-free. The same code runs as a child process on this machine and, over the network, on a board. Commands
(:mod:`harness.worker.commands`) come over a connection, and each gets one reply.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from harness.data.splits import normalise
from harness.errors import BoardLost, HarnessError, first_line
from harness.machine import memory
from harness.machine.sampler import Sampler
from harness.processes import die_with_parent
from harness.types import (
    Artifact,
    DeviceReport,
    Graph,
    Monitor,
    PeerAddress,
    Samples,
    Session,
    SessionOptions,
    Workload,
)
from harness.worker.collaborate import Collaboration, QueryInFlight
from harness.worker.commands import (
    Begin,
    Command,
    Connect,
    Done,
    End,
    Failed,
    Infer,
    Listen,
    Listening,
    Load,
    Lost,
    Measure,
    Observe,
    Reply,
)
from harness.worker.frames import DTYPES, FrameError
from harness.worker.loadgen.queries import batches, per_query, whole
from harness.worker.peers import LOCAL, MAX_KEPT_BYTES, MAX_SLOTS, Server
from harness.worker.replay import replayed, replaying
from harness.worker.window import Observed, beside
from harness.worker.window import observe as observe_window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["main"]


def main(conn: Connection) -> None:
    """Answer one parent's commands until its end of the connection is closed."""
    os.dup2(2, 1)  # the parent's standard output is for its answer; a runtime may print
    die_with_parent()
    worker = Worker()
    while True:
        try:
            command = conn.recv()
        except (EOFError, OSError):
            break
        if command is None:
            break
        conn.send(_reply(worker, command))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # unloading a framework takes longer than a cell


def _reply(worker: Worker, command: Command[Any]) -> Reply:
    try:
        return Done(worker.handle(command))
    except BoardLost as error:
        return Lost(error.board, str(error))
    except HarnessError as error:
        return Failed(str(error), _files(error))
    except MemoryError:
        return Failed("out of memory")
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the parent decides
        return Failed(first_line(error, kind=True), _files(error))


def _files(error: BaseException) -> tuple[str, ...]:
    """Return the source files of the frames in which an error arose, outermost first."""
    return tuple(frame.filename for frame in traceback.extract_tb(error.__traceback__))


@dataclass
class Worker:
    """What one process has loaded, and how its parts are joined to those of other workers."""

    sessions: dict[str, Session] = field(default_factory=dict)
    collaboration: Collaboration | None = None
    server: Server | None = None
    slots: dict[int, list[Array]] = field(default_factory=dict)
    peer_ids: list[int] = field(default_factory=list)
    began: int = 0
    busy: threading.RLock = field(default_factory=threading.RLock)
    first_ns: int = 0
    sampler: Sampler | None = None
    max_kept_bytes: int = MAX_KEPT_BYTES

    def handle(self, command: Command[Any]) -> Any:
        """Carry out a command; the answer is of the type that the command names.

        Raises:
            BoardLost: another board, which the command needs, does not answer.
            HarnessError: the command cannot be carried out. A runtime may raise anything else.
        """
        match command:
            case Observe(monitor):
                return self.observe(monitor)
            case Load(part, artifact, loader, options):
                return self.load(part, artifact, loader, options)
            case Listen():
                return self.listen()
            case Connect(graph, peers):
                return self.connect(graph, peers)
            case Infer(images, batch, absent):
                return self.infer(images, batch, absent)
            case Measure(workload, images):
                return self.measure(workload, images)
            case Begin():
                return self.begin()
            case End(spans, clock_error_ns, images_answered):
                return self.end(spans, clock_error_ns, images_answered)
        raise TypeError(f"{command!r} is not a command of a worker")

    def load(self, name: str, artifact: Artifact, loader: str, options: SessionOptions) -> Mapping[str, Any]:
        """Load an artifact with the runtime's function ``loader`` ("module:function")."""
        load = pkgutil.resolve_name(loader)
        memory.mark_baseline()
        self.sessions[name] = replayed(load(artifact, options))
        memory.model_loaded()
        return dict(self.sessions[name].facts)

    def listen(self) -> Listening:
        """Answer frames on a private socket from now on; return how it is reached."""
        self.server = self.server or Server(self.answer)
        return Listening(self.server.address, self.server.key.hex(), os.getpid())

    def answer(
        self, header: Mapping[str, Any], tensors: Sequence[Array]
    ) -> tuple[dict[str, Any], Sequence[Array]]:
        """Answer one frame (:mod:`harness.worker.frames`), when nothing else is at work."""
        with self.busy:
            return self._answer(header, tensors)

    def _answer(
        self, header: Mapping[str, Any], tensors: Sequence[Array]
    ) -> tuple[dict[str, Any], Sequence[Array]]:
        import numpy as np

        op = header.get("op")
        if op == "keep":
            slot = header.get("slot")
            if type(slot) is not int or not 0 <= slot < MAX_SLOTS:
                raise FrameError(f"slot: 0 to {MAX_SLOTS - 1}")
            self.slots.pop(slot, None)
            kept = [_pixels(one, header) for one in tensors]
            if sum(one.nbytes for all in (kept, *self.slots.values()) for one in all) > self.max_kept_bytes:
                raise FrameError(f"images that are kept: at most {self.max_kept_bytes} bytes in all")
            self.slots[slot] = kept
            return {}, ()
        part = header.get("part")
        if op != "run" or part not in self.sessions:
            raise FrameError(f"no part {part!r} is loaded" if op == "run" else f"no such request: {op!r}")
        start = time.perf_counter_ns()
        given = iter([_pixels(one, header) for one in tensors])
        slotted = iter(self.slots.get(header.get("slot", -1), ()))
        places = header.get("from") or ["tensor"] * len(tensors)
        try:
            inputs = tuple([next(slotted if place == "slot" else given) for place in places])
        except StopIteration:
            raise FrameError(f"part {part!r}: too few tensors, or an empty slot") from None
        session = self.sessions[part]
        rehearse = header.get("rehearse") is True and replaying()
        output = session.rehearse(inputs) if rehearse else session.run(inputs)  # type: ignore[attr-defined]
        spent = time.perf_counter_ns() - start
        self.first_ns = self.first_ns or spent
        wire = header.get("wire", "float32")
        if wire not in DTYPES:
            raise FrameError(f"wire: {wire!r}; allowed: {', '.join(DTYPES)}")
        return {"compute_ns": spent}, [output.astype(np.dtype(wire), copy=False)]

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        """Become the central worker of a partition; ``peers`` are the parts that other workers have."""
        if len(graph.parts) > 1 or peers:
            self.collaboration = Collaboration(graph, self.sessions, peers)
            pids = {one.details["pid"] for one in peers.values() if one.open == LOCAL}
            self.peer_ids = sorted(pids)

    def infer(self, images: Array, batch: int, absent: Sequence[str] = ()) -> Array:
        """Answer ``images`` [n, ...] in queries of ``batch``, as if the parts ``absent`` did not answer."""
        import numpy as np

        query = self._query()
        if absent:
            if self.collaboration is None:
                raise HarnessError(f"{', '.join(absent)}: this is one part")
            query = partial(self.collaboration, absent=absent)
        if self.collaboration is not None:
            self.collaboration.follow(Workload())
        answers = []
        for offset in range(0, len(images), batch):
            start = time.perf_counter_ns()
            answers.append(query(images[offset : offset + batch]))
            self.first_ns = self.first_ns or time.perf_counter_ns() - start
        return np.concatenate(answers)

    def observe(self, monitor: Monitor) -> None:
        """Start the process that reads meters and the machine's state; it is up by the time that it is needed."""
        if monitor.meters or monitor.watches:
            self.sampler = Sampler(monitor)

    def measure(self, load: Workload, images: Array) -> Samples:
        """First inference, warm-up, then the window, whose memory, signals and energy these are."""
        with self.busy:
            return self._measure(load, images)

    def _measure(self, load: Workload, images: Array) -> Samples:
        import numpy as np

        inputs = batches(images, per_query(load))
        copied = 0 if np.shares_memory(inputs[0], images) else sum(one.nbytes for one in inputs)
        query = self._query()
        together = self.collaboration
        if replaying():
            self._rehearse(inputs)
        if together is not None:
            together.follow(load)
            if load.resident:
                query = _Resident(together, inputs)
        seen = observe_window(
            whole(query, load),
            inputs,
            load,
            self.sampler,
            first_ns=self.first_ns,
            peers=self.peer_ids,
            held=images.nbytes + copied,
        )
        self.first_ns = seen.first_ns
        timeline = {} if together is None else {**together.timeline, "outcome": together.outcomes}
        arrays = _last(timeline, seen, load)
        return Samples(
            latency_ns=seen.timed.latency_ns,
            warmup_ns=seen.warm.latency_ns,
            first_ns=seen.first_ns,
            window_ns=seen.timed.window_ns,
            batch=per_query(load),
            steady=seen.warm.steady,
            reached=seen.timed.reached,
            cooled=seen.cooled,
            outcome=arrays.pop("outcome", None),
            timeline=arrays,
            memory=self._memory(seen.peak),
            environment=seen.signals,
            states=seen.states(),
            problems=[*seen.sampled.problems, *self._computed()],
            energy=[one.to_json() for one in seen.readings],
            meters=seen.raw_meters(),
            sustained=seen.sustained(load),
            lasting_ns=seen.lasting_ns(),
            queue_ns=seen.timed.queue_ns,
            late_ns=seen.timed.late_ns,
            target_qps=load.target_qps,
            reference=seen.timed.reference,
            spans={name: (span.begin_ns, span.end_ns) for name, span in seen.spans.items()},
            missed={} if together is None else dict(together.missed),
            **self._network(inputs[0][: load.batch]),
        )

    def _rehearse(self, inputs: Sequence[Array]) -> None:
        """Every part once on every input of the window."""
        if self.collaboration is not None:
            self.collaboration.rehearse(inputs)
            return
        (session,) = self.sessions.values()
        for one in inputs:
            session.rehearse((one,))  # type: ignore[attr-defined]

    def _computed(self) -> list[str]:
        """What should have been replayed, and was not rehearsed."""
        told = ((name, session.facts.get("computed", 0)) for name, session in self.sessions.items())
        return [
            f"part {name} computed {count} queries that were to be replayed" for name, count in told if count
        ]

    def begin(self) -> None:
        """Another worker's window begins, in which this one answers."""
        memory.reset_peak()
        if self.sampler:
            self.sampler.start()
        self.began = time.monotonic_ns()

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """That window has ended; ``spans`` of it on this machine's clock."""
        used = self._memory(memory.peak(0))
        seen = beside(self.sampler, self.began, spans, clock_error_ns, images, used)
        return replace(seen, problems=[*seen.problems, *self._computed()])

    def _memory(self, peak: int | None) -> dict[str, int]:
        found: dict[str, int] = {}
        base = memory.baseline().get("rss")
        if peak is not None:
            found["process_peak_bytes"] = peak
        if base is not None:
            found["baseline_bytes"] = base
        for session in self.sessions.values():
            if hasattr(session, "device_memory"):
                for key, used in session.device_memory().items():  # one process, one allocator: the greatest
                    name = f"device_{key}_bytes"
                    found[name] = max(used, found.get(name, used))
        return found

    def _network(self, one: Array) -> dict[str, Any]:
        """What one query sends between devices, in bytes, and how long that takes its links."""
        together = self.collaboration
        if together is None or not together.remote:
            return {}
        return {"network": {**together.sent_bytes(one), **together.traffic}, "links": together.probe(one)}

    def _query(self) -> Callable[[Array], Any]:
        """One query: image in, the last part's output back."""
        if self.collaboration is not None:
            return self.collaboration
        run = next(iter(self.sessions.values())).run
        return lambda images: run((images,))


class _Resident:
    """Queries whose images the peers keep already."""

    def __init__(self, together: Collaboration, inputs: Sequence[Array]) -> None:
        together.keep(inputs)
        self._together = together
        self._slots = {id(one): slot for slot, one in enumerate(inputs)}

    def submit(self, images: Array, due_ns: int | None = None) -> QueryInFlight:
        return self._together.submit(images, due_ns, slot=self._slots[id(images)])

    def step(self, until_ns: int | None = None) -> None:
        self._together.step(until_ns)

    def __call__(self, images: Array) -> None:
        frame = self.submit(images)
        while not frame.done:
            self.step()


def _pixels(one: NDArray[Any], header: Mapping[str, Any]) -> Array:
    """A tensor as the model takes it: raw pixels are preprocessed here."""
    if one.dtype.name != "uint8" or "normalise" not in header:
        return one
    told = header["normalise"]
    return normalise(one, told["mean"], told["std"])


def _last(timeline: Mapping[str, Sequence[int]], seen: Observed, load: Workload) -> dict[str, Any]:
    """Of each query's times those of the window: the newest, before what lasted longer."""
    import numpy as np

    calls = per_query(load) // load.batch  # runs of the graph in a query
    beyond = sum(len(one.latency_ns) for one in (seen.lasting, seen.tail) if one is not None) * calls
    n = len(seen.timed.latency_ns) * calls
    return {
        name: np.array(
            ns[len(ns) - beyond - n : len(ns) - beyond], np.int8 if name == "outcome" else np.int64
        )
        for name, ns in timeline.items()
    }

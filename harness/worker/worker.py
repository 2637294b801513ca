"""The worker: it loads exported artifacts, generates the workload in the same process, and sends raw samples back.

It imports no torch. The same code runs as a child process on this machine and, over the network, on a board. Commands
(:mod:`harness.worker.commands`) come over a connection, and each gets one reply.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import BoardLost, HarnessError, first_line, source_files
from harness.machine import memory
from harness.machine.sampler import Sampler
from harness.processes import die_with_parent
from harness.quiet import as_started
from harness.types import (
    Artifact,
    DeviceReport,
    Graph,
    Monitor,
    PartTrace,
    PeerAddress,
    Samples,
    Session,
    SessionOptions,
    WindowAnswers,
    Workload,
)
from harness.types.json import Facts
from harness.worker.answers import AnswerWatch, time_changed
from harness.worker.collaborate import Collaboration
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
from harness.worker.loaded import LoadedPart
from harness.worker.loadgen.queries import batches, per_query, whole
from harness.worker.peers import LOCAL, Server
from harness.worker.query import QueryInFlight
from harness.worker.report import device_report
from harness.worker.requests import Requests
from harness.worker.window import Observed, observe

__all__ = ["Worker", "main"]

Array = NDArray[np.float32]


def main(conn: Connection) -> None:
    """Answer the commands of the parent process until it closes its end of the connection."""
    os.dup2(2, 1)  # a runtime may print, and the parent's standard output is only for the parent's own output
    die_with_parent()
    as_started()
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
    os._exit(0)  # unloading a framework can take longer than a cell


def _reply(worker: Worker, command: Command[Any]) -> Reply:
    try:
        return Done(worker.handle(command))
    except BoardLost as error:
        return Lost(error.board, str(error))
    except HarnessError as error:
        return Failed(str(error), source_files(error))
    except MemoryError as error:
        return Failed("out of memory", source_files(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a runtime may raise anything; the parent decides
        return Failed(first_line(error, kind=True), source_files(error))


class Worker:
    """The state of a worker process: its loaded parts, and its connections to other workers."""

    def __init__(self) -> None:
        self._sessions: dict[str, LoadedPart] = {}
        self._graph: Graph | None = None
        self._busy = threading.RLock()
        self._requests = Requests(self._sessions, self._busy)
        self._collaboration: Collaboration | None = None
        self._server: Server | None = None
        self._sampler: Sampler | None = None
        self._peer_pids: list[int] = []
        self._began_ns = 0
        self._first_ns = 0

    def handle(self, command: Command[Any]) -> Any:
        """Carry out a command. The answer has the type that the command names.

        Raises:
            BoardLost: another board, which the command needs, does not answer.
            HarnessError: the command cannot be carried out. A runtime may raise anything else.
        """
        match command:
            case Observe(monitor):
                return self._observe(monitor)
            case Load(part, artifact, loader, options, wrapper):
                return self._load(part, artifact, loader, options, wrapper)
            case Listen():
                return self._listen()
            case Connect(graph, peers):
                return self._connect(graph, peers)
            case Infer(images, batch, absent):
                return self._infer(images, batch, absent)
            case Measure(workload, images):
                with self._busy:
                    return self._measure(workload, images)
            case Begin():
                return self._begin()
            case End(spans, clock_error_ns, answered):
                return self._end(spans, clock_error_ns, answered)
        raise TypeError(f"{command!r} is not a command of a worker")

    # --- before a window ---

    def _observe(self, monitor: Monitor) -> None:
        if monitor.meters or monitor.watches:
            self._sampler = Sampler(monitor)

    def _load(
        self, part: str, artifact: Artifact, loader: str, options: SessionOptions, wrapper: str
    ) -> Facts:
        load = pkgutil.resolve_name(loader)
        memory.OWN.mark_baseline()
        session: Session = load(artifact, options)
        if wrapper:
            session = pkgutil.resolve_name(wrapper)(session)
        self._sessions[part] = LoadedPart(part, session, artifact, replays=bool(wrapper))
        memory.OWN.model_loaded()
        return dict(self._sessions[part].facts)

    def _listen(self) -> Listening:
        self._server = self._server or Server(self._requests.answer)
        return Listening(self._server.address, self._server.key.hex(), os.getpid())

    def _connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        self._graph = graph
        if len(graph.parts) > 1 or peers:
            self._collaboration = Collaboration(graph, self._sessions, peers)
            local = (address for address in peers.values() if address.open == LOCAL)
            self._peer_pids = sorted({address.details["pid"] for address in local})

    def _infer(self, images: Array, batch: int, absent: Sequence[str]) -> Array:
        query = self._query()
        if absent:
            if self._collaboration is None:
                raise HarnessError(f"{', '.join(absent)}: the model has one part only")
            query = partial(self._collaboration, absent=absent)
        if self._collaboration is not None:
            self._collaboration.follow(Workload())
        answers = []
        for offset in range(0, len(images), batch):
            start = time.perf_counter_ns()
            answers.append(np.array(query(images[offset : offset + batch])))  # a copy, it may change
            self._first_ns = self._first_ns or time.perf_counter_ns() - start
        return np.concatenate(answers)

    # --- a window of this worker ---

    def _measure(self, workload: Workload, images: Array) -> Samples:
        inputs = batches(images, per_query(workload))
        copied = 0 if np.shares_memory(inputs[0], images) else sum(batch.nbytes for batch in inputs)
        query = self._query()
        together = self._collaboration
        self._rehearse(inputs)
        watch = AnswerWatch(inputs, (min(len(inputs[0]), workload.batch), *self._answer_shape()))
        if together is None:
            query = watch.watch(query)
        else:
            together.follow(workload)
            together.on_answer = watch.read
            if workload.fleet.resident:
                query = _Resident(together, inputs)
        observed = observe(
            whole(query, workload),
            inputs,
            workload,
            self._sampler,
            first_ns=self._first_ns or self._requests.first_ns,
            peers=self._peer_pids,
            held=images.nbytes + copied + watch.nbytes,
        )
        self._first_ns = observed.first_ns
        report = observed.report(self._memory(observed.peak))
        parts = self._parts(observed, workload, inputs[0][: workload.batch])
        problems = (*report.problems, *self._computed())
        if together is not None:
            together.on_answer = None
        return Samples(
            trace=observed.trace,
            warmup=observed.warm,
            first_ns=observed.first_ns,
            batch=per_query(workload),
            target_qps=workload.target_qps,
            cooled=observed.cooled,
            environment=observed.signals,
            spans={name: (span.begin_ns, span.end_ns) for name, span in observed.spans.items()},
            sustained=observed.sustained(workload),
            lasting_ns=observed.lasting_ns(),
            parts=parts,
            answers=self._answers(watch, inputs, workload),
            here=replace(report, problems=problems),
        )

    def _answer_shape(self) -> tuple[int, ...]:
        """Return the shape of one image's answer, [classes]."""
        if self._graph is not None:
            return self._graph.parts[-1].output.shape
        return next(iter(self._sessions.values())).output

    def _answers(self, watch: AnswerWatch, inputs: Sequence[Array], workload: Workload) -> WindowAnswers:
        """Return the window's sample of answers. It has times on new pictures if no session replays its answers."""
        answers = watch.seen()
        if workload.fleet.resident or self._rehearses():
            return answers
        images = [batch[: workload.batch] for batch in inputs]
        same, changed = time_changed(self._query(), images, self._graph)
        return replace(answers, same_ns=same, changed_ns=changed)

    def _parts(self, observed: Observed, workload: Workload, images: Array) -> PartTrace:
        """Return times, outcomes and traffic of the parts in the window.

        The ``images`` of one query are sent once more, to measure the links.
        """
        together = self._collaboration
        if together is None:
            return PartTrace()
        times = {
            name: np.array(_in_window(ns, observed, workload), np.int64)
            for name, ns in together.timeline.items()
        }
        outcome = np.array(_in_window(together.outcomes, observed, workload), np.int8)
        missed = dict(together.missed)
        if not together.remote:
            return PartTrace(timeline=times, outcome=outcome, missed=missed)
        traffic = {**together.sent_bytes(images), **together.traffic}
        links = together.probe(images)
        return PartTrace(timeline=times, outcome=outcome, missed=missed, traffic=traffic, links=links)

    def _rehearse(self, inputs: Sequence[Array]) -> None:
        """Rehearse each input of the window before the window, here and on peers, if all sessions have ``rehearse``."""
        if not self._rehearses():
            return
        if self._collaboration is not None:
            self._collaboration.rehearse(inputs)
            return
        (session,) = self._sessions.values()
        for batch in inputs:
            session.rehearse((batch,))

    def _rehearses(self) -> bool:
        """Return whether all sessions replay what they rehearsed."""
        sessions = self._sessions.values()
        return bool(sessions) and all(hasattr(session, "rehearse") for session in sessions)

    def _computed(self) -> tuple[str, ...]:
        """Return a problem for each session that computed an output that it should have replayed."""
        counts = ((part, session.facts.get("computed", 0)) for part, session in self._sessions.items())
        return tuple(
            f"part {part} computed {count} queries that were to be replayed"
            for part, count in counts
            if count
        )

    # --- a window of another worker ---

    def _begin(self) -> None:
        memory.reset_peak()
        if self._sampler:
            self._sampler.start()
        self._began_ns = time.monotonic_ns()

    def _end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        used = self._memory(memory.OWN.peak(0))
        report = device_report(self._sampler, self._began_ns, spans, clock_error_ns, images, used)
        return replace(report, problems=(*report.problems, *self._computed()))

    def _memory(self, peak: int | None) -> dict[str, int]:
        """Return the bytes of this process: its peak and baseline, and of each session's device."""
        used: dict[str, int] = {}
        base = memory.OWN.baseline().get("rss")
        if peak is not None:
            used["process_peak_bytes"] = peak
        if base is not None:
            used["baseline_bytes"] = base
        for session in self._sessions.values():
            if hasattr(session, "device_memory"):
                for key, size in session.device_memory().items():  # one allocator, so the largest counts
                    name = f"device_{key}_bytes"
                    used[name] = max(size, used.get(name, size))
        return used

    def _query(self) -> Callable[[Array], Any]:
        """Return the function that answers one query: from images to the output of the last part."""
        if self._collaboration is not None:
            return self._collaboration
        run = next(iter(self._sessions.values())).run
        return lambda images: run((images,))


class _Resident:
    """A query stream whose images the peers already have."""

    def __init__(self, together: Collaboration, inputs: Sequence[Array]) -> None:
        together.keep(inputs)
        self._together = together
        self._slots = {id(images): slot for slot, images in enumerate(inputs)}

    def submit(self, images: Array, due_ns: int | None = None) -> QueryInFlight:
        return self._together.submit(images, due_ns, slot=self._slots[id(images)])

    def step(self, until_ns: int | None = None) -> None:
        self._together.step(until_ns)

    def __call__(self, images: Array) -> None:
        query = self.submit(images)
        while not query.done:
            self.step()


def _in_window(values: Sequence[int], observed: Observed, workload: Workload) -> Sequence[int]:
    """Return the values of the window's queries.

    ``values`` has one value per run of the graph, oldest first: warm-up, window, then the sustained workload.
    """
    calls = per_query(workload) // workload.batch  # number of runs of the graph in one query
    after = (observed.lasting, observed.tail)
    beyond = sum(len(trace.latency_ns) for trace in after if trace is not None) * calls
    n = len(observed.trace.latency_ns) * calls
    return values[len(values) - beyond - n : len(values) - beyond]

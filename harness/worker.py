"""The worker: loads exported artifacts, generates load next to them, and sends raw samples back.

Torch-free. The same code runs as a child process on this machine and, over the network, on a board. Commands
come as tuples over a connection; each is answered by ("ok", value) or ("error", kind, message, traceback).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from harness import memory
from harness.errors import HarnessError
from harness.load import batches, per_query, whole
from harness.sampler import Sampler
from harness.types import IMAGE, Artifact, Load, Monitor, Samples, Session, SessionOptions
from harness.window import Observed, observe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

__all__ = ["die_with_parent", "main", "start"]


def die_with_parent() -> None:
    """End with the parent, however it ends: nothing is left behind by ``kill -9``. Costs a sleeping thread."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start(process: BaseProcess) -> None:
    """Start a child that Ctrl-C never reaches, not even while it imports: it inherits the blocked signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(conn: Connection) -> None:
    """Serve one parent until it says "close" or goes away."""
    os.dup2(2, 1)  # the parent's standard output is for its answer; a runtime may print
    die_with_parent()
    worker = Worker()
    while True:
        try:
            name, *arguments = conn.recv()
        except (EOFError, OSError):
            break
        if name == "close":
            break
        try:
            answer = getattr(worker, name)(*arguments)
        except HarnessError as error:
            conn.send(("error", type(error).__name__, str(error), ""))
        except MemoryError:
            conn.send(("error", "MemoryError", "out of memory", ""))
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the parent decides
            text = (f"{type(error).__name__}: {error}").strip().splitlines()[0]
            conn.send(("error", type(error).__name__, text, traceback.format_exc()))
        else:
            conn.send(("ok", answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # unloading a framework takes longer than a cell


@dataclass
class Worker:
    """What one process has loaded, and how its parts are joined to those of other workers."""

    sessions: dict[str, Session] = field(default_factory=dict)
    graph: dict[str, tuple[str, ...]] = field(default_factory=dict)
    peers: dict[str, Connection] = field(default_factory=dict)
    peer_ids: list[int] = field(default_factory=list)
    first_ns: int = 0
    sampler: Sampler | None = None

    def load(self, name: str, artifact: Artifact, loader: str, options: SessionOptions) -> Mapping[str, Any]:
        """Load an artifact with the runtime's function ``loader`` ("module:function")."""
        module, _, function = loader.partition(":")
        load = getattr(importlib.import_module(module), function)
        memory.mark_baseline()
        self.sessions[name] = load(artifact, options)
        memory.model_loaded()
        return dict(self.sessions[name].facts)

    def listen(self) -> tuple[str, bytes, int]:
        """Open a private socket for the central worker: (address, key, process id)."""
        self.key = os.urandom(32)
        name = f"\0harness-{os.urandom(16).hex()}"  # an abstract socket: nothing stays after a kill
        self.listener = Listener(name, "AF_UNIX", authkey=self.key)
        return name, self.key, os.getpid()

    def serve(self) -> None:
        """Answer the central worker's queries until it closes its end; returns to the parent's commands."""
        with self.listener.accept() as conn:
            while True:
                try:
                    name, inputs = conn.recv()
                except (EOFError, OSError):
                    return
                try:
                    start = time.perf_counter_ns()
                    output = self.sessions[name].run(inputs)
                    conn.send((output, time.perf_counter_ns() - start))
                except Exception as error:  # noqa: BLE001 - the central worker reports it
                    conn.send((None, f"{type(error).__name__}: {error}"))

    def connect(
        self, graph: Mapping[str, tuple[str, ...]], remote: Mapping[str, tuple[str, bytes, int]]
    ) -> None:
        """Become the central worker of a partition: ``graph`` maps parts, in order, to their inputs."""
        self.graph = dict(graph)
        opened: dict[str, Connection] = {}
        for name, (address, key, pid) in remote.items():
            if address not in opened:
                opened[address] = Client(address, authkey=key)
                self.peer_ids.append(pid)
            self.peers[name] = opened[address]

    def infer(self, images: Array, batch: int) -> Array:
        """Answers for ``images`` [n, ...], in queries of ``batch``; the last one may be smaller."""
        import numpy as np

        query = self._query()
        answers = []
        for offset in range(0, len(images), batch):
            start = time.perf_counter_ns()
            answers.append(query(images[offset : offset + batch]))
            self.first_ns = self.first_ns or time.perf_counter_ns() - start
        return np.concatenate(answers)

    def watch(self, monitor: Monitor) -> None:
        """Start the process that reads meters and the machine's state; it is up by the time that it is needed."""
        if monitor.meters or monitor.watches:
            self.sampler = Sampler(monitor)

    def measure(self, load: Load, images: Array) -> Samples:
        """First inference, warm-up, then the window, whose memory, signals and energy these are."""
        import numpy as np

        inputs = batches(images, per_query(load))
        copied = 0 if np.shares_memory(inputs[0], images) else sum(one.nbytes for one in inputs)
        timeline: dict[str, list[int]] = {}
        seen = observe(
            whole(self._query(timeline), load), inputs, load, self.sampler,
            first_ns=self.first_ns, peers=self.peer_ids, held=images.nbytes + copied,
        )  # fmt: skip
        self.first_ns = seen.first_ns
        return Samples(
            latency_ns=seen.timed.latency_ns, warmup_ns=seen.warm.latency_ns, first_ns=seen.first_ns,
            window_ns=seen.timed.window_ns, batch=per_query(load), steady=seen.warm.steady,
            reached=seen.timed.reached, cooled=seen.cooled, timeline=_last(timeline, seen, load),
            memory=self._memory(seen.peak), environment=seen.signals, states=seen.states(),
            problems=seen.sampled.problems, energy=[one.to_json() for one in seen.readings],
            meters=seen.raw_meters(), sustained=seen.sustained(load), lasting_ns=seen.lasting_ns(),
            queue_ns=seen.timed.queue_ns, late_ns=seen.timed.late_ns, target_qps=load.target_qps, reference=seen.timed.reference,
            network=self._network(inputs[0][: load.batch]),
        )  # fmt: skip

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

    def _network(self, one: Array) -> dict[str, int]:
        """Bytes that one query sends between workers: the image, and what parts give one another."""
        if not self.peers:
            return {}
        sizes = {IMAGE: one.nbytes, **self._output_bytes(one)}
        sent = {"input_bytes": 0, "feature_bytes": 0}
        for name, sources in self.graph.items():
            for source in sources:
                if self._place(name) != self._place(source):
                    sent["input_bytes" if source == IMAGE else "feature_bytes"] += sizes[source]
        return sent

    def _place(self, name: str) -> int:
        return id(self.peers[name]) if name in self.peers else 0

    def _output_bytes(self, one: Array) -> dict[str, int]:
        values: dict[str, Array] = {}
        _run_graph(self.graph, self.sessions, self.peers, one, values, None)
        return {name: value.nbytes for name, value in values.items()}

    def _query(self, timeline: dict[str, list[int]] | None = None) -> Callable[[Array], Array]:
        """One query: image in, the last part's output back."""
        if list(self.graph.values()) == [(IMAGE,)] and not self.peers:
            run = self.sessions[next(iter(self.graph))].run
            return lambda images: run((images,))
        graph, sessions, peers = self.graph, self.sessions, self.peers
        last = next(reversed(graph))

        def query(images: Array) -> Array:
            values: dict[str, Array] = {}
            _run_graph(graph, sessions, peers, images, values, timeline)
            return values[last]

        return query


def _last(timeline: Mapping[str, list[int]], seen: Observed, load: Load) -> dict[str, Any]:
    """Of each part's times those of the window: the newest, before what lasted longer."""
    import numpy as np

    calls = per_query(load) // load.batch  # runs of the graph in a query
    beyond = sum(len(one.latency_ns) for one in (seen.lasting, seen.tail) if one is not None) * calls
    n = len(seen.timed.latency_ns) * calls
    return {
        name: np.array(ns[len(ns) - beyond - n : len(ns) - beyond], np.int64) for name, ns in timeline.items()
    }


def _run_graph(
    graph: Mapping[str, tuple[str, ...]],
    sessions: Mapping[str, Session],
    peers: Mapping[str, Connection],
    images: Array,
    values: dict[str, Array],
    timeline: dict[str, list[int]] | None,
) -> None:
    """Run every part as soon as its inputs are there: remote parts are sent out first, own parts run meanwhile.

    A worker does one part at a time, so a peer gets its next part when it has answered. Peers say how long
    they computed; the clocks of two processes are never subtracted.
    """
    values[IMAGE] = images
    waiting = dict(graph)
    busy: dict[Connection, tuple[str, int]] = {}
    clock = time.perf_counter_ns

    def note(kind: str, name: str, spent: int) -> None:
        if timeline is not None:
            timeline.setdefault(f"{kind}:{name}", []).append(spent)

    while waiting or busy:
        ready = [name for name, sources in waiting.items() if all(source in values for source in sources)]
        for name in ready:
            peer = peers.get(name)
            if peer is not None and peer not in busy:
                peer.send((name, tuple(values[source] for source in waiting.pop(name))))
                busy[peer] = (name, clock())
        own = next((name for name in ready if name in waiting and name not in peers), None)
        if own is not None:
            start = clock()
            values[own] = sessions[own].run(tuple(values[source] for source in waiting.pop(own)))
            note("compute", own, clock() - start)
            continue
        for conn in wait(list(busy)):
            assert isinstance(conn, Connection)
            name, sent = busy.pop(conn)
            try:
                output, spent = conn.recv()
            except (EOFError, OSError):
                raise HarnessError(f"the worker of part {name} went away") from None
            if output is None:
                raise HarnessError(f"part {name}: {spent}")
            values[name] = output
            note("compute", name, spent)
            note("wait", name, clock() - sent - spent)
    del values[IMAGE]

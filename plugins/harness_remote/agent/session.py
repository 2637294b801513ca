"""One lease holder's worker on this board: what it has loaded, whom it serves, and what it measures.

A measurement runs in a thread of its own, whether or not anyone is connected, and its result stays in the agent's
folder until the lease ends: so a client may drop the link, and fetch it later.
"""

from __future__ import annotations

import errno
import hmac
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from harness.errors import DeviceError, HarnessError, nearest
from harness.machine.meters import Meters
from harness.plugins import Plugins
from harness.types import DeviceReport, Graph, Monitor, PeerAddress, SessionOptions, Workload
from harness.worker import commands
from harness.worker.process import WorkerProcess
from harness_remote.agent import onnx_check
from harness_remote.agent.blobs import Blobs
from harness_remote.wire import codec
from harness_remote.wire.wire import PEER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Job", "Neighbour", "Session"]

MAX_PARTS = 64
MAX_RESULTS = 16
MAX_IMAGES_BYTES = 256 * 2**20  # they stand in the agent's memory and in the worker's
TURN_S = 30.0


@dataclass
class Job:
    """A measurement: under way, or with ``result`` or ``error``."""

    id: str
    done: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    result: Path | None = None
    error: HarnessError | None = None


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another board's agent, as this one is told of it."""

    device: str
    parts: tuple[str, ...]
    target: str
    certificate: str
    ticket: str


class Session:
    """From a lease's beginning to its end. Any thread may use it; the worker does one thing at a time.

    ``folder`` is this session's own, emptied at its end. ``name`` is the board's, for what is told of it.
    """

    def __init__(self, folder: Path, blobs: Blobs, plugins: Plugins, name: str) -> None:
        self._folder, self._blobs, self._plugins, self._name = folder, blobs, plugins, name
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._threads = 1
        self._parts: set[str] = set()
        self._ticket = ""
        self._jobs: dict[str, Job] = {}
        self._closed = False
        self._in_window = False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    @property
    def measuring(self) -> bool:
        return any(not job.done.is_set() for job in list(self._jobs.values()))

    @property
    def idle(self) -> bool:
        """Whether nothing is measured, here or with another board, that other work would spoil."""
        return not self.measuring and not self._in_window

    def open(self, threads: int, meters: Sequence[str]) -> None:
        """A fresh worker, and what it reads beside its load."""
        if not 1 <= threads <= 1024:
            raise DeviceError(f"threads: 1 to 1024, not {threads}")
        with self._turn("open"):
            self._end_worker()
            monitor = self._monitor(meters)
            self._threads = threads
            self._worker = WorkerProcess(self._name, monitor)
            if self._closed:  # meanwhile
                self._end_worker()

    def load(self, part: str, runtime: str, sha256: str, artifact: str, device: str) -> Mapping[str, Any]:
        """Load an ONNX file that is here already under a part's name; the session's facts."""
        if not 0 < len(part) <= 100 or (part not in self._parts and len(self._parts) >= MAX_PARTS):
            raise DeviceError(
                f"a part has a name of 1 to 100 letters, and a worker {MAX_PARTS} parts at most"
            )
        if not re.fullmatch(r"cpu|(cuda|tensorrt):\d{1,2}", device, re.ASCII):
            raise DeviceError(f"device: cpu, cuda:N or tensorrt:N, not {device[:40]!r}")
        entry = self._plugins.runtimes.get(runtime, f"the agent on {self._name}").entry
        if "onnx" not in entry.requires:
            raise DeviceError(f"{runtime} loads no ONNX file, and a board takes nothing else")
        file = self._blobs.path(sha256)
        onnx_check.check(file)
        told = codec.artifact_from_json(artifact, file.parent, runtime)
        with self._turn(f"load {part}") as worker:
            shipped = replace(told, meta={**told.meta, "file": file.name})
            loader = f"{entry.load.__module__}:{entry.load.__qualname__}"
            options = SessionOptions(threads=self._threads, device=device)
            facts: Mapping[str, Any] = worker().ask(commands.Load(part, shipped, loader, options))
            self._parts.add(part)
            return facts

    def serve(self) -> str:
        """Answer the central node's queries from now on: the ticket that it shows."""
        with self._turn("serve") as worker:
            worker().ask(commands.Listen())
            self._ticket = self._ticket or token_urlsafe(32)
            return self._ticket

    def admits(self, ticket: str) -> bool:
        """Whether another board may come in with this ticket."""
        known = self._ticket
        return bool(known) and hmac.compare_digest(ticket.encode(errors="replace"), known.encode())

    def listening(self) -> tuple[str, str]:
        """Address and key of the socket at which the worker answers frames."""
        with self._turn("listen") as worker:
            listening = worker().ask(commands.Listen())
            return listening.address, listening.key

    def connect(self, graph: Graph, neighbours: Sequence[Neighbour]) -> None:
        """Become the central node of a partition, with parts on other boards."""
        peers: dict[str, PeerAddress] = {}
        for one in neighbours:
            address = PeerAddress(
                device=one.device,
                open=PEER,
                details={"target": _target(one.target), "certificate": one.certificate, "ticket": one.ticket},
            )
            peers |= dict.fromkeys(one.parts, address)
        names = {part.name for part in graph.parts}
        if stray := sorted(set(peers) - names):
            raise DeviceError(
                f"part {stray[0][:100]!r} is not in the graph: {nearest(stray[0][:100], names)}"
            )
        with self._turn("connect") as worker:
            if missing := sorted(names - set(peers) - self._parts):
                raise DeviceError(f"part {missing[0]!r} is neither loaded here nor on another board")
            worker().ask(commands.Connect(graph, peers))

    def death(self) -> str | None:
        """Why the worker answers no more, if it does not."""
        worker = self._worker
        return self._ended() if self._closed else None if worker is None else worker.death()

    def _ended(self) -> str:
        return f"the lease of {self._name} has ended, and its worker with it"

    def begin(self) -> None:
        with self._turn("begin") as worker:
            self._in_window = True
            worker().ask(commands.Begin())

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        with self._turn("end") as worker:
            self._in_window = False
            seen: DeviceReport = worker().ask(commands.End(dict(spans), clock_error_ns, images))
            return seen

    def measure(self, load: Workload, sha256: str) -> str:
        """Start measuring over images that are here already; the job's id."""
        images = _images(self._blobs.path(sha256))
        with self._turn("measure") as worker:
            process = worker()  # before the job: one that never starts would never end
            job = Job(token_urlsafe(16))
            while len(self._jobs) >= MAX_RESULTS:
                oldest = self._jobs.pop(next(iter(self._jobs)))
                if oldest.result is not None:
                    oldest.result.unlink(missing_ok=True)
            thread = threading.Thread(target=self._measure, args=(job, process, load, images), daemon=True)
            self._jobs[job.id] = job
            try:
                thread.start()
            except RuntimeError as error:  # no more threads
                del self._jobs[job.id]
                raise DeviceError(f"measure on {self._name}: {error}") from None
            return job.id

    def job(self, id: str) -> Job:
        try:
            return self._jobs[id]
        except KeyError:
            raise DeviceError(f"no measurement {id[:40]!r} on {self._name} (any more)") from None

    def cancel(self, id: str) -> None:
        """End a measurement, with its worker."""
        job, worker = self.job(id), self._worker
        if not job.done.is_set() and worker is not None:
            job.cancelled = True
            worker.kill()

    def close(self) -> None:
        """End the worker and drop all results. Within seconds, whatever is under way."""
        self._closed = True
        self._ticket = ""
        worker = self._worker
        if worker is not None:
            worker.kill()  # whoever holds the lock is then done
        if self._lock.acquire(timeout=TURN_S):
            self._end_worker()
            self._lock.release()
        for job in self._jobs.values():
            job.done.wait(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _turn(self, what: str) -> Iterator[Any]:
        """One after the other; yields a function that gives the worker."""
        busy = DeviceError(f"{what}: the worker on {self._name} is busy; wait, or cancel the measurement")
        if not self._lock.acquire(timeout=TURN_S):
            raise busy
        try:
            if self.measuring:
                raise busy
            if self._closed:
                raise DeviceError(self._ended())
            yield self._present
        except HarnessError as error:
            raise DeviceError(self._ended()) if self._closed else error from None
        finally:
            self._lock.release()

    def _present(self) -> WorkerProcess:
        if self._worker is None:
            raise DeviceError(f"{self._name} has no worker: open one first")
        return self._worker

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        self._parts.clear()
        self._ticket, self._in_window = "", False
        if worker is not None:
            worker.close()

    def _monitor(self, names: Sequence[str]) -> Monitor:
        meters = Meters(self._plugins)
        found = {use.info.name: use for use in (meters.auto()[0] if names else ())}
        for name in names:
            if name not in found:
                raise DeviceError(f"no meter {name[:100]!r} on {self._name}: {nearest(name[:100], found)}")
        return Monitor(
            meters=tuple(found[name] for name in dict.fromkeys(names)), watches=dict(meters.watches())
        )

    def _measure(self, job: Job, worker: WorkerProcess, load: Workload, images: NDArray[np.float32]) -> None:
        path = self._folder / f"{job.id}.npz"
        try:
            path.write_bytes(codec.pack_samples(worker.ask(commands.Measure(load, images))))
            job.result = path
        except HarnessError as error:
            job.error = error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "its disk is full" if full else error.strerror or str(error)
            job.error = DeviceError(f"{self._name} cannot keep the result: {why}")
            with suppress(OSError):
                path.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - whoever follows the job is told
            job.error = DeviceError(f"measure on {self._name}: {type(error).__name__}: {error}")
        finally:
            if self._closed:
                job.error = DeviceError(self._ended())
            elif job.cancelled and job.result is None:
                job.error = DeviceError(f"the measurement on {self._name} was cancelled")
            job.done.set()


def _images(path: Path) -> NDArray[np.float32]:
    """The images of an .npy file, float32 [n, ...]."""
    import numpy as np

    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if (
            not isinstance(mapped, np.ndarray)
            or mapped.dtype != np.float32
            or mapped.ndim < 2
            or not mapped.size
        ):
            raise ValueError("float32 [n, ...] is needed")
        if mapped.nbytes > MAX_IMAGES_BYTES:
            raise ValueError(f"{mapped.nbytes} bytes; allowed are {MAX_IMAGES_BYTES}")
    except Exception as error:  # noqa: BLE001 - numpy's reader raises many kinds on what is no array
        raise DeviceError(f"the images: {str(error)[:200]}") from None
    return np.array(mapped, np.float32)


def _target(target: str) -> str:
    """A board's address, HOST:PORT and nothing else."""
    host, _, port = target.rpartition(":")
    name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]", host, re.ASCII)
    if not name or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise DeviceError(f"{target[:100]!r} is no HOST:PORT")
    return target

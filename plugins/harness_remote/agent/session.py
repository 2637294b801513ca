"""The session of a lease's holder on this board: one worker with its loaded parts, its ticket and its jobs."""

from __future__ import annotations

import hmac
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from harness.devices import WorkerProcess
from harness.errors import DeviceError, HarnessError, nearest
from harness.machine.meters import Meters
from harness.plugins import Plugins
from harness.types import Monitor, PeerAddress, SessionOptions
from harness.types.plain import function_name
from harness.worker.commands import Begin, Command, Connect, End, Infer, Listen, Listening, Load, Measure
from harness_remote.agent import onnx_check
from harness_remote.agent.blobs import Blobs
from harness_remote.agent.jobs import Job, Jobs, read_images
from harness_remote.wire.commands import InferFile, Join, LoadFile, MeasureFile, Open, Serve, Served
from harness_remote.wire.wire import PEER

__all__ = ["LeaseSession", "worker_limit"]

MAX_PARTS = 64
SPARE_BYTES = 64 * 2**20
"""Free memory that a worker must leave to the system."""
TURN_S = 30.0


class LeaseSession:
    """A board's worker from the beginning to the end of a lease.

    Any thread may use the object; the worker does one thing at a time. ``folder`` belongs to this session, and is
    empty at its end. ``name`` is the board's name for messages. ``frames_port`` is the agent's port for other boards'
    frames. ``wrapper`` ("module:function") wraps each of the worker's sessions.
    """

    def __init__(
        self, folder: Path, blobs: Blobs, plugins: Plugins, name: str, frames_port: int = 0, wrapper: str = ""
    ) -> None:
        self._folder, self._blobs, self._plugins, self._name = folder, blobs, plugins, name
        self._frames_port = frames_port
        self._wrapper = wrapper
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._threads = 1
        self._parts: set[str] = set()
        self._ticket = ""
        self._jobs = Jobs(folder, name)
        self._closed = False
        self._in_window = False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    @property
    def idle(self) -> bool:
        """True if no measurement runs that other work would disturb, on this board or together with another board."""
        return not self._jobs.running and not self._in_window

    def work(self, command: Command[Any]) -> Any:
        """Run a command and return its answer, or the :class:`~harness_remote.agent.jobs.Job` that will have it.

        Raises:
            DeviceError: the command cannot be run, or the worker is busy.
        """
        match command:
            case Open():
                return self._open(command)
            case LoadFile():
                return self._load(command)
            case Serve():
                return self._serve()
            case Join():
                return self._join(command)
            case InferFile(images, batch, absent):
                return self._start(Infer(read_images(self._blobs.path(images)), max(1, batch), absent))
            case MeasureFile(images, workload):
                return self._start(Measure(workload, read_images(self._blobs.path(images))))
            case Begin() | End():
                with self._turn(command) as worker:
                    self._in_window = isinstance(command, Begin)
                    return worker().ask(command)
        raise DeviceError(f"no command {command.name} on {self._name}")

    def job(self, id: str) -> Job:
        """Return a job. Raises ``DeviceError`` if there is none with this id."""
        return self._jobs.get(id)

    def cancel(self, id: str) -> None:
        """End a running job, with its worker."""
        job, worker = self.job(id), self._worker
        if not job.done.is_set() and worker is not None:
            job.cancelled = True
            worker.kill()

    def admits(self, ticket: str) -> bool:
        """Return whether another board may send frames with this ticket."""
        known = self._ticket
        return bool(known) and hmac.compare_digest(ticket.encode(errors="replace"), known.encode())

    def listening(self) -> Listening:
        """Return the address and key of the socket at which the worker answers frames."""
        with self._turn(Listen()) as worker:
            return worker().ask(Listen())

    def death(self) -> str | None:
        """Return why the worker no longer answers, or None if it does."""
        worker = self._worker
        return self._ended() if self._closed else None if worker is None else worker.death()

    def close(self) -> None:
        """End the worker and delete all answers, within seconds, even if a command runs."""
        self._closed = True
        self._ticket = ""
        self._jobs.end(self._ended())
        worker = self._worker
        if worker is not None:
            worker.kill()  # after this the thread that holds the lock ends its command
        if self._lock.acquire(timeout=TURN_S):
            self._end_worker()
            self._lock.release()
        self._jobs.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- commands ---

    def _open(self, command: Open) -> None:
        if not 1 <= command.threads <= 1024:
            raise DeviceError(f"threads: 1 to 1024, not {command.threads}")
        with self._turn(command):
            self._end_worker()
            monitor = self._monitor(command.meters)
            self._threads = command.threads
            self._worker = WorkerProcess(self._name, monitor)
            _bound_memory(self._worker.pid)
            if self._closed:  # the session ended while the worker started
                self._end_worker()

    def _load(self, command: LoadFile) -> dict[str, Any]:
        part = command.part
        if not 0 < len(part) <= 100 or (part not in self._parts and len(self._parts) >= MAX_PARTS):
            raise DeviceError(
                f"a part has a name of 1 to 100 letters, and a worker {MAX_PARTS} parts at most"
            )
        if not re.fullmatch(r"cpu|(cuda|tensorrt):\d{1,2}", command.device, re.ASCII):
            raise DeviceError(f"device: cpu, cuda:N or tensorrt:N, not {command.device[:40]!r}")
        entry = self._plugins.runtimes.get(command.runtime, f"the agent on {self._name}").entry
        if "onnx" not in entry.requires:
            raise DeviceError(f"{command.runtime} loads no ONNX file, and a board takes nothing else")
        file = self._blobs.path(command.sha256)
        onnx_check.check(file)
        shipped = command.artifact.artifact(file.parent, command.runtime, file.name)
        with self._turn(command) as worker:
            loader = function_name(entry.load)
            options = SessionOptions(threads=self._threads, device=command.device)
            facts = worker().ask(Load(part, shipped, loader, options, self._wrapper))
            self._parts.add(part)
            return dict(facts)

    def _serve(self) -> Served:
        with self._turn(Serve()) as worker:
            worker().ask(Listen())
            self._ticket = self._ticket or token_urlsafe(32)
            return Served(ticket=self._ticket, port=self._frames_port)

    def _join(self, command: Join) -> None:
        peers: dict[str, PeerAddress] = {}
        for board in command.neighbours:
            details = {
                "target": _target(board.target),
                "certificate": board.certificate,
                "ticket": board.ticket,
            }
            peers |= dict.fromkeys(board.parts, PeerAddress(device=board.device, open=PEER, details=details))
        names = {part.name for part in command.graph.parts}
        if stray := sorted(set(peers) - names):
            raise DeviceError(
                f"part {stray[0][:100]!r} is not in the graph: {nearest(stray[0][:100], names)}"
            )
        with self._turn(command) as worker:
            if absent := sorted(names - set(peers) - self._parts):
                raise DeviceError(f"part {absent[0]!r} is neither loaded here nor on another board")
            worker().ask(Connect(command.graph, peers))

    def _start(self, command: Command[Any]) -> Job:
        with self._turn(command) as worker:
            return self._jobs.start(command, worker())

    # --- the worker ---

    @contextmanager
    def _turn(self, command: Command[Any]) -> Iterator[Callable[[], WorkerProcess]]:
        """Let one command at a time use the worker. Yield a function that returns the worker.

        Raises:
            DeviceError: the worker is busy, or the session has ended.
        """
        busy = DeviceError(
            f"{command.name}: the worker on {self._name} is busy; wait, or cancel what it does"
        )
        if not self._lock.acquire(timeout=TURN_S):
            raise busy
        try:
            if self._jobs.running:
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

    def _ended(self) -> str:
        return f"the lease of {self._name} has ended, and its worker with it"

    def _monitor(self, names: Sequence[str]) -> Monitor:
        meters = Meters(self._plugins)
        usable = {use.info.name: use for use in (meters.auto()[0] if names else ())}
        for name in names:
            if name not in usable:
                raise DeviceError(f"no meter {name[:100]!r} on {self._name}: {nearest(name[:100], usable)}")
        return Monitor(
            meters=tuple(usable[name] for name in dict.fromkeys(names)), watches=dict(meters.watches())
        )


def _target(target: str) -> str:
    """Return a board's address if it has the form HOST:PORT. Raises ``DeviceError`` if not."""
    host, _, port = target.rpartition(":")
    name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]", host, re.ASCII)
    if not name or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise DeviceError(f"{target[:100]!r} is no HOST:PORT")
    return target


def worker_limit(free: int, held: int) -> int:
    """Return the bytes of data that a worker may have, if ``free`` bytes are free and it ``held`` some before.

    It may take all that is free, without ``SPARE_BYTES`` for the system, but at least as much as that.
    """
    return held + max(free - SPARE_BYTES, SPARE_BYTES)


def _bound_memory(pid: int) -> None:
    """Limit the memory of a worker to what it has and what is free now.

    A file of 200 bytes can ask for a constant of 2^33 elements. Without a limit the kernel would end any process of
    the board, the agent too.
    """
    import psutil

    with suppress(OSError, ValueError, psutil.Error):  # the worker has ended: the next command says so
        most = worker_limit(psutil.virtual_memory().available, psutil.Process(pid).memory_info().data)
        resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))

"""A device whose worker takes commands over a transport, which is a pipe on this machine or a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from harness.errors import DeviceError
from harness.types import (
    Artifact,
    Clock,
    Device,
    DeviceInfo,
    DeviceReport,
    Graph,
    Monitor,
    PeerAddress,
    RuntimeEntry,
    Samples,
    SessionOptions,
    Workload,
)
from harness.types.json import Facts
from harness.types.plain import function_name
from harness.worker.commands import Begin, Command, Connect, End, Infer, Listen, Load, Measure
from harness.worker.peers import LOCAL
from harness.worker.process import WorkerProcess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LocalTransport", "Transport", "WorkerDevice"]

A = TypeVar("A")


class Transport(Protocol):
    """A connection to one worker.

    Each method raises :class:`~harness.errors.DeviceError` if it cannot do its task.
    """

    remote: bool
    """Whether the worker runs on another machine."""

    def start(self, runtime: RuntimeEntry) -> None:
        """Start the worker for parts of this runtime. It is called once, before the first command."""
        ...

    def ask(self, command: Command[A]) -> A:
        """Have the worker carry out a command, and return its answer.

        Raises:
            BoardLost: the worker, or another board that it needs, does not answer.
        """
        ...

    def address(self, central: Device) -> PeerAddress:
        """Have the worker answer the central device's queries, and return the address for the central worker."""
        ...

    def clock(self) -> Clock:
        """Return the offset of the worker's monotonic clock from this process's, with its error."""
        ...

    def close(self) -> None:
        """End the worker. Closing again does nothing."""
        ...


class WorkerDevice:
    """A :class:`~harness.types.Device` with one fresh worker, which the first ``load`` starts."""

    def __init__(self, info: DeviceInfo, transport: Transport, options: SessionOptions) -> None:
        self.info = info
        self.transport = transport
        self.remote = transport.remote
        self._options = options
        self._started = False
        self._central = ""  # the device whose queries this one answers

    def load(self, part: str, artifact: Artifact, runtime: RuntimeEntry) -> Facts:
        """Start the worker if it is not started, load a part, and return the session's facts."""
        if not self._started:
            self.transport.start(runtime)
            self._started = True
        loader = function_name(runtime.load)
        return self._ask(Load(part, artifact, loader, self._options))

    def serve(self, central: Device) -> PeerAddress:
        """Answer the central device's queries until the device is closed.

        ``infer`` and ``measure`` are then refused.
        """
        address = self.transport.address(central)
        self._central = central.info.name
        return address

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        """Make this worker the central one."""
        self._ask(Connect(graph, dict(peers)))

    def clock(self) -> Clock:
        """Return the offset of the worker's monotonic clock."""
        return self.transport.clock()

    def begin(self) -> None:
        """Begin to read memory, meters and state."""
        self._ask(Begin())

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """Stop reading, and return the report of the window."""
        return self._ask(End(dict(spans), clock_error_ns, images))

    def infer(
        self, images: NDArray[np.float32], batch: int, absent: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Return logits for ``images``.

        Raises:
            DeviceError: this device serves a central device.
        """
        self._refuse_if_serving()
        return self._ask(Infer(images, batch, tuple(absent)))

    def measure(self, workload: Workload, images: NDArray[np.float32]) -> Samples:
        """Measure one window, and return raw samples.

        Raises:
            DeviceError: this device serves a central device.
        """
        self._refuse_if_serving()
        return self._ask(Measure(workload, images))

    def close(self) -> None:
        """End the worker."""
        self.transport.close()

    def __enter__(self) -> WorkerDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, command: Command[A]) -> A:
        if not self._started:
            raise DeviceError(f"{self.info.name} has no part to run")
        return self.transport.ask(command)

    def _refuse_if_serving(self) -> None:
        if self._central:
            raise DeviceError(f"{self.info.name} answers to {self._central} until it is closed")


class LocalTransport:
    """A worker process on this machine, which is started in the way that its first runtime needs.

    A runtime without ``preload`` gets a spawned process, without torch. A runtime with ``preload`` gets a fork of a
    server that has only imported those modules. If ``forks`` is false it is spawned too, since a forked process
    cannot use CUDA. ``affinity``: the cores that the worker may use; empty for all.
    """

    remote = False

    def __init__(
        self, name: str, monitor: Monitor, *, forks: bool = True, affinity: tuple[int, ...] = ()
    ) -> None:
        self._name = name
        self._monitor = monitor
        self._forks = forks
        self._affinity = affinity
        self._process: WorkerProcess | None = None

    def start(self, runtime: RuntimeEntry) -> None:
        """Start the worker process, spawned or forked."""
        preload = runtime.preload if self._forks else ()
        self._process = WorkerProcess(self._name, self._monitor, preload=preload, affinity=self._affinity)

    def ask(self, command: Command[A]) -> A:
        """Have the worker process carry out a command, and return its answer."""
        if self._process is None:
            raise DeviceError(f"{self._name} has no worker")
        return self._process.ask(command)

    def address(self, central: Device) -> PeerAddress:
        """Return the address of the worker's socket, for a central worker on this machine.

        Raises:
            DeviceError: the central device is another machine.
        """
        if central.remote:
            raise DeviceError(
                f"{self._name} is a worker of this machine, which {central.info.name} cannot reach"
            )
        return PeerAddress(device=self._name, open=LOCAL, details=asdict(self.ask(Listen())))

    def clock(self) -> Clock:
        """Return a clock without offset, since both processes have one clock."""
        return Clock()

    def close(self) -> None:
        """End the worker process."""
        if self._process is not None:
            self._process.close()

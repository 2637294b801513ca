"""One worker process on this machine, and its commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import DeviceError
from harness.types import (
    Artifact,
    Clock,
    Device,
    DeviceInfo,
    DeviceReport,
    DeviceSpec,
    Graph,
    PeerAddress,
    RuntimeEntry,
    Samples,
    SessionOptions,
    Workload,
)
from harness.worker import commands
from harness.worker.peers import LOCAL
from harness.worker.process import WorkerProcess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LocalDevice"]

A = TypeVar("A")


class LocalDevice:
    """A :class:`~harness.types.Device`: a fresh process, started by the first ``load`` as its runtime wants.

    A runtime without ``preload`` gets a spawned process, free of torch. One with it gets a fork of a server
    that has only imported those modules; on CUDA it is spawned, for a forked process cannot use CUDA.
    """

    remote = False

    def __init__(
        self, spec: DeviceSpec, info: DeviceInfo, *, device: str, affinity: tuple[int, ...] = ()
    ) -> None:
        self.info = info
        self._options = SessionOptions(threads=spec.threads, device=device)
        self._monitor = spec.monitor
        self._affinity = affinity
        self._worker: WorkerProcess | None = None
        self._serves: str | None = None

    def load(self, name: str, artifact: Artifact, runtime: RuntimeEntry) -> Mapping[str, Any]:
        if self._worker is None:
            preload = runtime.preload if self._options.device == "cpu" else ()
            self._worker = WorkerProcess(
                self.info.name, self._monitor, preload=preload, affinity=self._affinity
            )
        loader = f"{runtime.load.__module__}:{runtime.load.__qualname__}"
        facts: Mapping[str, Any] = self._ask(commands.Load(name, artifact, loader, self._options))
        return facts

    def serve(self, central: Device) -> PeerAddress:
        if central.remote:
            raise DeviceError(
                f"{self.info.name} is a worker of this machine, which {central.info.name} cannot reach"
            )
        self._serves = central.info.name
        return PeerAddress(device=self.info.name, open=LOCAL, details=asdict(self._ask(commands.Listen())))

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        self._ask(commands.Connect(graph, dict(peers)))

    def clock(self) -> Clock:
        return Clock()

    def begin(self) -> None:
        self._ask(commands.Begin())

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        return self._ask(commands.End(dict(spans), clock_error_ns, images))

    def infer(
        self, images: NDArray[np.float32], batch: int, missing: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        self._own()
        return self._ask(commands.Infer(images, batch, tuple(missing)))

    def measure(self, load: Workload, images: NDArray[np.float32]) -> Samples:
        self._own()
        return self._ask(commands.Measure(load, images))

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own(self) -> None:
        if self._serves is not None:
            raise DeviceError(f"{self.info.name} answers to {self._serves} until it is closed")

    def _ask(self, command: commands.Command[A]) -> A:
        if self._worker is None:
            raise DeviceError(f"{self.info.name} has no part to run")
        return self._worker.ask(command)

"""One worker process on this machine, and its commands."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness import worker
from harness.errors import DeviceError
from harness.types import (
    Artifact,
    Device,
    DeviceInfo,
    DeviceSpec,
    Load,
    RuntimeEntry,
    Samples,
    SessionOptions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LocalDevice"]


class LocalDevice:
    """A :class:`~harness.types.Device`: a fresh process, started by the first ``load`` as its runtime wants.

    A runtime without ``preload`` gets a spawned process, free of torch. One with it gets a fork of a server
    that has only imported those modules; on CUDA it is spawned, for a forked process cannot use CUDA.
    """

    def __init__(
        self, spec: DeviceSpec, info: DeviceInfo, *, device: str, affinity: tuple[int, ...] = ()
    ) -> None:
        self.info = info
        self._options = SessionOptions(threads=spec.threads, device=device)
        self._monitor = spec.monitor
        self._affinity = affinity
        self._process: BaseProcess | None = None
        self._conn: Connection | None = None
        self._serves: str | None = None

    def load(self, name: str, artifact: Artifact, runtime: RuntimeEntry) -> Mapping[str, Any]:
        if self._process is None:
            self._start(runtime.preload if self._options.device == "cpu" else ())
        loader = f"{runtime.load.__module__}:{runtime.load.__qualname__}"
        facts: Mapping[str, Any] = self._ask("load", name, artifact, loader, self._options)
        return facts

    def connect(self, inputs: Mapping[str, tuple[str, ...]], peers: Mapping[str, Device]) -> None:
        addresses: dict[int, tuple[str, bytes, int]] = {}
        remote = {}
        for name, peer in peers.items():
            if not isinstance(peer, LocalDevice):
                raise DeviceError(
                    f"{self.info.name} joins workers of this machine only, not {peer.info.name}"
                )
            if id(peer) not in addresses:
                addresses[id(peer)] = peer._ask("listen")
                peer._tell("serve")
                peer._serves = self.info.name
            remote[name] = addresses[id(peer)]
        if self._process is None:
            raise DeviceError(f"the central device {self.info.name} has no part to run")
        self._ask("connect", dict(inputs), remote)

    def infer(self, images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._ask("infer", images, batch)
        return output

    def measure(self, load: Load, images: NDArray[np.float32]) -> Samples:
        samples: Samples = self._ask("measure", load, images)
        return samples

    def close(self) -> None:
        process, conn = self._process, self._conn
        self._process = self._conn = None
        if process is None or conn is None:
            return
        try:
            conn.send(("close",))
            process.join(0.2)
        except OSError:
            pass
        if process.is_alive():
            process.kill()
            process.join(1)
        conn.close()

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, preload: tuple[str, ...]) -> None:
        if preload:
            context: Any = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(preload))
        else:
            context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs,), daemon=True)
        worker.start(process)
        theirs.close()
        self._process, self._conn = process, ours
        self._ask("watch", self._monitor)  # its process has all cores, whatever the worker's are
        if self._affinity:
            os.sched_setaffinity(process.pid, self._affinity)

    def _tell(self, *message: Any) -> None:
        if self._conn is None:
            raise DeviceError(f"{self.info.name} has nothing loaded, or is closed")
        if self._serves is not None:
            raise DeviceError(f"{self.info.name} answers to {self._serves} until it is closed")
        try:
            self._conn.send(message)
        except OSError:
            raise DeviceError(self._death()) from None

    def _ask(self, *message: Any) -> Any:
        self._tell(*message)
        assert self._conn is not None
        try:
            answer = self._conn.recv()
        except (EOFError, OSError):
            raise DeviceError(self._death()) from None
        if answer[0] == "error":
            raise DeviceError(f"{message[0]} on {self.info.name}: {answer[2]}")
        return answer[1]

    def _death(self) -> str:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"the worker on {self.info.name} was killed by signal {-code}{hint}"
        return f"the worker on {self.info.name} ended with exit code {code}"

"""Devices: how they are described, and the protocol of an opened one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from harness.types.fleet import Graph, PeerAddress
from harness.types.json import Facts
from harness.types.measuring import Clock, DeviceReport, Samples, Workload
from harness.types.meters import Monitor
from harness.types.params import Params
from harness.types.runtimes import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.types.runtimes import RuntimeEntry


__all__ = ["Device", "DeviceInfo", "DeviceSpec", "Fleet", "Unavailable"]


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Something that was looked for and cannot be used: the reason, and what to do about it."""

    name: str
    reason: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """A device as it was found. ``model`` is its hardware, which table keys compare; ``kind`` is cpu or cuda ...

    ``emulated``: a virtual board; its rows stand apart from measured ones. ``machine_id``: of a device that is reached
    through an agent, the id of its machine; empty for this machine's own devices.
    """

    name: str
    backend: str
    model: str
    kind: str
    cores: int
    memory_bytes: int
    emulated: bool = False
    machine_id: str = ""
    details: Facts = field(default_factory=dict)

    @property
    def is_board(self) -> bool:
        """Whether the device is reached through an agent."""
        return bool(self.machine_id)


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device as a suite names it: backend, its parameters, threads per worker, meters and watches."""

    name: str
    backend: str
    params: Params
    threads: int = 1
    monitor: Monitor = field(default_factory=Monitor)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices that run one partition. ``central`` is the index of the one that fuses."""

    devices: tuple[DeviceInfo, ...]
    central: int = 0


@runtime_checkable
class Device(Protocol):
    """An opened device: one fresh worker. Use it as a context manager; closing ends the worker.

    The order is ``load`` (once per part), ``serve`` or ``connect``, ``infer`` or ``measure`` (any number), ``close``.
    ``remote``: the device is another machine. Accuracy is then evaluated on this machine, and parity on the device.
    """

    info: DeviceInfo
    remote: bool

    def load(self, part: str, artifact: Artifact, runtime: RuntimeEntry) -> Facts:
        """Load an artifact under a part's name, and return the session's facts."""
        ...

    def serve(self, central: Device) -> PeerAddress:
        """Answer the central device's queries for the loaded parts from now on. Return how its worker reaches this one.

        Raises:
            DeviceError: this device cannot be reached from there.
        """
        ...

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        """Make this device the central one. ``peers`` maps each part that is elsewhere to its worker."""
        ...

    def clock(self) -> Clock:
        """Return this device's monotonic clock relative to the caller's."""
        ...

    def begin(self) -> None:
        """Read memory, meters and state from now on: the central device's window begins."""
        ...

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """Report what was read of the central device's window, which has ended.

        ``spans`` (``before``, ``load``, ``after``) are on this device's clock, in nanoseconds. ``images`` were answered.
        """
        ...

    def infer(
        self, images: NDArray[np.float32], batch: int, absent: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Answer ``images`` [n, ...] in queries of ``batch`` (the last one may be smaller), as if the parts
        ``absent`` did not answer.
        """
        ...

    def measure(self, workload: Workload, images: NDArray[np.float32]) -> Samples:
        """Generate the workload over ``images`` [m, ...], cycled, next to the sessions. Return raw samples."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Device: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

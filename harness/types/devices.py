"""Devices: their descriptions, and the protocol of an opened device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harness.types.fleet import Graph, PeerAddress
from harness.types.json import Facts
from harness.types.measuring import Clock, DeviceReport, Samples, Workload
from harness.types.meters import MeterInfo, MeterUse, Monitor
from harness.types.params import Params
from harness.types.runtimes import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.types.runtimes import RuntimeEntry


__all__ = ["Device", "DeviceInfo", "DeviceLink", "DeviceSpec", "Fleet", "Unavailable"]


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """A thing that was looked up and cannot be used: the reason, and the remedy."""

    name: str
    reason: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceLink:
    """The link of a device, as the device states it: 10^6 bits per second, and the round trip of a small message in ms.

    ``rate_mbps`` is ``None`` if nothing limits the rate. ``shared``: all links of the central device pass through one
    port.
    """

    rate_mbps: float | None = None
    rtt_ms: float = 0.0
    shared: bool = False

    @classmethod
    def of(cls, link: Facts) -> DeviceLink:
        """Return the link in the form that ``details["link"]`` had: ``rate_mbps``, ``rtt_ms`` and ``ports``."""
        return cls(
            rate_mbps=link.get("rate_mbps"),
            rtt_ms=link.get("rtt_ms", 0.0),
            shared=link.get("ports") == "shared",
        )


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """A device that was found.

    ``model`` is its hardware, which is a part of a table's key. ``kind`` is the kind of processor, such as cpu or
    cuda. ``emulated``: a virtual board, whose rows are in tables of their own.

    A device on another machine has a ``machine_id``, which is unique among machines; it is empty for this machine's
    own devices. ``environment``: facts of that machine, such as os, kernel and versions, as JSON. ``formats``: formats
    of artifacts that the device loads, such as ``onnx``; empty for any. ``link``: its link, if it is known.
    ``weight_budget_bytes``: limit for the weights of the parts that are placed on it. ``meters`` are those that the
    device reads itself, ``external`` those of other machines that watch it. ``signals``: what its watches read, such
    as ``temperature_c``. ``watched_as``: the name under which meters of a GPU know it (``MeterInfo.watches``).
    ``details``: further facts as JSON, which records contain.
    """

    name: str
    backend: str
    model: str
    kind: str
    cores: int
    memory_bytes: int
    emulated: bool = False
    machine_id: str = ""
    environment: Facts = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    link: DeviceLink | None = None
    weight_budget_bytes: int | None = None
    meters: tuple[MeterInfo, ...] = ()
    external: tuple[MeterUse, ...] = ()
    signals: tuple[str, ...] = ()
    watched_as: str = ""
    details: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the values that plugins for 0.1.0 have in ``details`` into the named fields."""
        for key, name, of in _IN_DETAILS:
            if key in self.details and not getattr(self, name):
                object.__setattr__(self, name, of(self.details[key]))

    @property
    def is_board(self) -> bool:
        """Return whether the device is on another machine, or is reached through an agent."""
        return bool(self.machine_id)


def _meters(meters: Sequence[Facts]) -> tuple[MeterInfo, ...]:
    return tuple(MeterInfo(**meter) for meter in meters)


_IN_DETAILS: tuple[tuple[str, str, Callable[[Any], object]], ...] = (
    ("machine_id", "machine_id", str),
    ("link", "link", DeviceLink.of),
    ("memory_budget_bytes", "weight_budget_bytes", int),
    ("meters", "meters", _meters),
    ("tells", "signals", tuple),
    ("uuid", "watched_as", str),
)
"""Keys of ``details`` in 0.1.0, with the fields that replace them, and how they are converted."""


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device that a suite names: backend, its parameters, threads per worker, meters and watches."""

    name: str
    backend: str
    params: Params
    threads: int = 1
    monitor: Monitor = field(default_factory=Monitor)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices that run one partition. ``central`` is the index of the central device."""

    devices: tuple[DeviceInfo, ...]
    central: int = 0


@runtime_checkable
class Device(Protocol):
    """An opened device with one fresh worker. Use it as a context manager. Closing it ends the worker.

    The order is ``load`` (once per part), ``serve`` or ``connect``, ``infer`` or ``measure`` (any number), ``close``.
    ``remote``: the device is another machine. Accuracy is then evaluated on this machine, and parity on the device.
    """

    info: DeviceInfo
    remote: bool

    def load(self, part: str, artifact: Artifact, runtime: RuntimeEntry) -> Facts:
        """Load an artifact under a part's name, and return the session's facts."""
        ...

    def serve(self, central: Device) -> PeerAddress:
        """Answer the central device's queries for the loaded parts from now on. Return the address for its worker.

        Raises:
            DeviceError: the central device cannot reach this device.
        """
        ...

    def connect(self, graph: Graph, peers: Mapping[str, PeerAddress]) -> None:
        """Make this device the central one.

        ``peers`` maps each part on another device to the address of its worker.
        """
        ...

    def clock(self) -> Clock:
        """Return the offset of this device's monotonic clock from the caller's, with its error."""
        ...

    def begin(self) -> None:
        """Begin to read memory, meters and state, because the central device's window begins."""
        ...

    def end(self, spans: Mapping[str, tuple[int, int]], clock_error_ns: int, images: int) -> DeviceReport:
        """Stop reading, and return the report of the central device's window, which has ended.

        ``spans`` (``before``, ``load``, ``after``) are on this device's clock, in nanoseconds, within
        ``clock_error_ns``. ``images`` is the number of images that were answered.
        """
        ...

    def infer(
        self, images: NDArray[np.float32], batch: int, absent: Sequence[str] = ()
    ) -> NDArray[np.float32]:
        """Answer ``images`` [n, ...] with logits [n, classes], in queries of ``batch`` images.

        The last one may be smaller. The parts in ``absent`` are treated as if they did not answer.
        """
        ...

    def measure(self, workload: Workload, images: NDArray[np.float32]) -> Samples:
        """Measure one window of the workload over ``images`` [m, ...], which are cycled. Return raw samples."""
        ...

    def close(self) -> None:
        """End the worker."""
        ...

    def __enter__(self) -> Device: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

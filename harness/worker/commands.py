"""The commands that a worker takes. Each is a small frozen value, which names the type of its answer.

A worker takes one command at a time. The order is :class:`Observe`, :class:`Load` (once per part), then
:class:`Listen` (a peer) or :class:`Connect` (the central worker), then any of the other commands, any number of
times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.types import (
    Artifact,
    DeviceReport,
    Graph,
    Monitor,
    PeerAddress,
    Samples,
    SessionOptions,
    Workload,
)
from harness.types.json import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Begin",
    "Command",
    "Connect",
    "Done",
    "End",
    "Failed",
    "Infer",
    "Listen",
    "Listening",
    "Load",
    "Lost",
    "Measure",
    "Observe",
    "Reply",
]

A_co = TypeVar("A_co", covariant=True)


class Command(Generic[A_co]):
    """A command to which a worker answers with an ``A``."""

    @property
    def name(self) -> str:
        """Return the name of the command for messages, such as ``measure``."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Observe(Command[None]):
    """Start the process that reads these meters and watches, so that it is ready when a window begins."""

    monitor: Monitor


@dataclass(frozen=True)
class Load(Command[Facts]):
    """Load an artifact under a part's name. The answer is the facts of the session.

    ``loader`` ("module:function") is the runtime's function that loads it. ``wrapper`` ("module:function") takes the
    session and returns the one to use. If that session has a method ``rehearse``, it is called with each input before
    a window.
    """

    part: str
    artifact: Artifact
    loader: str
    options: SessionOptions
    wrapper: str = ""


@dataclass(frozen=True)
class Listening:
    """The address of a worker's private socket, its key (hex), and the worker's process id."""

    address: str
    key: str
    pid: int


@dataclass(frozen=True)
class Listen(Command[Listening]):
    """Answer frames on a private socket from now on. Repeating it gives the same answer."""


@dataclass(frozen=True)
class Connect(Command[None]):
    """Become the central worker of a partition.

    ``peers`` maps each part on another device to the address of its worker.
    """

    graph: Graph
    peers: Mapping[str, PeerAddress]


@dataclass(frozen=True)
class Infer(Command["NDArray[np.float32]"]):
    """Answer ``images`` [n, ...] in queries of ``batch`` images, as if the parts in ``absent`` did not answer."""

    images: NDArray[np.float32]
    batch: int
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure(Command[Samples]):
    """Measure one window of the workload over ``images`` [m, ...], which are cycled."""

    workload: Workload
    images: NDArray[np.float32]


@dataclass(frozen=True)
class Begin(Command[None]):
    """Begin to read memory, meters and state, because the central worker's window begins."""


@dataclass(frozen=True)
class End(Command[DeviceReport]):
    """Report on the central worker's window, which has ended.

    ``spans`` (``before``, ``load``, ``after``) are its times on this machine's clock, in nanoseconds, within
    ``clock_error_ns``. ``images`` is the number of images that were answered in the window.
    """

    spans: Mapping[str, tuple[int, int]]
    clock_error_ns: int
    images: int


@dataclass(frozen=True)
class Done:
    """A command was carried out. ``answer`` has the type that the command names."""

    answer: Any


@dataclass(frozen=True)
class Failed:
    """A command failed. ``message`` is one line.

    ``files`` are the source files of the stack frames in which it failed, outermost first.
    """

    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A command failed because another board, which it needs, does not answer."""

    board: str
    message: str


Reply = Done | Failed | Lost
"""The reply of a worker to each command."""

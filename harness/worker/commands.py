"""The commands that a worker takes: small frozen values, each of which names the type of its answer.

A worker takes one command at a time. The order is :class:`Observe`, :class:`Load` (once per part), then
:class:`Listen` (a peer) or :class:`Connect` (the central worker), then any of the others, any number of times.
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
    """A command that a worker answers with an ``A``."""

    @property
    def name(self) -> str:
        """The command's name in messages, like ``measure``."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Observe(Command[None]):
    """Start the process that reads these meters and watches, so that it is up when a window begins."""

    monitor: Monitor


@dataclass(frozen=True)
class Load(Command[Facts]):
    """Load an artifact under a part's name; the answer is the session's facts.

    ``loader`` ("module:function") is the runtime's function that loads it. ``wrapper`` ("module:function") takes the
    session and returns the one to use. If the session has a method ``rehearse``, it is called with each input
    before a window.
    """

    part: str
    artifact: Artifact
    loader: str
    options: SessionOptions
    wrapper: str = ""


@dataclass(frozen=True)
class Listening:
    """How a worker's private socket is reached: its address, its key (hex), and the worker's process."""

    address: str
    key: str
    pid: int


@dataclass(frozen=True)
class Listen(Command[Listening]):
    """Answer frames on a private socket from now on. Repeating it gives the same answer."""


@dataclass(frozen=True)
class Connect(Command[None]):
    """Become the central worker of a partition. ``peers`` maps each part that is elsewhere to its worker."""

    graph: Graph
    peers: Mapping[str, PeerAddress]


@dataclass(frozen=True)
class Infer(Command["NDArray[np.float32]"]):
    """Answer ``images`` [n, ...] in queries of ``batch``, as if the parts ``absent`` did not answer."""

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
    """The central worker's window begins: read memory, meters and state from now on."""


@dataclass(frozen=True)
class End(Command[DeviceReport]):
    """The central worker's window has ended.

    ``spans`` (``before``, ``load``, ``after``) are its times on this machine's clock, in nanoseconds, within
    ``clock_error_ns``. ``images`` were answered in the window.
    """

    spans: Mapping[str, tuple[int, int]]
    clock_error_ns: int
    images: int


@dataclass(frozen=True)
class Done:
    """A command was carried out; ``answer`` is of the type that the command names."""

    answer: Any


@dataclass(frozen=True)
class Failed:
    """A command failed; ``message`` is one line. ``files``: of the frames in which it failed, outermost first."""

    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A command failed because another board, which it needs, does not answer."""

    board: str
    message: str


Reply = Done | Failed | Lost
"""What a worker sends back for each command."""

"""Parts on several devices: the graph that joins them, the address of a part's worker, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from harness.types.json import Facts
from harness.types.models import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Answer", "Answers", "Graph", "GraphPart", "Peer", "PeerAddress"]


@dataclass(frozen=True, kw_only=True)
class GraphPart:
    """A part of a graph, with the facts that the central worker needs.

    ``inputs`` name ``image`` or earlier parts. ``output`` is for one sample. ``stand_ins`` maps an input to the
    values that replace it if its device does not answer. They are for one sample, flat; empty for zeros. An input
    without a stand-in must arrive. ``wire_dtype`` is the element type in which the output is sent.
    """

    name: str
    inputs: tuple[str, ...]
    output: TensorSpec
    stand_ins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    wire_dtype: str = "float32"

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of the inputs: ``image`` or earlier parts."""
        return self.inputs


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Parts in an order in which each comes after its inputs. The output of the last one is the answer.

    ``input_wire``: images are sent to other devices as preprocessed float32 tensors, or as raw uint8 pixels,
    which are normalised there by ``mean`` and ``std`` (per channel).
    """

    parts: tuple[GraphPart, ...]
    input_wire: Literal["float32", "uint8"] = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PeerAddress:
    """The address at which the central worker reaches another worker.

    ``open`` ("module:function") takes ``details`` (JSON) and a function that takes answers, and returns a
    :class:`Peer`. ``device`` is the name of the peer's device.
    """

    device: str
    open: str
    details: Facts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A peer's answer to the request for one part of a query. Times are durations on its own clock, in nanoseconds.

    ``queue_ns``: from the request's arrival at the device until the answer is ready, less ``compute_ns``. If
    ``output`` is None there is an ``error``. ``files`` are the source files of the stack frames in which it arose,
    outermost first, as far as the peer states them. ``lost``: this peer sends no more answers.
    """

    peer: str
    query: int
    part: str
    output: NDArray[np.float32] | None = None
    error: str = ""
    files: tuple[str, ...] = ()
    lost: bool = False
    queue_ns: int = 0
    compute_ns: int = 0
    received_bytes: int = 0


Answers = Callable[[Answer], None]


class Peer(Protocol):
    """The worker of another device, as the central worker uses it. It is used from one thread.

    Answers come from any thread.
    """

    device: str

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        """Send a frame (:mod:`harness.worker.frames`) in pieces, which must not change later.

        It does not wait for the answer.

        Raises:
            OSError: the connection is closed.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...

"""Parts on several devices: the graph that joins them, how a part's worker is reached, what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.types.models import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Answer", "Answers", "Graph", "GraphPart", "Peer", "PeerAddress"]


@dataclass(frozen=True, kw_only=True)
class GraphPart:
    """A part as the central node sees it.

    ``inputs`` name ``image`` or earlier parts; ``output`` is one sample's. ``missing`` maps an input to what stands
    in for it when its device does not answer: one sample's values, flat; empty for zeros. An input that is not
    in it cannot be missed. ``wire_dtype`` is the element type in which the output is sent.
    """

    name: str
    inputs: tuple[str, ...]
    output: TensorSpec
    missing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    wire_dtype: str = "float32"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the inputs: ``image`` or earlier parts."""
        return self.inputs


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Parts in an order in which each comes after its inputs; the last one's output is the answer.

    ``input_wire``: images are sent to other devices as preprocessed float32 tensors, or as the raw uint8 pixels
    that ``mean`` and ``std`` (per channel) turn into them.
    """

    parts: tuple[GraphPart, ...]
    input_wire: Literal["float32", "uint8"] = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PeerAddress:
    """How the central node's worker reaches another's: ``open`` ("module:function") takes ``details`` (JSON) and
    a function that takes its answers, and returns a :class:`Peer`. ``device`` is its name.
    """

    device: str
    open: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a peer says to one query's part; times are durations on its own clock, in nanoseconds.

    ``queue_ns``: from the query's arrival at the device until its answer is ready, less ``compute_ns``.
    Without ``output`` there is an ``error``; ``lost``: nothing more will come from this peer.
    """

    peer: str
    query: int
    part: str
    output: NDArray[np.float32] | None = None
    error: str = ""
    lost: bool = False
    queue_ns: int = 0
    compute_ns: int = 0
    received_bytes: int = 0


Answers = Callable[[Answer], None]


class Peer(Protocol):
    """Another device's worker, as the central node's uses it: from one thread; answers come from any thread."""

    device: str

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        """Send a frame (:mod:`harness.worker.frames`), in pieces, which must not change later; does not wait for its answer.

        Raises ``OSError`` where the connection is gone.
        """
        ...

    def close(self) -> None: ...

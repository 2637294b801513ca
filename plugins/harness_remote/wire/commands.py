"""The commands that a client sends to a board's worker, and the types of their answers.

A command with plain values is the worker's own (:mod:`harness.worker.commands`). A command that names a file, a
runtime or another board has its own form here: a file is its SHA-256, a runtime its name, a board its host and port.
So no path and no module name is sent over the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DeviceError
from harness.types import Artifact, DeviceReport, Graph, Samples, TensorSpec, Workload
from harness.worker.commands import Begin, Command, End
from harness_remote.wire import codec

__all__ = [
    "ALLOWED",
    "InferFile",
    "Join",
    "LoadFile",
    "MeasureFile",
    "Neighbour",
    "Open",
    "Serve",
    "Served",
    "ShippedArtifact",
    "answer_of",
    "command_of",
]


@dataclass(frozen=True)
class Open(Command[None]):
    """Start a new worker. ``meters`` names the board's own meters, as its description lists them."""

    threads: int
    meters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShippedArtifact:
    """An :class:`~harness.types.Artifact` without its path and runtime, which the receiving side sets."""

    precision: str
    weight_bytes: int
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, artifact: Artifact) -> ShippedArtifact:
        """Return the parts of an artifact that are sent."""
        return cls(
            precision=artifact.precision,
            weight_bytes=artifact.weight_bytes,
            inputs=artifact.inputs,
            output=artifact.output,
            meta=artifact.meta,
        )

    def artifact(self, path: Path, runtime: str, file: str) -> Artifact:
        """Return the artifact for ``runtime``; its file is ``file`` in the folder ``path``."""
        return Artifact(
            path=path,
            runtime=runtime,
            precision=self.precision,
            weight_bytes=self.weight_bytes,
            inputs=self.inputs,
            output=self.output,
            meta={**self.meta, "file": file},
        )


@dataclass(frozen=True, kw_only=True)
class LoadFile(Command["dict[str, Any]"]):
    """Load an ONNX file that is on the board, under a part's name. The answer is the session's facts.

    ``runtime`` is a runtime's name. ``device`` is where it computes: ``cpu``, ``cuda:N`` or ``tensorrt:N``.
    """

    part: str
    runtime: str
    sha256: str
    artifact: ShippedArtifact
    device: str

    @property
    def name(self) -> str:
        """The name of the command in messages."""
        return f"load {self.part}"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The access of other boards to the worker: the ticket that they must send, and the agent's port for frames."""

    ticket: str
    port: int


@dataclass(frozen=True)
class Serve(Command[Served]):
    """Begin to answer the central board's queries. A repeated command gives the same ticket."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another board. The central board reaches it at ``target`` (host:port).

    ``certificate`` (PEM) and ``ticket`` are what the central board needs for the connection.
    """

    device: str
    parts: tuple[str, ...]
    target: str
    certificate: str
    ticket: str


@dataclass(frozen=True)
class Join(Command[None]):
    """Become the central board of a partition, with parts on other boards."""

    graph: Graph
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class InferFile(Command[codec.Tensor]):
    """Answer the images of a file (.npy, float32 [n, ...]) in queries of ``batch``, without the parts ``absent``."""

    images: str
    batch: int
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class MeasureFile(Command[Samples]):
    """Measure one window of the workload over the images of a file (.npy, float32 [n, ...])."""

    images: str
    workload: Workload


ALLOWED: Mapping[str, type[Command[Any]]] = {
    kind.__name__: kind for kind in (Open, LoadFile, Serve, Join, InferFile, MeasureFile, Begin, End)
}
"""The kinds of command that an agent accepts, by their names."""

_ANSWERS: Mapping[type[Command[Any]], Any] = {
    LoadFile: dict[str, Any],
    Serve: Served,
    InferFile: codec.Tensor,
    MeasureFile: Samples,
    End: DeviceReport,
}
"""The types of the answers. The other commands have no answer."""


def command_of(kind: str, value: str) -> Command[Any]:
    """Return the command of a message: its kind and its fields as JSON.

    Raises:
        DeviceError: the kind is not allowed, or the fields do not belong to the kind.
    """
    if kind not in ALLOWED:
        raise DeviceError(f"no command {kind[:40]!r}; allowed: {', '.join(ALLOWED)}")
    return codec.from_json(ALLOWED[kind], value)


def answer_of(command: Command[Any], data: bytes) -> Any:
    """Return an agent's answer to a command.

    Raises:
        DeviceError: the bytes are not an answer to it.
    """
    return codec.unpack(_ANSWERS.get(type(command), type(None)), data)

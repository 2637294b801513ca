"""The commands that a client sends to a board's worker, and the types of their answers.

A command of plain values is the worker's own (:mod:`harness.worker.commands`). A command that names a file, a runtime
or another board has a form of its own here: a file is its SHA-256, a runtime its name, a board its host and port. So
no path and no module's name comes over the network.
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
    """Start a fresh worker. ``meters``: names of the board's own meters, as its description lists them."""

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
    """Load an ONNX file that the board holds under a part's name; the answer is the session's facts.

    ``runtime`` is a runtime's name, ``device`` what it computes on: ``cpu``, ``cuda:N`` or ``tensorrt:N``.
    """

    part: str
    runtime: str
    sha256: str
    artifact: ShippedArtifact
    device: str

    @property
    def name(self) -> str:
        return f"load {self.part}"


@dataclass(frozen=True, kw_only=True)
class Served:
    """How other boards reach the worker: the ticket that they show, and the agent's port for frames."""

    ticket: str
    port: int


@dataclass(frozen=True)
class Serve(Command[Served]):
    """Answer the central board's queries from now on. Repeating it gives the same ticket."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another board, as the central board reaches it: ``target`` (host:port), ``certificate`` (PEM), ``ticket``."""

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
"""The kinds of command that an agent takes, by their names."""

_ANSWERS: Mapping[type[Command[Any]], Any] = {
    LoadFile: dict[str, Any],
    Serve: Served,
    InferFile: codec.Tensor,
    MeasureFile: Samples,
    End: DeviceReport,
}
"""The types of answers; the other commands have none."""


def command_of(kind: str, value: str) -> Command[Any]:
    """Return the command of a message: its kind and its fields as JSON.

    Raises:
        DeviceError: the kind is not allowed, or the fields are not those of the kind.
    """
    if kind not in ALLOWED:
        raise DeviceError(f"no command {kind[:40]!r}; allowed: {', '.join(ALLOWED)}")
    return codec.from_json(ALLOWED[kind], value)


def answer_of(command: Command[Any], data: bytes) -> Any:
    """Return what an agent answered to a command.

    Raises:
        DeviceError: the bytes are no answer to it.
    """
    return codec.unpack(_ANSWERS.get(type(command), type(None)), data)

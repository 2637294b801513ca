"""Runtimes: their entries, the artifacts that they export and the sessions that they load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.types.context import Context
from harness.types.json import Facts
from harness.types.models import Part, TensorSpec
from harness.types.params import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


__all__ = ["Artifact", "RuntimeEntry", "Session", "SessionOptions"]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An exported part in a folder, which a worker loads. ``meta`` is JSON.

    ``precision`` is the requested precision. A session's facts have the actual precision.
    """

    path: Path
    runtime: str
    precision: str
    weight_bytes: int
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    meta: Facts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The options with which a worker loads an artifact. ``device`` is ``"cpu"``, ``"cuda:N"`` or ``"tensorrt:N"``."""

    threads: int = 1
    device: str = "cpu"


class Session(Protocol):
    """A loaded artifact. ``facts`` describe what actually runs: precision, provider, version, threads."""

    @property
    def facts(self) -> Facts:
        """Return what actually runs: precision, provider, version, threads."""
        ...

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Run one forward pass. ``inputs`` are [n, ...] in the order of the part's edges; the output is [n, ...].

        Return when the result is in host memory. It may lie in memory that the next call overwrites. The inputs may
        only be read.
        """
        ...

    def close(self) -> None:
        """Release the memory of the artifact."""
        ...


@dataclass(frozen=True, kw_only=True)
class RuntimeEntry(Entry):
    """A runtime. ``export(ctx, part, params)`` runs in a process with torch and writes into ``ctx.workdir``.

    ``load(artifact, options)`` runs in the worker. ``precision(params)`` names the requested element type.
    ``tolerance(params)`` is the greatest difference from the built module that parity allows: max |a - b| / max |b|,
    on the logits of 256 fixed samples. ``devices`` are the kinds of devices on which it runs. ``preload`` are modules
    that a forkserver imports once, so that workers start fast. They must only import. ``format`` is the format of the
    artifacts, such as ``onnx``. A device that names formats takes no other.
    """

    export: Callable[[Context, Part, Any], Artifact]
    load: Callable[[Artifact, SessionOptions], Session]
    precision: Callable[[Any], str]
    tolerance: Callable[[Any], float]
    devices: frozenset[str] = frozenset({"cpu"})
    preload: tuple[str, ...] = ()
    format: str = ""

    @property
    def artifact_format(self) -> str:
        """Return ``format``. An entry for 0.1.0 has none, and exports ONNX files if it requires ``onnx``."""
        return self.format or ("onnx" if "onnx" in self.requires else "")

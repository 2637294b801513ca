"""The value types that travel between the rooms of the harness.

Importing this module never imports torch. Shapes never count the batch dimension.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = [
    "IMAGE",
    "Artifact",
    "BackendEntry",
    "CompressorEntry",
    "Context",
    "Counts",
    "Data",
    "DataInfo",
    "Dataset",
    "DatasetEntry",
    "Device",
    "DeviceInfo",
    "DeviceSpec",
    "Edge",
    "Evaluation",
    "FitResult",
    "Fleet",
    "Lineage",
    "Load",
    "Meter",
    "MeterEntry",
    "MeterInfo",
    "Model",
    "ModelEntry",
    "ModuleSpec",
    "Params",
    "Part",
    "PartSketch",
    "Partition",
    "PartitionerEntry",
    "Placement",
    "PlacerEntry",
    "Provenance",
    "RuntimeEntry",
    "Samples",
    "Scenario",
    "Session",
    "SessionOptions",
    "Sketch",
    "Split",
    "TensorSpec",
    "Unavailable",
]

Provenance = Literal["measured", "fitted", "modelled", "emulated", "simulated", "published"]
Scenario = Literal["single-stream", "offline", "multi-stream", "server"]

IMAGE = "image"
"""The name under which a part asks for the network's input."""


class Params(BaseModel):
    """Base of every entry's parameters: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- tensors, modules, models -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape (without the batch dimension) and element type of a tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """How any process rebuilds a module: an importable factory and its JSON parameters.

    ``factory`` is ``"package.module:function"``; ``function(**params)`` returns a ``torch.nn.Module``
    with random weights, into which a saved state dict fits.
    """

    factory: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> torch.nn.Module:
        module, _, name = self.factory.partition(":")
        made: torch.nn.Module = getattr(importlib.import_module(module), name)(**self.params)
        return made


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One preparing step in a model's history, as it stands in the record.

    ``train_macs`` is what training cost: image-passes times the MACs of the forward pass of what
    each pass ran through (docs/measuring.md); ``train_s`` its wall time in seconds.
    """

    stage: str
    entry: str
    params: Mapping[str, Any]
    image_passes: int = 0
    train_macs: int = 0
    train_s: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A module, how to rebuild it, what goes in, and how many classes come out."""

    module: torch.nn.Module
    spec: ModuleSpec
    input: TensorSpec
    classes: int
    lineage: tuple[Lineage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One input of a part.

    ``source`` is ``"image"`` or another part's name; ``wire_dtype`` the element type sent between
    devices; ``missing`` what stands in when the source does not answer (``None``: nothing may).
    """

    source: str
    tensor: TensorSpec
    wire_dtype: str = "float32"
    missing: Literal["zeros"] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named piece of a partition; ``module(*inputs)`` takes one tensor per edge, in order."""

    name: str
    module: torch.nn.Module
    spec: ModuleSpec
    inputs: tuple[Edge, ...]
    output: TensorSpec


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Parts in an order in which each comes after its inputs; the last one gives the logits."""

    parts: tuple[Part, ...]
    classes: int
    lineage: tuple[Lineage, ...] = ()

    def __post_init__(self) -> None:
        seen = {IMAGE}
        for part in self.parts:
            for edge in part.inputs:
                if edge.source not in seen:
                    raise ValueError(f"part {part.name!r} needs {edge.source!r}, which no earlier part gives")
            if part.name in seen:
                raise ValueError(f"two parts are named {part.name!r}")
            seen.add(part.name)
        used = {edge.source for part in self.parts for edge in part.inputs}
        unused = [part.name for part in self.parts[:-1] if part.name not in used]
        if not self.parts or unused:
            raise ValueError(f"parts whose output nobody uses: {', '.join(unused) or 'there is no part'}")


@dataclass(frozen=True, kw_only=True)
class PartSketch:
    """What planning knows of a part: counts for one sample, bytes, and where its inputs come from."""

    name: str
    inputs: tuple[str, ...]
    params: int
    macs: int
    weight_bytes: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A partition before it is trained. ``placement`` is set where the method itself decides it.

    ``decisions`` are what the method's algorithm chose (heads per sub-model, the cut); JSON only.
    """

    parts: tuple[PartSketch, ...]
    placement: Placement | None = None
    decisions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Part name -> index into the fleet's devices."""

    device_of: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one part or model holds and does for one sample (batch 1).

    ``macs``: all multiply-accumulates, attention included. ``macs_linear``: linear and convolution
    layers only, plus their bias additions (the papers' convention). ``activation_bytes``: peak of
    live activations in eager execution. ``weight_bytes``: parameters and buffers as stored.
    """

    params: int
    macs: int
    macs_linear: int
    weight_bytes: int
    activation_bytes: int


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Static facts of a data set. ``missing`` says why it cannot be read here, and how to get it.

    ``shape`` is (channels, height, width), the last two 0 where images have no common size; ``sizes``
    maps "train" and "test" to sample counts (0 where unknown before loading); ``mean`` and ``std`` are
    per channel, on a 0..1 scale.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str = ""
    missing: str | None = None
    note: str = ""

    @property
    def classes(self) -> int:
        return len(self.class_names)


class Dataset(Protocol):
    """One split as stored: labels in memory, images decoded one at a time."""

    labels: NDArray[np.int64]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Image ``index``, uint8 [height, width, channels], in its stored size."""
        ...

    def __len__(self) -> int: ...


class Split(Protocol):
    """What training and evaluation read: labels, and float32 batches by sample indices."""

    labels: NDArray[np.int64]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Samples ``indices`` ready for the model, float32 [n, ...]."""
        ...

    def __len__(self) -> int: ...


class Data(Protocol):
    """The data set of a method: effective facts (after class selection, resizing) and its splits."""

    @property
    def info(self) -> DataInfo: ...
    @property
    def train(self) -> Split: ...
    @property
    def validation(self) -> Split: ...
    @property
    def test(self) -> Split: ...


# --- what a method may use ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a training did. ``history`` has one mapping per epoch (loss, lr, validation top1 ...)."""

    image_passes: int
    train_macs: int
    train_s: float
    epochs: int
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """``logits`` float32 [n, classes]; ``top1`` and ``top5`` in percent."""

    logits: NDArray[np.float32]
    top1: float
    top5: float
    n: int


class Context(Protocol):
    """All that a builder, compressor or partitioner gets of the harness."""

    @property
    def data(self) -> Data:
        """The method's data set, loaded on first use."""
        ...

    seed: int
    device: str
    workdir: Path

    def fit(
        self,
        module: torch.nn.Module,
        *,
        loss: Callable[[torch.nn.Module, Any], torch.Tensor] | None = None,
        data: Split | None = None,
        validation: Split | None = None,
        name: str = "fit",
        **overrides: Any,
    ) -> FitResult:
        """Train ``module`` in place with the method's recipe (``overrides`` replace its keys).

        ``loss(module, batch)`` returns a scalar; ``batch`` has ``inputs`` [n, ...], ``labels`` [n]
        and ``index`` [n], the samples' positions in ``data`` (to look up cached teacher outputs).
        The default is cross-entropy with the recipe's label smoothing. Parameters with
        ``requires_grad=False`` are left alone. Resumes from ``workdir`` after a kill; ``name`` must
        differ between the fits of one step.
        """
        ...

    def evaluate(self, module: torch.nn.Module, data: Split | None = None) -> Evaluation:
        """Run ``module`` over a split (the validation split by default; test data is not for methods)."""
        ...

    def once(self, key: str, fn: Callable[[], Model]) -> Model:
        """``fn()``, computed once for all steps that share data, recipe, seed, plugin and ``key``."""
        ...

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Tell a person watching what happens now."""
        ...


# --- artifacts, sessions, devices ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An exported part in a folder: what a worker loads. ``meta`` is JSON.

    ``precision`` is the one asked for; a session tells the one that really runs.
    """

    path: Path
    runtime: str
    precision: str
    weight_bytes: int
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a worker loads an artifact. ``device`` is ``"cpu"`` or ``"cuda:N"``."""

    threads: int = 1
    device: str = "cpu"


class Session(Protocol):
    """A loaded artifact. ``facts`` tells what really runs: precision, provider, version, threads."""

    facts: Mapping[str, Any]

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """One synchronous forward pass: inputs [n, ...] in the part's edge order -> output [n, ...].

        Returns only when the result is in host memory.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Something that was looked for and can't be used: why, and what to do about it."""

    name: str
    reason: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """A device as found: ``model`` is its hardware (board keys compare it), ``kind`` cpu or cuda ..."""

    name: str
    backend: str
    model: str
    kind: str
    cores: int
    memory_bytes: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """A device as a suite names it: backend, the backend's parameters, threads per worker."""

    name: str
    backend: str
    params: Params
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices that run one partition; ``central`` is the index of the one that fuses."""

    devices: tuple[DeviceInfo, ...]
    central: int = 0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What load to generate, and when to stop: both minima met, or the maximum time."""

    scenario: Scenario = "single-stream"
    batch: int = 1
    min_time_s: float = 1.0
    min_queries: int = 662
    max_time_s: float = 60.0
    warmup_max_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples of one measuring window, all from one process.

    ``latency_ns`` int64 [n]: one query each; ``first_ns`` the very first inference after loading;
    ``warmup_ns`` those before steady state; ``timeline`` per-part nanoseconds, int64 [n] each
    (``compute:PART``, ``wait:PART``); ``memory`` in bytes; ``environment`` the window's signals.
    """

    latency_ns: NDArray[np.int64]
    warmup_ns: NDArray[np.int64]
    first_ns: int
    window_ns: int
    batch: int
    steady: bool
    reached: bool
    timeline: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Device(Protocol):
    """An opened device: one fresh worker. Use as a context manager; closing ends the worker.

    The order is ``load`` (once per part), ``infer`` or ``measure`` (any number), ``close``.
    """

    info: DeviceInfo

    def load(self, name: str, artifact: Artifact, runtime: RuntimeEntry) -> Mapping[str, Any]:
        """Load an artifact under a part's name; returns the session's facts."""
        ...

    def connect(self, inputs: Mapping[str, tuple[str, ...]], peers: Mapping[str, Device]) -> None:
        """Make this device the central node.

        ``inputs`` maps each part, in order, to the names it takes; ``peers`` maps a part that is
        loaded on another device to that device. The last part's output is the answer.
        """
        ...

    def infer(self, images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
        """Answers for ``images`` [n, ...], in queries of ``batch`` (the last one may be smaller)."""
        ...

    def measure(self, load: Load, images: NDArray[np.float32]) -> Samples:
        """Generate the load over ``images`` [m, ...] (cycled) next to the sessions; raw samples."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Device: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# --- meters (no plugin gives one yet) -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeterInfo:
    """A meter that answers. ``scope``: wall, board, rails, package or gpu."""

    name: str
    scope: Literal["wall", "board", "rails", "package", "gpu"]
    provenance: Provenance
    quantity: Literal["energy", "power"]
    period_s: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Meter(Protocol):
    """An opened meter."""

    info: MeterInfo

    def read(self) -> tuple[int, float]:
        """(monotonic nanoseconds, joules since an arbitrary start | watts now)."""
        ...

    def close(self) -> None: ...


# --- entries: what plugins give -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """``requires`` names modules that must be importable, ``extra`` the extra that brings them."""

    name: str
    summary: str
    params: type[Params] = Params
    requires: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelEntry(_Entry):
    """A model builder.

    ``build(ctx, params)`` returns the model before training (the harness trains it with the
    method's recipe; ``train: {epochs: 0}`` leaves it as built).
    ``describe(params, data)``, optional and without torch, tells at planning time what will be
    built; it raises ``ValueError`` for what cannot be.
    """

    build: Callable[[Context, Any], Model]
    describe: Callable[[Any, DataInfo], ModuleSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class CompressorEntry(_Entry):
    """A compressor: model in, smaller or retrained model out; they chain.

    ``changes`` declares what the result may not share with its input: "data" (it may be trained on
    another data set), "classes", "input". ``describe(spec, params, data)`` as for builders.
    """

    compress: Callable[[Context, Model, Any], Model]
    changes: frozenset[str] = frozenset()
    describe: Callable[[ModuleSpec, Any, DataInfo], ModuleSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class PartitionerEntry(_Entry):
    """A partitioner: one model in, parts out. ``sketch`` runs at planning time, without torch.

    ``sketch(spec, params, fleet)`` raises ``ValueError`` for a partition that cannot be made; ``spec``
    is ``None`` where the model's shape is not known before it is built.
    """

    sketch: Callable[[ModuleSpec | None, Any, Fleet], Sketch]
    partition: Callable[[Context, Model, Any, Sketch], Partition]


@dataclass(frozen=True, kw_only=True)
class PlacerEntry(_Entry):
    """Decides which device of a fleet runs which part."""

    place: Callable[[Sketch, Fleet, Any], Placement]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(_Entry):
    """A data set. ``describe(params)`` never downloads; ``load(params, split)`` takes train or test."""

    describe: Callable[[Any], DataInfo]
    load: Callable[[Any, str], Dataset]


@dataclass(frozen=True, kw_only=True)
class BackendEntry(_Entry):
    """A kind of device. ``probe()`` tells what is there, ``describe(spec)`` what a suite's device is;
    ``open(spec)`` starts a fresh worker on it.
    """

    probe: Callable[[], Iterable[DeviceInfo | Unavailable]]
    describe: Callable[[DeviceSpec], DeviceInfo | Unavailable]
    open: Callable[[DeviceSpec], Device]


@dataclass(frozen=True, kw_only=True)
class RuntimeEntry(_Entry):
    """A runtime. ``export(ctx, part, params)`` runs where torch is and writes into ``ctx.workdir``;
    ``load(artifact, options)`` runs in the worker.

    ``precision(params)`` names the element type asked for. ``tolerance(params)`` is the greatest
    difference to the built module that parity admits: max |a - b| over max |b|, on the logits of
    256 fixed samples. ``devices`` are the kinds it runs on; ``preload`` the modules that a
    forkserver imports once, so that workers start fast (imports only).
    """

    export: Callable[[Context, Part, Any], Artifact]
    load: Callable[[Artifact, SessionOptions], Session]
    precision: Callable[[Any], str]
    tolerance: Callable[[Any], float]
    devices: frozenset[str] = frozenset({"cpu"})
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MeterEntry(_Entry):
    """A kind of power or energy meter. ``probe()`` tries every query it needs."""

    probe: Callable[[], Iterable[MeterInfo | Unavailable]]
    open: Callable[[MeterInfo], Meter]

"""Modules, models and partitions, which preparing steps make and use."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from harness.types.json import Facts

if TYPE_CHECKING:
    import torch


__all__ = [
    "Counts",
    "Edge",
    "IMAGE",
    "Lineage",
    "Model",
    "ModuleSpec",
    "Part",
    "PartSketch",
    "Partition",
    "Placement",
    "Sketch",
    "StandIn",
    "StartingWeights",
    "TensorSpec",
    "TrainingCost",
]

IMAGE = "image"
"""The source of an edge that carries the network's input."""

StandIn: TypeAlias = Literal["zeros", "mean"]
"""The value that replaces the output of an absent part: zeros, or the mean of that output over training images."""

WIRE_TYPES = ("float32", "float16")
"""The element types in which an output may be sent between devices."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape (without the batch dimension) and element type of a tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """An importable factory and its JSON parameters, from which any process rebuilds a module.

    ``factory`` is ``"package.module:function"``; ``function(**params)`` returns a ``torch.nn.Module``
    with random weights, into which a saved state dict fits.
    """

    factory: str
    params: Facts = field(default_factory=dict)

    def build(self) -> torch.nn.Module:
        """Return a new module with random weights."""
        module: torch.nn.Module = pkgutil.resolve_name(self.factory)(**self.params)
        return module


class TrainingCost(Protocol):
    """The cost of training. A ``FitResult`` has that of one training, and a ``Lineage`` that of one preparing step."""

    @property
    def image_passes(self) -> int:
        """Return the number of forward passes in training, one per image."""
        ...

    @property
    def train_macs(self) -> int:
        """Return the multiply-accumulates of these forward passes."""
        ...

    @property
    def train_s(self) -> float:
        """Return the wall time in seconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One preparing step in a model's history, as in the record.

    ``image_passes`` counts the forward passes in training, one per image. ``train_macs`` is the sum of the MACs of
    these passes (docs/measuring.md). ``train_s`` is the wall time in seconds.
    """

    stage: str
    entry: str
    params: Facts
    image_passes: int = 0
    train_macs: int = 0
    train_s: float = 0.0
    notes: Facts = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        stage: str,
        entry: str,
        params: Facts,
        trainings: Sequence[TrainingCost],
        notes: Facts | None = None,
    ) -> Lineage:
        """Return the step of ``entry``. Its cost is the sum over ``trainings``.

        ``params`` and ``notes`` are JSON.
        """
        return cls(
            stage=stage,
            entry=entry,
            params=params,
            image_passes=sum(training.image_passes for training in trainings),
            train_macs=sum(training.train_macs for training in trainings),
            train_s=sum(training.train_s for training in trainings),
            notes=notes or {},
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """A module with its spec, its input tensor, and its number of classes."""

    module: torch.nn.Module
    spec: ModuleSpec
    input: TensorSpec
    classes: int
    lineage: tuple[Lineage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StartingWeights:
    """The pretrained weights from which a builder's model starts, and what of them fits the data. Known in planning.

    ``source`` names the weights. ``head`` says which of their classes answer for those of the data, or why the head is
    new. ``new_head``: the head has random weights. ``adapted``: what else differs from the weights, in words.
    """

    source: str
    head: str
    new_head: bool
    adapted: tuple[str, ...] = ()


def check_wire_dtype(name: str) -> None:
    """Raise ``ValueError`` if outputs cannot be sent in this element type."""
    if name not in WIRE_TYPES:
        raise ValueError(f"wire_dtype: {name!r}; allowed: {', '.join(WIRE_TYPES)}")


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One input of a part.

    ``source`` is ``"image"`` or another part's name. ``wire_dtype`` is the element type that is sent between devices.
    ``missing`` is the stand-in if the source does not answer: zeros, or the source's mean output over training
    images, which the export computes. ``None`` means that there is no stand-in.

    Raises:
        ValueError: ``wire_dtype`` or ``missing`` is none of these.
    """

    source: str
    tensor: TensorSpec
    wire_dtype: str = "float32"
    missing: StandIn | None = None

    def __post_init__(self) -> None:
        check_wire_dtype(self.wire_dtype)
        if self.missing not in (None, "zeros", "mean"):
            raise ValueError(f"missing: {self.missing!r}; allowed: zeros, mean, None")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named piece of a partition. ``module(*inputs)`` takes one tensor per edge, in order."""

    name: str
    module: torch.nn.Module
    spec: ModuleSpec
    inputs: tuple[Edge, ...]
    output: TensorSpec

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of the inputs: ``image`` or earlier parts."""
        return tuple(edge.source for edge in self.inputs)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Parts in an order in which each comes after its inputs. The last part gives the logits.

    ``groups`` are the classes of each sub-model, if each class belongs to exactly one sub-model. The greatest logit
    of a group is then the answer of that sub-model (``top1_oracle``).

    Raises:
        ValueError: the parts or the groups are not of this form.
    """

    parts: tuple[Part, ...]
    classes: int
    lineage: tuple[Lineage, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def whole(cls, model: Model) -> Partition:
        """Return a partition whose only part is ``model``."""
        part = Part(
            name="model",
            module=model.module,
            spec=model.spec,
            inputs=(Edge(source=IMAGE, tensor=model.input),),
            output=TensorSpec(shape=(model.classes,)),
        )
        return cls(parts=(part,), classes=model.classes, lineage=model.lineage)

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
        grouped = sorted(label for group in self.groups for label in group)
        if self.groups and grouped != list(range(self.classes)):
            raise ValueError(
                f"groups: each of the {self.classes} classes stands in one group, not {self.groups}"
            )


@dataclass(frozen=True, kw_only=True)
class PartSketch:
    """A part before it is trained: its counts for one sample, its bytes, and the sources of its inputs.

    ``spec`` builds its module. It is ``None`` if only training determines the module. ``wire_dtype`` is the element type
    in which its output will be sent (:class:`Edge`), so that a wrong one is refused before anything is trained; ``None``
    if the sketch does not say.

    Raises:
        ValueError: ``wire_dtype`` is not allowed.
    """

    name: str
    inputs: tuple[str, ...]
    params: int
    macs: int
    weight_bytes: int
    output_bytes: int
    spec: ModuleSpec | None = None
    wire_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.wire_dtype is not None:
            check_wire_dtype(self.wire_dtype)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A partition before it is trained. ``placement`` is set if the method itself decides it.

    ``decisions`` are the choices of the method's algorithm (heads per sub-model, the cut), as JSON.
    """

    parts: tuple[PartSketch, ...]
    placement: Placement | None = None
    decisions: Facts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The device of each part: part name -> index into the fleet's devices."""

    device_of: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The counts of one part or model for one sample (batch 1).

    ``macs`` are all multiply-accumulates, attention included. ``macs_linear`` are those of linear and convolution
    layers, plus their bias additions (the papers' convention). ``activation_bytes`` is the peak of live activations
    in eager execution. ``weight_bytes`` are the bytes of stored parameters and buffers.
    """

    params: int
    macs: int
    macs_linear: int
    weight_bytes: int
    activation_bytes: int

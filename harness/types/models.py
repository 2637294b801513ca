"""Modules, models and partitions: what preparing steps hand on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

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
    "TensorSpec",
    "TrainingCost",
]

IMAGE = "image"
"""The name under which a part asks for the network's input."""


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


class TrainingCost(Protocol):
    """What a training cost. A ``FitResult`` says it of one training, a ``Lineage`` of one preparing step."""

    @property
    def image_passes(self) -> int:
        """Forward passes in training, one per image."""
        ...

    @property
    def train_macs(self) -> int:
        """Multiply-accumulates of these passes."""
        ...

    @property
    def train_s(self) -> float:
        """Wall time in seconds."""
        ...


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

    @classmethod
    def of(
        cls,
        stage: str,
        entry: str,
        params: Mapping[str, Any],
        trainings: Sequence[TrainingCost],
        notes: Mapping[str, Any] | None = None,
    ) -> Lineage:
        """Return the step of ``entry``, whose cost is the sum over ``trainings``.

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
    devices; ``missing`` what stands in when the source does not answer: zeros, the source's mean output over
    training images (found at export), or ``None``: nothing may.
    """

    source: str
    tensor: TensorSpec
    wire_dtype: str = "float32"
    missing: Literal["zeros", "mean"] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named piece of a partition; ``module(*inputs)`` takes one tensor per edge, in order."""

    name: str
    module: torch.nn.Module
    spec: ModuleSpec
    inputs: tuple[Edge, ...]
    output: TensorSpec

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the inputs: ``image`` or earlier parts."""
        return tuple(edge.source for edge in self.inputs)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Parts in an order in which each comes after its inputs; the last one gives the logits.

    ``groups``, where each class is answered by one sub-model alone, are the sub-models' classes: then the
    logits of a group, compared with each other only, are that sub-model's answer (``top1_oracle``).
    """

    parts: tuple[Part, ...]
    classes: int
    lineage: tuple[Lineage, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

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
    """What planning knows of a part: counts for one sample, bytes, and where its inputs come from.

    ``spec`` builds its module; ``None`` where only training decides that.
    """

    name: str
    inputs: tuple[str, ...]
    params: int
    macs: int
    weight_bytes: int
    output_bytes: int
    spec: ModuleSpec | None = None


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

"""The content of an artifact's ``meta.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.types.models import Counts, Edge, Lineage, ModuleSpec, TensorSpec
from harness.types.runtimes import Artifact

__all__ = [
    "About",
    "DataMeta",
    "EvaluationMeta",
    "ExportMeta",
    "ExportedPart",
    "ModelMeta",
    "PartitionMeta",
    "StoredPart",
]


@dataclass(frozen=True, kw_only=True)
class About:
    """A description of an artifact for people: the stage, the entry and a label."""

    stage: str
    entry: str
    label: str


@dataclass(frozen=True, kw_only=True)
class ModelMeta:
    """A model. The weights are in a file beside ``meta.json``."""

    kind: Literal["model"] = "model"
    about: About
    spec: ModuleSpec
    input: TensorSpec
    classes: int
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part of a partition, as :class:`~harness.types.Part` without its module."""

    name: str
    spec: ModuleSpec
    output: TensorSpec
    inputs: tuple[Edge, ...]


@dataclass(frozen=True, kw_only=True)
class PartitionMeta:
    """A partition. The weights of each part are in a file beside ``meta.json``."""

    kind: Literal["partition"] = "partition"
    about: About
    parts: tuple[StoredPart, ...]
    classes: int
    groups: tuple[tuple[int, ...], ...]
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationMeta:
    """The predictions of an export on a test split, in a file beside ``meta.json``."""

    kind: Literal["evaluation"] = "evaluation"
    about: About


@dataclass(frozen=True, kw_only=True)
class DataMeta:
    """A decoded test split of ``n`` images. ``mean`` and ``std``: per channel, on a 0..1 scale."""

    kind: Literal["data"] = "data"
    about: About
    mean: tuple[float, ...]
    std: tuple[float, ...]
    n: int


@dataclass(frozen=True, kw_only=True)
class ExportedPart:
    """One part of an export.

    ``inputs``: names of earlier parts or ``image``. ``stand_ins``: input -> the stand-in for one sample of it, flat;
    empty for zeros. An input without a stand-in must arrive. ``wire_dtype``: element type in which the output is
    sent. The path of ``artifact`` is relative to the export's folder.
    """

    name: str
    inputs: tuple[str, ...]
    stand_ins: Mapping[str, tuple[float, ...]]
    wire_dtype: str
    output: TensorSpec
    counts: Counts
    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class ExportMeta:
    """An export: its parts, each after its inputs, the number of classes, and the model's history.

    ``groups``: see :class:`~harness.types.Partition`.
    """

    kind: Literal["export"] = "export"
    about: About
    parts: tuple[ExportedPart, ...]
    classes: int
    groups: tuple[tuple[int, ...], ...]
    lineage: tuple[Lineage, ...]

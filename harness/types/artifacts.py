"""The content of an artifact's ``meta.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.types.models import Counts, Lineage, TensorSpec
from harness.types.runtimes import Artifact

__all__ = ["About", "DataMeta", "ExportMeta", "ExportedPart"]


@dataclass(frozen=True, kw_only=True)
class About:
    """A description of an artifact for people: the stage, the entry and a label."""

    stage: str
    entry: str
    label: str


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

"""A plan: the nodes that prepare and the cells that measure, as plain values.

:func:`~harness.types.plain.to_json` and :func:`~harness.types.plain.from_json` carry a node or cell to another
process or machine, which can run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.types.data import DataChoice
from harness.types.devices import DeviceInfo
from harness.types.json import JsonObject
from harness.types.measure import Measure
from harness.types.meters import Monitor
from harness.types.models import Sketch
from harness.types.origin import EntryOrigin
from harness.types.params import JsonParams
from harness.types.plain import to_json
from harness.types.recipe import TrainRecipe

__all__ = [
    "Cell",
    "DataFacts",
    "CellTask",
    "DataRef",
    "DeviceRef",
    "RuntimeRef",
    "ExportTask",
    "Node",
    "Plan",
    "PrepareHost",
    "StepTask",
]


@dataclass(frozen=True, kw_only=True)
class PrepareHost:
    """The facts of the preparing machine that change trained weights. They are part of every key."""

    torch: str = ""
    timm: str = ""
    capability: str = ""
    device: str = "cpu"
    gpu: str = ""


# --- nodes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """A data set: the entry that loads it, the entry's parameters, and the part of it that is used.

    ``fingerprint``: that of the data when it was planned, or empty if it was not known.
    """

    entry: str
    params: JsonParams
    choice: DataChoice
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class StepTask:
    """Building, compressing or partitioning a model with one seed.

    ``each_part``: the compressor is applied to every part of a split model. ``data_key``: key of the data node.
    ``threads``: of each training process. ``device``: torch's name of the training device. ``sketch``: the planned
    sketch of a partition. ``made_with``: digest of the code and the machine that make the model.
    """

    stage: Literal["build", "compress", "partition"]
    entry: str
    params: JsonParams
    each_part: bool
    data: DataRef
    data_key: str
    train: TrainRecipe
    threads: int
    processes: int
    device: str
    sketch: Sketch | None
    made_with: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """Exporting a model for the runtime ``entry``, which has parameters ``params``.

    ``data_key``: key of the data node.
    """

    stage: Literal["export"] = "export"
    entry: str
    params: JsonParams
    data: DataRef
    data_key: str
    threads: int
    device: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One preparing step. ``inputs`` are keys of earlier nodes. The task of a data node is the data set."""

    key: str
    stage: Literal["data", "build", "compress", "partition", "export"]
    label: str
    entry: str
    plugin: str
    inputs: tuple[str, ...]
    task: StepTask | ExportTask | DataRef


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RuntimeRef:
    """A runtime and its parameters."""

    name: str
    params: JsonParams


@dataclass(frozen=True, kw_only=True)
class DeviceRef:
    """A device that a suite names: backend, the backend's parameters, threads of each worker."""

    name: str
    backend: str
    params: JsonParams
    threads: int


@dataclass(frozen=True, kw_only=True)
class DatasetRef:
    """The entry that loads a data set, and its parameters."""

    entry: str
    params: JsonParams


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts of the data on which a cell is measured.

    ``shape``: (channels, height, width). ``mean`` and ``std``: per channel, on a 0..1 scale.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    note: str
    choice: DataChoice
    dataset: DatasetRef


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """The facts that measuring a cell needs in addition to its artifacts.

    ``device``: name of the device or fleet. ``specs``, ``infos``, ``monitors``: one per device, but ``infos`` lacks
    devices that are not available. ``central``: index of the central device. ``input``: the form in which images are
    sent to other devices. ``placement``: part -> index of its device; None if the first device has all parts.
    ``threads``: of each worker. ``no_meter``: the reason why a meter is not read, or empty.
    """

    device: str
    specs: tuple[DeviceRef, ...]
    infos: tuple[DeviceInfo, ...]
    central: int
    fleet: bool
    input: Literal["tensor", "raw"]
    placement: Mapping[str, int] | None
    runtime: RuntimeRef
    measure: Measure
    threads: int
    data: DataFacts
    monitors: tuple[Monitor, ...]
    no_meter: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: a method, trained with one seed, on one device or fleet, in one set of processes.

    ``export`` and ``data`` are keys of nodes. ``origins``: the entries that it uses, with the code behind each.
    ``impossible`` says why the cell cannot be measured here. ``absent`` says which data it needs that are not here, and
    how to get them. A cell with either is recorded as skipped.
    """

    id: str
    method: str
    method_key: str
    seed: int
    repeat: int
    export: str
    data: str
    task: CellTask
    impossible: str | None = None
    absent: str | None = None
    origins: tuple[EntryOrigin, ...] = ()

    @property
    def skipped(self) -> str | None:
        """Return why the cell is not measured, or None if it can be."""
        return self.impossible or self.absent


# --- plans ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Nodes, each after its inputs, and cells in the order of measuring.

    ``nodes``: by key. ``missing_data``: the data sets that cells need and that are not here, each with its place in the
    suite and how to get it.
    """

    suite: str
    host: PrepareHost
    nodes: Mapping[str, Node]
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...] = ()
    missing_data: tuple[str, ...] = ()
    missing_extras: tuple[str, ...] = ()
    baseline: str | None = None
    rank_by: str = "top1"

    def needed_by(self, cell: Cell) -> list[str]:
        """Return the keys of all nodes on which ``cell`` depends, inputs first."""
        order: dict[str, None] = {}

        def visit(key: str) -> None:
            for parent in self.nodes[key].inputs:
                visit(parent)
            order.setdefault(key)

        if cell.export in self.nodes:
            visit(cell.export)
        return list(order)

    def to_json(self) -> JsonObject:
        """Return the plan for ``harness plan --json``."""
        return {
            "suite": self.suite,
            "prepared_on": to_json(self.host),
            "nodes": [to_json(node) for node in self.nodes.values()],
            "cells": [to_json(cell) for cell in self.cells],
            "warnings": list(self.warnings),
        }

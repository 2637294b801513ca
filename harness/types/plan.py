"""What a plan is: preparing nodes and measuring cells, as plain values.

A node or cell is plain JSON: another process or machine can run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Cell", "Node", "Plan", "PrepareHost"]


@dataclass(frozen=True, kw_only=True)
class PrepareHost:
    """What of the preparing machine changes trained weights, and so belongs into every key."""

    torch: str = ""
    timm: str = ""
    capability: str = ""
    device: str = "cpu"
    gpu: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One preparing step. ``stage``: data, build, compress, partition, export.

    ``inputs`` are keys of earlier nodes; ``task`` is all that ``harness.prepare.nodes`` needs, as JSON.
    """

    key: str
    stage: str
    label: str
    entry: str
    plugin: str
    inputs: tuple[str, ...]
    task: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: a method, trained with one seed, on one device or fleet, in one process set.

    ``impossible`` says why it cannot be measured here; such a cell is recorded as skipped.
    """

    id: str
    method: str
    method_key: str
    seed: int
    repeat: int
    export: str
    data: str
    task: Mapping[str, Any]
    impossible: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Nodes in an order in which each comes after its inputs, and cells in the order of measuring."""

    suite: str
    host: PrepareHost
    nodes: Mapping[str, Node]
    cells: tuple[Cell, ...]
    warnings: tuple[str, ...] = ()
    missing_data: tuple[str, ...] = ()
    missing_extras: tuple[str, ...] = ()
    baseline: str | None = None
    rank_by: str = "top1"
    origins: Mapping[str, str] = field(default_factory=dict)

    def needed_by(self, cell: Cell) -> list[str]:
        """Keys of all nodes that ``cell`` rests on, inputs first."""
        order: dict[str, None] = {}

        def visit(key: str) -> None:
            for parent in self.nodes[key].inputs:
                visit(parent)
            order.setdefault(key)

        if cell.export in self.nodes:
            visit(cell.export)
        return list(order)

    def to_json(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "prepared_on": asdict(self.host),
            "nodes": [asdict(node) for node in self.nodes.values()],
            "cells": [asdict(cell) for cell in self.cells],
            "warnings": list(self.warnings),
        }

"""Answers on the whole test split: of the devices, of this host, and without some parts. Each is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.measure.accuracy import Evaluations, Infer, evaluate, host
from harness.measure.cell_data import CellData
from harness.measure.deploy import graph_of
from harness.measure.robustness import droppable, missing_block, without
from harness.store.artifacts import Store
from harness.store.hashing import digest
from harness.types import RuntimeEntry
from harness.types.plain import to_json
from harness.worker import commands

__all__ = ["Evaluator"]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates one cell, or returns the answers that are kept from another cell that must give the same."""

    data: CellData
    evaluations: Evaluations
    store: Store
    runtime: RuntimeEntry

    def on_devices(self, infer: Infer) -> Mapping[str, Any]:
        """Return the answers of the cell's devices; see :func:`~harness.measure.accuracy.evaluate`."""
        cell = self.data.cell
        task = cell.task
        answered_by = [to_json(task.specs), task.placement, task.input, task.measure.batch]
        key = digest(["evaluation", cell.export, cell.data, *answered_by])
        return self.evaluations.once(
            key, f"{cell.method} seed {cell.seed} on {task.device}", lambda: evaluate(infer, self.data)
        )

    def on_host(self) -> Mapping[str, Any]:
        """Return the answers of a worker on this host's CPU. One evaluation serves all boards and placements."""
        cell = self.data.cell
        batch, threads = cell.task.measure.batch, cell.task.threads
        key = digest(["evaluation", "host", cell.export, cell.data, threads, batch])

        def answers() -> Mapping[str, Any]:
            with host(self.data, self.store, self.runtime) as process:
                process.ask(commands.Connect(graph_of(self.data.export), {}))
                infer = Infer(lambda images, size: process.ask(commands.Infer(images, size)), batch)
                return evaluate(infer, self.data)

        return self.evaluations.once(key, f"{cell.method} seed {cell.seed} on the host", answers)

    def without_parts(self) -> Mapping[str, Any]:
        """Return a record's ``accuracy.missing``: accuracy by number of missing parts, or why there is none."""
        cell = self.data.cell
        most = cell.task.measure.robustness
        if most is None:
            return {}
        graph = graph_of(self.data.export)
        if len(graph.parts) == 1:
            return {"why": "one whole model: nothing of it can be missing"}
        if not droppable(graph):
            return {"why": "its edges declare nothing that stands in for a missing part"}
        if "cpu" not in self.runtime.devices:
            return {"why": f"runtime {self.runtime.name} does not run on this host's CPU"}
        number = int(most.removeprefix("drop-"))
        key = digest(["missing", cell.export, cell.data, number, cell.seed])

        def count() -> Mapping[str, Any]:
            with host(self.data, self.store, self.runtime) as process:
                return without(process, graph, self.data, number)

        counted = self.evaluations.once(key, f"{cell.method} seed {cell.seed} without parts", count)
        return missing_block(graph, counted, self.data, number)

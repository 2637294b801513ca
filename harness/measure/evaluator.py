"""Predictions on the whole test split: of the devices, of this host, and without some parts. All are cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.measure.accuracy import Infer, predict_split, worker_on_host
from harness.measure.cell_data import CellData
from harness.measure.deploy import graph_of
from harness.measure.predictions import PredictionCache, Predictions
from harness.measure.robustness import count_correct, droppable, missing_parts
from harness.store.artifacts import Store
from harness.types import RuntimeEntry
from harness.types.figures import MissingParts
from harness.types.origin import code_that_measures
from harness.types.plain import to_json
from harness.worker import commands

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Evaluator"]


@dataclass(frozen=True)
class Evaluator:
    """The evaluation of one cell. It takes cached predictions of other cells that must have the same predictions."""

    data: CellData
    cache: PredictionCache
    store: Store
    runtime: RuntimeEntry

    def on_devices(self, infer: Infer) -> Predictions:
        """Return the predictions of the cell's devices. ``infer`` runs if they are not cached."""
        cell = self.data.cell
        task = cell.task
        code = code_that_measures(cell.origins)
        key = ["evaluation", cell.export, cell.data, to_json(task.specs), task.placement, task.input, code]
        label = f"{cell.method} seed {cell.seed} on {task.device}"
        return self._predictions([*key, task.measure.batch], label, lambda: predict_split(infer, self.data))

    def on_host(self) -> Predictions:
        """Return the predictions of a worker on this host's CPU. They are valid for all boards and placements."""
        cell = self.data.cell
        batch = cell.task.measure.batch
        key = ["evaluation", "host", cell.export, cell.data, cell.task.threads, batch]

        def make() -> Predictions:
            with worker_on_host(self.data, self.store, self.runtime) as process:
                process.ask(commands.Connect(graph_of(self.data.export), {}))
                infer = Infer(lambda images, size: process.ask(commands.Infer(images, size)), batch)
                return predict_split(infer, self.data)

        return self._predictions(key, f"{cell.method} seed {cell.seed} on the host", make)

    def _predictions(self, key: object, label: str, make: Callable[[], Predictions]) -> Predictions:
        return Predictions(**self.cache.get_or_make(key, label, lambda: make().to_arrays()))

    def without_parts(self) -> MissingParts:
        """Return the accuracy for each number of absent parts, or the reason why there is none.

        The result is empty if the suite does not ask for it.
        """
        cell = self.data.cell
        most = cell.task.measure.robustness
        if most is None:
            return MissingParts()
        graph = graph_of(self.data.export)
        if len(graph.parts) == 1:
            return MissingParts(why="one whole model: nothing of it can be missing")
        if not droppable(graph):
            return MissingParts(why="its edges name no stand-in for an absent part")
        if "cpu" not in self.runtime.devices:
            return MissingParts(why=f"runtime {self.runtime.name} does not run on this host's CPU")
        number = int(most.removeprefix("drop-"))

        def make() -> Mapping[str, NDArray[Any]]:
            with worker_on_host(self.data, self.store, self.runtime) as process:
                correct = count_correct(process, graph, self.data, number)
                return {str(size): counts for size, counts in correct.items()}

        key = ["missing", cell.export, cell.data, number, cell.seed]
        counted = self.cache.get_or_make(key, f"{cell.method} seed {cell.seed} without parts", make)
        correct = {int(size): counts for size, counts in counted.items()}
        return missing_parts(graph, correct, self.data)

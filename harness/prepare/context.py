"""The :class:`~harness.types.Context` of one preparing node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.opened import OpenedData, open_data
from harness.errors import CellError
from harness.plugins import Plugins
from harness.store.artifacts import Store
from harness.store.hashing import digest
from harness.store.saved import load_model, save_model
from harness.train.ranks import SINGLE_PROCESS, Ranks
from harness.types import Data, Evaluation, FitResult, Model, Split
from harness.types.artifacts import About
from harness.types.plain import to_json
from harness.types.plan import DataRef, ExportTask, StepTask
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

__all__ = ["PrepareContext", "open_task_data"]


def open_task_data(ref: DataRef, plugins: Plugins) -> OpenedData:
    """Open the data set that a node's task names.

    Raises:
        BrokenContract: the data set's plugin returned something that is not a data set.
        CellError: the data has changed since it was planned: a result of it must not be stored under the key of the
            old data.
    """
    entry = plugins.datasets.get(ref.entry).entry
    data = open_data(entry, entry.params(**ref.params), ref.choice, need=plugins.datasets.need(ref.entry))
    if ref.fingerprint not in ("", data.info.fingerprint):
        raise CellError(
            f"{data.info.name}: the data has changed since it was planned; run again", stage="data"
        )
    return data


class PrepareContext:
    """The :class:`~harness.types.Context` of one node, through which a plugin's code uses the harness.

    ``fit`` and ``once`` are for steps that make a model. An export has no recipe and no shared model, so they raise
    :class:`~harness.errors.CellError` there.
    """

    def __init__(
        self,
        task: StepTask | ExportTask,
        plugins: Plugins,
        store: Store,
        workdir: Path,
        progress: Callable[[str, float | None], None],
        plugin: str,
        ranks: Ranks = SINGLE_PROCESS,
        workers: int = 0,
    ) -> None:
        self.seed: int = task.seed
        self.device: str = ranks.device(task.device)
        self.workdir = workdir
        self.workers = workers
        self._task = task
        self._plugins = plugins
        self._store = store
        self._progress = progress
        self._plugin = plugin
        self._ranks = ranks
        self._data: Data | None = None

    @property
    def data(self) -> Data:
        """Return the method's data set. It is loaded at the first use."""
        if self._data is None:
            self._data = open_task_data(self._task.data, self._plugins)
        return self._data

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
        """Train ``module`` on the node's device.

        Checkpoints are written to ``workdir``, so a killed training resumes.
        """
        from harness.train.loop import fit

        recipe = TrainRecipe(**{**self._step("fit").train.model_dump(), **overrides})
        if data is None:
            data = self.data.train
            validation = self.data.validation if validation is None else validation
        return fit(
            module,
            recipe,
            data,
            validation,
            loss=loss,
            seed=self.seed,
            device=self.device,
            folder=self.workdir,
            progress=self.progress,
            name=name,
            ranks=self._ranks,
            workers=self.workers,
            set_aside=self._store.put_aside,
        )

    def evaluate(self, module: torch.nn.Module, data: Split | None = None) -> Evaluation:
        """Evaluate ``module`` on rank 0. The other ranks get the same result."""
        from harness.train.evaluation import evaluate

        split = self.data.validation if data is None else data
        return self._ranks.broadcast_object(
            "an evaluation", lambda: evaluate(module, split, device=self.device, workers=self.workers)
        )

    def once(self, key: str, fn: Callable[[], Model]) -> Model:
        """Return the model that the store has under ``key``, or store ``fn()``. All ranks get the model of rank 0."""
        full = digest(["once", self._plugin, key, _training(self._step("once"))])
        with self._store.making(full) if self._ranks.rank == 0 else nullcontext() as folder:
            if self._ranks.broadcast_object(f"once {full}", lambda: folder is not None):
                model = fn()
                if folder is not None:
                    save_model(model, folder, About(stage="once", entry=key, label=self._plugin))
        return load_model(self._ranks.broadcast_object(f"made {full}", lambda: self._store.folder(full)))

    def _step(self, used: str) -> StepTask:
        if not isinstance(self._task, StepTask):
            raise CellError(f"an export cannot use ctx.{used}: it trains nothing", stage=self._task.stage)
        return self._task

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Show a text, and the share of the work that is done (0 to 1), if it is known."""
        self._progress(text, fraction)


def _training(task: StepTask) -> object:
    """Return, for a digest, the content of a step that determines the result of its training."""
    return to_json(
        {
            "data": task.data,
            "data_key": task.data_key,
            "train": task.train,
            "seed": task.seed,
            "threads": task.threads,
            "processes": task.processes,
            "device": task.device,
            "made_with": task.made_with,
        }
    )

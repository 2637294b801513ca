"""What a method gets of the harness: the :class:`~harness.types.Context` of one preparing node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.choice import DataChoice
from harness.data.opened import open_data
from harness.plugins import Plugins
from harness.store.artifacts import Store
from harness.store.hashing import digest
from harness.store.saved import load_model, save_model
from harness.train.ranks import ALONE, Ranks
from harness.types import Data, Evaluation, FitResult, Model, Split

if TYPE_CHECKING:
    import torch

__all__ = ["PrepareContext", "open_task_data"]

_SHARED = ("data", "train", "seed", "threads", "processes", "device", "made_with")
"""What of a task decides what comes out of training."""


def open_task_data(task: Mapping[str, Any], plugins: Plugins) -> Data:
    """The data set that a node's task names."""
    entry = plugins.datasets.get(task["entry"]).entry
    return open_data(entry, entry.params(**task["params"]), DataChoice(**task["choice"]))


class PrepareContext:
    """The :class:`~harness.types.Context` of one node."""

    def __init__(
        self,
        task: Mapping[str, Any],
        plugins: Plugins,
        store: Store,
        workdir: Path,
        progress: Callable[[str, float | None], None],
        plugin: str,
        ranks: Ranks = ALONE,
    ) -> None:
        self.seed: int = task["seed"]
        self.device: str = ranks.device(task["device"])
        self.workdir = workdir
        self._task = task
        self._plugins = plugins
        self._store = store
        self._progress = progress
        self._plugin = plugin
        self._ranks = ranks
        self._data: Data | None = None

    @property
    def data(self) -> Data:
        if self._data is None:
            self._data = open_task_data(self._task["data"], self._plugins)
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
        from harness.train.loop import TrainRecipe, fit

        recipe = TrainRecipe(**{**self._task["train"], **overrides})
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
        )

    def evaluate(self, module: torch.nn.Module, data: Split | None = None) -> Evaluation:
        from harness.train.loop import evaluate

        split = self.data.validation if data is None else data
        return self._ranks.lead("an evaluation", lambda: evaluate(module, split, device=self.device))

    def once(self, key: str, fn: Callable[[], Model]) -> Model:
        shared = {name: self._task[name] for name in _SHARED}
        full = digest(["once", self._plugin, key, shared, self._task.get("data_key")])
        with self._store.making(full) if self._ranks.rank == 0 else nullcontext() as folder:
            if self._ranks.lead(f"once {full}", lambda: folder is not None):
                model = fn()
                if folder is not None:
                    save_model(model, folder, {"stage": "once", "entry": key, "label": self._plugin})
        return load_model(self._ranks.lead(f"made {full}", lambda: self._store.folder(full)))

    def progress(self, text: str, fraction: float | None = None) -> None:
        self._progress(text, fraction)

"""A context over small synthetic data, for tests of plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from harness.hookspecs import hookimpl
from harness.plugins import GROUP, load_plugins
from harness.prepare.context import PrepareContext
from harness.store.artifacts import Store
from harness.types import Context, DataInfo, DatasetEntry, Lineage, Model, ModelEntry, Params
from harness.types.data import DataChoice
from harness.types.json import Facts
from harness.types.params import Entry
from harness.types.plan import DataRef, StepTask
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ParamsLike", "RECIPE", "TINY_VIT", "make_context", "make_model", "make_params", "seeded"]


RECIPE = {"epochs": 1, "batch_size": 16, "schedule": "none"}


TINY_VIT = {"patch_size": 4, "dim": 24, "depth": 3, "heads": 3}


ParamsLike = Params | Facts | None


class _Blobs:
    """The images of one split: one pattern per class, plus noise."""

    def __init__(self, info: DataInfo, n: int, seed: int) -> None:
        channels, height, width = info.shape
        size = (height, width, channels)
        patterns = np.random.RandomState(0).uniform(64, 192, (info.classes, *size))
        noise = np.random.RandomState(seed).normal(0, 16, (n, *size))
        self.labels = np.arange(n, dtype=np.int64) % info.classes
        self._images = np.clip(patterns[self.labels] + noise, 0, 255).astype(np.uint8)

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._images[index]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.labels)


class _BlobsPlugin:
    """A plugin with the synthetic data set, so that a context loads the data like any other."""

    def __init__(self, info: DataInfo) -> None:
        self.info = info

    @hookimpl  # type: ignore[untyped-decorator]
    def harness_datasets(self) -> Iterable[DatasetEntry]:
        yield DatasetEntry(
            name=self.info.name,
            summary="a pattern per class, plus noise",
            describe=lambda params: self.info,
            load=lambda params, split: _Blobs(self.info, self.info.sizes[split], seed=1 + (split == "test")),
        )


def make_context(
    tmp_path: Path,
    *,
    classes: int = 3,
    shape: tuple[int, int, int] = (1, 16, 16),
    train: int = 64,
    test: int = 32,
    seed: int = 0,
    recipe: Facts | None = None,
) -> Context:
    """Return a context like the one that a builder, compressor or partitioner gets, over synthetic data.

    The data are ``train`` and ``test`` images [channels, height, width] of easily separable classes. An eighth of
    ``train`` is for validation. ``recipe`` replaces keys of the training recipe (one epoch, batches of 16, constant
    learning rate). ``seed`` is the training seed. Everything runs on the CPU and writes below ``tmp_path``.
    """
    info = DataInfo(
        name="blobs",
        shape=shape,
        class_names=tuple(f"class {i}" for i in range(classes)),
        sizes={"train": train, "test": test},
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        fingerprint=f"blobs {classes} {shape} {train} {test}",
    )
    installed = {point.name for point in entry_points(group=GROUP)}
    plugins = load_plugins(block=installed, extra={"testing": _BlobsPlugin(info)})
    task = StepTask(
        stage="build",
        entry="",
        params={},
        each_part=False,
        data=DataRef(entry="blobs", params={}, choice=DataChoice(name="blobs", validation=0.125)),
        data_key=info.fingerprint,
        train=TrainRecipe(**{**RECIPE, **(recipe or {})}),
        threads=1,
        processes=1,
        device="cpu",
        sketch=None,
        made_with="",
        seed=seed,
    )
    workdir = tmp_path / "work"
    workdir.mkdir(parents=True, exist_ok=True)
    store = Store(tmp_path / "cache")
    return PrepareContext(task, plugins, store, workdir, lambda text, fraction: None, "testing")


def make_model(ctx: Context, build: str | ModelEntry = "vit", params: ParamsLike = None) -> Model:
    """Build a model, train it with the context's recipe, and return it.

    ``build`` is an entry, or the name of an installed entry. Without ``params`` the entry ``vit`` builds a tiny
    model.
    """
    if isinstance(build, str):
        params = TINY_VIT if build == "vit" and params is None else params
        build = load_plugins().models.get(build).entry
    checked = make_params(build, params)
    model: Model = seeded(ctx, build.build, checked)
    fit = ctx.fit(model.module, name="train")
    step = Lineage.of("build", build.name, checked.model_dump(mode="json"), [fit])
    return replace(model, lineage=(*model.lineage, step))


def make_params(entry: Entry, params: ParamsLike) -> Params:
    """Return ``params`` checked as an entry's parameters.

    Raises:
        AssertionError: a parameter is unknown or has a wrong value.
    """
    if isinstance(params, Params):
        return params
    try:
        return entry.params(**(params or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "params"
        raise AssertionError(f"{entry.name!r}: {where}: {first['msg']}") from None


def seeded(ctx: Context, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a plugin's function with torch seeded, as the harness does, and return its result."""
    import torch

    torch.manual_seed(ctx.seed)
    return function(ctx, *arguments)

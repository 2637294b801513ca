"""Runs preparing nodes in a child process: the only place of the core where torch is at work.

The parent sends nodes over a pipe and gets progress and results back; what a node makes goes into the
artifact store.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import CellError, HarnessError, first_line
from harness.plugins import Plugins
from harness.prepare.context import PrepareContext, open_task_data
from harness.prepare.export import _export
from harness.store.artifacts import Store
from harness.store.saved import load_model, load_partition, save_model, save_partition, write_meta
from harness.train.ranks import ALONE, Ranks
from harness.types import (
    IMAGE,
    Context,
    Lineage,
    Model,
    ModuleSpec,
    Part,
    Partition,
    PartSketch,
    Placement,
    Sketch,
)

__all__ = ["failure", "run_along", "run_node"]


def failure(node: Mapping[str, Any], error: Exception) -> tuple[Any, ...]:
    """The message that ``error`` ended ``node``; called where it is handled."""
    stage, text, trace = node["stage"], str(error), ""
    if isinstance(error, CellError):
        stage = error.stage
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, HarnessError):
        text, trace = first_line(error, kind=True), traceback.format_exc()
    return ("failed", node["key"], stage, node["plugin"], text, trace)


def run_node(
    node: Mapping[str, Any],
    plugins: Plugins,
    store: Store,
    progress: Callable[[str, float | None], None] = lambda text, fraction: None,
    ranks: Ranks = ALONE,
) -> Any:
    """Make one node's artifact, unless it exists. ``node`` is a :class:`~harness.types.plan.Node` as JSON."""
    task = node["task"]
    if node["stage"] == "preprocess":
        return _preprocess_ms(task, plugins)
    with store.making(node["key"]) as folder:
        if folder is None:
            return None
        about = {"stage": node["stage"], "entry": node["entry"], "label": node["label"]}
        if node["stage"] == "data":
            _save_data(folder, open_task_data(task, plugins), about)
            return None
        if node["stage"] == "export":
            context = PrepareContext(task, plugins, store, folder, progress, node["plugin"])
            _export(folder, node, plugins, store, context, about)
            return None
        workdir = store.workdir(node["key"])
        context = PrepareContext(task, plugins, store, workdir, progress, node["plugin"], ranks)
        with ranks.together(node):
            made = _make(node, plugins, store, context)
        if isinstance(made, Partition):
            save_partition(made, folder, about)
        else:
            save_model(made, folder, about)
    return None


def run_along(node: Mapping[str, Any], plugins: Plugins, store: Store, ranks: Ranks) -> None:
    """Take part in a node that rank 0 makes; what comes out here is the same, and is not kept."""
    workdir = store.workdir(node["key"]) / f"rank{ranks.rank}"
    workdir.mkdir(exist_ok=True)

    def quiet(text: str, fraction: float | None) -> None:
        pass

    context = PrepareContext(node["task"], plugins, store, workdir, quiet, node["plugin"], ranks)
    _make(node, plugins, store, context)


# --- making -----------------------------------------------------------------------------------------


def _make(
    node: Mapping[str, Any], plugins: Plugins, store: Store, context: PrepareContext
) -> Model | Partition:
    import torch

    task = node["task"]
    torch.manual_seed(task["seed"])
    if node["stage"] == "build":
        return _build(task, plugins, context)
    source = store.folder(node["inputs"][0])
    if node["stage"] == "partition":
        partitioner = plugins.partitioners.get(task["entry"]).entry
        params = partitioner.params(**task["params"])
        before = load_model(source)
        split = partitioner.partition(context, before, params, _sketch(task["sketch"]))
        return split if split.lineage else replace(split, lineage=before.lineage)
    compressor = plugins.compressors.get(task["entry"]).entry
    params = compressor.params(**task["params"])
    if not task["each_part"]:
        return compressor.compress(context, load_model(source), params)
    partition = load_partition(source)
    parts, lineage = [], partition.lineage
    for part in partition.parts:
        smaller, steps = _compress_part(context, compressor, part, params)
        parts.append(smaller)
        lineage += steps
    return replace(partition, parts=tuple(parts), lineage=lineage)


def _build(task: Mapping[str, Any], plugins: Plugins, context: PrepareContext) -> Model:
    builder = plugins.models.get(task["entry"]).entry
    model = builder.build(context, builder.params(**task["params"]))
    step = Lineage(stage="build", entry=task["entry"], params=task["params"])
    if task["train"]["epochs"] == 0:
        return replace(model, lineage=(*model.lineage, step))
    result = context.fit(model.module, name="train")
    step = replace(
        step,
        image_passes=result.image_passes,
        train_macs=result.train_macs,
        train_s=result.train_s,
        notes={"epochs": result.epochs, "train": task["train"], "history": list(result.history)},
    )
    return replace(model, lineage=(*model.lineage, step))


def _compress_part(
    context: Context, compressor: Any, part: Part, params: Any
) -> tuple[Part, tuple[Lineage, ...]]:
    """A part that reads the image alone is a model of its own; parts that fuse stay as they are."""
    if tuple(edge.source for edge in part.inputs) != (IMAGE,):
        return part, ()
    model = Model(
        module=part.module, spec=part.spec, input=part.inputs[0].tensor, classes=part.output.shape[-1]
    )
    smaller: Model = compressor.compress(context, model, params)
    return replace(part, module=smaller.module, spec=smaller.spec), smaller.lineage


def _sketch(task: Mapping[str, Any]) -> Sketch:
    placement = task["placement"]
    parts = []
    for part in task["parts"]:
        spec = ModuleSpec(**part["spec"]) if part["spec"] else None
        parts.append(PartSketch(**{**part, "inputs": tuple(part["inputs"]), "spec": spec}))
    return Sketch(
        parts=tuple(parts),
        placement=Placement(device_of=placement["device_of"]) if placement else None,
        decisions=task["decisions"],
    )


def _save_data(folder: Path, data: Any, about: Any) -> None:
    """The test split, decoded and resized: uint8 [n, height, width, channels], and its labels."""
    import numpy as np

    n = len(data.test)
    first = data.test.raw([0])
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(n, *first.shape[1:])
    )
    for start in range(0, n, 256):
        indices = list(range(start, min(start + 256, n)))
        images[start : start + len(indices)] = data.test.raw(indices)
    images.flush()
    np.save(folder / "labels.npy", data.test.labels)
    info = data.info
    write_meta(folder, {"kind": "data", "about": about, "mean": info.mean, "std": info.std, "n": n})


def _preprocess_ms(task: Mapping[str, Any], plugins: Plugins, samples: int = 64) -> float:
    """Median time to decode, resize and normalise one test image, in milliseconds, on this machine."""
    from statistics import median

    data: Any = open_task_data(task, plugins)
    indices = [index * len(data.test) // samples for index in range(min(samples, len(data.test)))]
    times = []
    for index in indices:
        start = time.perf_counter_ns()
        data.test.prepare(index)
        times.append(time.perf_counter_ns() - start)
    return median(times) / 1e6

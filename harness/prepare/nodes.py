"""Make the artifacts of nodes: data, models, partitions and exports. Torch is used here."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from harness.contracts.models import check_model, check_partition, check_sketched
from harness.contracts.need import Need
from harness.data.opened import OpenedData
from harness.errors import CellError, HarnessError, StorageError, first_line, printable
from harness.plugins import Plugins
from harness.prepare.context import PrepareContext, open_task_data
from harness.prepare.export import export
from harness.prepare.messages import Failure
from harness.prepare.start import check_head, start_notes
from harness.store.artifacts import Store
from harness.store.saved import load_any, load_model, load_partition, save_model, save_partition, write_meta
from harness.train.evaluation import in_batches
from harness.train.loading import Loader, StoredPixels
from harness.train.ranks import SINGLE_PROCESS, Ranks
from harness.types import IMAGE, CompressorEntry, Context, Lineage, Model, Params, Part, Partition
from harness.types.artifacts import About, DataMeta
from harness.types.plain import to_json
from harness.types.plan import DataRef, ExportTask, Node, StepTask

__all__ = ["failure", "preprocess_ms", "run_along", "run_node"]


def failure(node: Node, error: Exception | SystemExit, plugins: Plugins) -> Failure:
    """Return why ``error`` ended ``node``, and whose code failed. Call it inside the ``except`` block."""
    stage, trace, plugin = str(node.stage), "", None
    if isinstance(error, StorageError):  # of the disk or the cache, whichever code was at work
        return Failure(stage, "", str(error))
    if isinstance(error, HarnessError):
        text = str(error)
        if isinstance(error, CellError):
            stage, plugin = error.stage, error.plugin
    elif isinstance(error, MemoryError):
        text = "out of memory"
    else:
        text, trace = first_line(error, kind=True), printable(traceback.format_exc())
    return Failure(stage, plugin or plugins.blame(error) or node.plugin, text, trace)


def run_node(
    node: Node,
    plugins: Plugins,
    store: Store,
    progress: Callable[[str, float | None], None] = lambda text, fraction: None,
    ranks: Ranks = SINGLE_PROCESS,
    workers: int = 0,
) -> None:
    """Make the artifact of a node unless the store has it. The inputs of the node must be in the store.

    ``workers`` processes read its images.
    """
    with store.making(node.key) as folder:
        if folder is None:
            return
        about = About(stage=node.stage, entry=node.entry, label=node.label)
        task = node.task
        if isinstance(task, DataRef):
            _save_data(folder, open_task_data(task, plugins), about, workers)
        elif isinstance(task, ExportTask):
            context = PrepareContext(task, plugins, store, folder, progress, node.plugin, workers=workers)
            model, data = (store.folder(key) for key in node.inputs)
            source = load_any(model)
            check_head(source.lineage)
            export(source, data / "images.npy", folder, task, plugins, context, about)
        else:
            workdir = store.workdir(node.key)
            context = PrepareContext(task, plugins, store, workdir, progress, node.plugin, ranks, workers)
            with ranks.run_on_all(node):
                made = _make(task, _source(node, store), plugins, context)
            if isinstance(made, Partition):
                save_partition(made, folder, about)
            else:
                save_model(made, folder, about)


def run_along(node: Node, plugins: Plugins, store: Store, ranks: Ranks, workers: int = 0) -> None:
    """Run a node beside rank 0, which makes it. The result is the same as that of rank 0 and is not stored."""
    assert isinstance(node.task, StepTask)
    workdir = store.workdir(node.key) / f"rank{ranks.rank}"
    workdir.mkdir(exist_ok=True)

    def quiet(text: str, fraction: float | None) -> None:
        pass

    context = PrepareContext(node.task, plugins, store, workdir, quiet, node.plugin, ranks, workers)
    _make(node.task, _source(node, store), plugins, context)


def preprocess_ms(node: Node, plugins: Plugins, samples: int = 64) -> float:
    """Return the median time to decode, resize and normalise one test image of a data node, in milliseconds."""
    assert isinstance(node.task, DataRef)
    data = open_task_data(node.task, plugins)
    indices = [index * len(data.test) // samples for index in range(min(samples, len(data.test)))]
    times = []
    for index in indices:
        start = time.perf_counter_ns()
        data.test.prepare(index)
        times.append(time.perf_counter_ns() - start)
    return median(times) / 1e6


# --- making -----------------------------------------------------------------------------------------


def _source(node: Node, store: Store) -> Path | None:
    """Return the folder of the model from which a step starts, or None for a build."""
    return store.folder(node.inputs[0]) if node.inputs else None


def _make(
    task: StepTask, source: Path | None, plugins: Plugins, context: PrepareContext
) -> Model | Partition:
    import torch

    torch.manual_seed(task.seed)
    if source is None:
        return _build(task, plugins, context)
    if task.stage == "partition":
        partitioner = plugins.partitioners.get(task.entry).entry
        before = load_model(source)
        params = partitioner.params(**task.params)
        assert task.sketch is not None
        split = partitioner.partition(context, before, params, task.sketch)
        need = plugins.partitioners.need(task.entry)
        check_partition(need, split, "partition", before.classes, before.input.shape)
        check_sketched(need, split, task.sketch)
        return split if split.lineage else replace(split, lineage=before.lineage)
    compressor = plugins.compressors.get(task.entry).entry
    params = compressor.params(**task.params)
    need = plugins.compressors.need(task.entry)
    if not task.each_part:
        smaller = compressor.compress(context, load_model(source), params)
        info = context.data.info
        check_model(need, smaller, "compress", info.classes, info.shape)
        return smaller
    partition = load_partition(source)
    parts, lineage = [], partition.lineage
    for part in partition.parts:
        compressed, steps = _compress_part(context, compressor, part, params, need)
        parts.append(compressed)
        lineage += steps
    return replace(partition, parts=tuple(parts), lineage=lineage)


def _build(task: StepTask, plugins: Plugins, context: PrepareContext) -> Model:
    builder = plugins.models.get(task.entry).entry
    params = builder.params(**task.params)
    model = builder.build(context, params)
    info = context.data.info
    check_model(plugins.models.need(task.entry), model, "build", info.classes, info.shape)
    notes = start_notes(builder, params, context, task.data.choice)
    step = Lineage(stage="build", entry=task.entry, params=task.params, notes=notes)
    if task.train.epochs == 0:
        return replace(model, lineage=(*model.lineage, step))
    result = context.fit(model.module, name="train")
    recipe = task.train.model_dump(mode="json")
    step = replace(
        step,
        image_passes=result.image_passes,
        train_macs=result.train_macs,
        train_s=result.train_s,
        notes={**notes, "epochs": result.epochs, "train": recipe, "history": list(result.history)},
    )
    return replace(model, lineage=(*model.lineage, step))


def _compress_part(
    context: Context, compressor: CompressorEntry, part: Part, params: Params, need: Need
) -> tuple[Part, tuple[Lineage, ...]]:
    """Return the compressed part and its lineage.

    A part that reads only the image is compressed as a model. Other parts, such as the fusion, are returned
    unchanged.
    """
    if tuple(edge.source for edge in part.inputs) != (IMAGE,):
        return part, ()
    model = Model(
        module=part.module, spec=part.spec, input=part.inputs[0].tensor, classes=part.output.shape[-1]
    )
    smaller: Model = compressor.compress(context, model, params)
    check_model(need, smaller, "compress", model.classes, model.input.shape)
    return replace(part, module=smaller.module, spec=smaller.spec), smaller.lineage


def _save_data(folder: Path, data: OpenedData, about: About, workers: int) -> None:
    """Write the test split, decoded and resized: uint8 [n, height, width, channels], and its labels."""
    import numpy as np

    n = len(data.test)
    first = data.test.raw([0])
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(n, *first.shape[1:])
    )
    # Space is reserved first. Otherwise a full disk would end this process by SIGBUS.
    with (folder / "images.npy").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    batches = in_batches(n, 256)
    with Loader(0 if data.test.in_memory else workers) as loader:
        source = loader.add(StoredPixels(data.test))
        for draws, pixels in zip(batches, loader.read(source, batches), strict=True):
            images[draws.index] = pixels
    images.flush()
    np.save(folder / "labels.npy", data.test.labels)
    info = data.info
    write_meta(folder, to_json(DataMeta(about=about, mean=info.mean, std=info.std, n=n)))

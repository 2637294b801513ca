"""Runs preparing nodes in a child process: the only place of the core where torch is at work.

The parent sends nodes over a pipe and gets progress and results back; what a node makes goes into the
artifact store.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.store.artifacts import Store
from harness.prepare.context import PrepareContext, open_task_data
from harness.errors import CellError, HarnessError
from harness.plugins import Plugins, load_plugins
from harness.train.ranks import ALONE, Leader, Ranks
from harness.store.saved import load_any, load_model, load_partition, save_model, save_partition, write_meta
from harness.types import (
    IMAGE,
    Context,
    Data,
    Lineage,
    Model,
    ModuleSpec,
    Part,
    Partition,
    PartSketch,
    Placement,
    Sketch,
)

__all__ = ["PARITY_SAMPLES", "failure", "main", "parity_indices", "run_along", "run_node"]

PARITY_SAMPLES = 256
MEAN_SAMPLES = 256
"""Training images, evenly spread, over which a mean is taken that stands in for a missing part."""


def main(conn: Connection, root: str, block: tuple[str, ...], threads: int, processes: int = 1) -> None:
    """Serve nodes from ``conn`` until it closes. A parent that dies takes this process along.

    With several ``processes`` this is rank 0 of as many, which train together.
    """
    from harness.worker.worker import die_with_parent

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    die_with_parent()
    import torch

    torch.set_num_threads(threads)
    plugins = load_plugins(block)
    store = Store(Path(root))
    speaking = threading.Lock()

    def say(*message: Any) -> None:
        with speaking:
            conn.send(message)

    def give_up(*message: Any) -> None:
        with speaking:
            conn.send(message)
            os._exit(1)

    leader = Leader(processes, Path(root), block, threads, give_up) if processes > 1 else None
    while True:
        try:
            node: Mapping[str, Any] = conn.recv()
        except EOFError:
            return
        started = time.monotonic()
        try:
            tell = partial(say, "progress", node["key"])
            answer = run_node(node, plugins, store, tell, leader or ALONE)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the run goes on
            message = failure(node, error)
            say(*(message if leader is None else leader.cause(message)))
        else:
            say("done", node["key"], time.monotonic() - started, answer)


def failure(node: Mapping[str, Any], error: Exception) -> tuple[Any, ...]:
    """The message that ``error`` ended ``node``; called where it is handled."""
    stage, text, trace = node["stage"], str(error), ""
    if isinstance(error, CellError):
        stage = error.stage
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, HarnessError):
        text, trace = f"{type(error).__name__}: {error}".strip().splitlines()[0], traceback.format_exc()
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
        step, image_passes=result.image_passes, train_macs=result.train_macs, train_s=result.train_s,
        notes={"epochs": result.epochs, "train": task["train"], "history": list(result.history)},
    )  # fmt: skip
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


def _export(
    folder: Path, node: Mapping[str, Any], plugins: Plugins, store: Store, context: PrepareContext, about: Any
) -> None:
    import numpy as np

    from harness.train.counting.count import count

    task = node["task"]
    runtime = plugins.runtimes.get(task["entry"]).entry
    params = runtime.params(**task["params"])
    partition = load_any(store.folder(node["inputs"][0]))
    means = _means(partition, context)
    parts = []
    for part in partition.parts:
        context.progress(f"exporting {part.name}")
        context.workdir = folder / "parts" / part.name
        context.workdir.mkdir(parents=True)
        counts = count(part.module, [edge.tensor for edge in part.inputs])
        artifact = runtime.export(context, part, params)
        parts.append(
            {
                "name": part.name,
                "inputs": [edge.source for edge in part.inputs],
                "missing": {
                    edge.source: means.get(edge.source, []) if edge.missing == "mean" else []
                    for edge in part.inputs
                    if edge.missing is not None
                },
                "wire_dtype": _wire_dtype(partition, part),
                "output": asdict(part.output),
                "counts": asdict(counts),
                "artifact": {
                    **asdict(artifact),
                    "path": str(artifact.path.relative_to(folder)) if artifact.path != folder else ".",
                },
            }
        )
    images = np.load(store.folder(node["inputs"][1]) / "images.npy", mmap_mode="r")
    picked = parity_indices(len(images))
    reference = _forward(partition, context.data, images[picked])
    np.save(folder / "reference.npy", reference)
    write_meta(
        folder,
        {
            "kind": "export",
            "about": about,
            "parts": parts,
            "classes": partition.classes,
            "groups": partition.groups,
            "lineage": [asdict(step) for step in partition.lineage],
        },
    )


def _wire_dtype(partition: Partition, part: Part) -> str:
    """The element type in which a part's output is sent: one, whoever takes it.

    Raises:
        ValueError: the edges that take it differ.
    """
    found = {edge.wire_dtype for one in partition.parts for edge in one.inputs if edge.source == part.name}
    if len(found) > 1:
        raise ValueError(
            f"part {part.name!r} is sent as {' and as '.join(sorted(found))}: one type is allowed"
        )
    return found.pop() if found else part.output.dtype


def _means(partition: Partition, context: PrepareContext) -> dict[str, list[float]]:
    """Of each part for which its mean may stand in: the mean of its output over training images, flat."""
    import numpy as np

    edges = [edge for part in partition.parts for edge in part.inputs if edge.missing == "mean"]
    wanted = {edge.source for edge in edges} - {IMAGE}
    if not wanted:
        return {}
    train = context.data.train
    picked = spread(len(train), MEAN_SAMPLES)
    sums: dict[str, Any] = {}
    for start in range(0, len(picked), 64):
        for name, output in _outputs(partition, train.batch(picked[start : start + 64])).items():
            if name in wanted:
                sums[name] = sums.get(name, 0.0) + np.asarray(output, np.float64).sum(axis=0)
    return {name: (total / len(picked)).astype(np.float32).ravel().tolist() for name, total in sums.items()}


def parity_indices(n: int) -> list[int]:
    """The fixed samples of the test split on which parity is checked: evenly spread over it."""
    return spread(n, PARITY_SAMPLES)


def spread(n: int, most: int) -> list[int]:
    """At most ``most`` of the indices below ``n``, evenly spread."""
    k = min(n, most)
    return [index * n // k for index in range(k)]


def _forward(partition: Partition, data: Data, images: Any) -> Any:
    """Logits of the built modules, float32 [n, classes]: what every export is compared with."""
    import numpy as np

    from harness.data.choice import normalise

    outputs = []
    for start in range(0, len(images), 64):
        batch = normalise(np.asarray(images[start : start + 64]), data.info.mean, data.info.std)
        outputs.append(_outputs(partition, batch)[partition.parts[-1].name])
    return np.concatenate(outputs)


def _outputs(partition: Partition, batch: Any) -> dict[str, Any]:
    """Every part's output, float32 [n, ...], for a batch [n, ...] of preprocessed images."""
    import torch

    with torch.inference_mode():
        values = {IMAGE: torch.from_numpy(batch)}
        for part in partition.parts:
            values[part.name] = part.module.eval()(*(values[edge.source] for edge in part.inputs))
        return {part.name: values[part.name].float().numpy() for part in partition.parts}


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

"""Export a partition for a runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contracts.models import run_parts
from harness.contracts.need import Need, needing
from harness.contracts.runtimes import check_artifact
from harness.data.splits import normalise, parity_indices, spread
from harness.plugins import Plugins
from harness.prepare.context import PrepareContext
from harness.registry import Registry
from harness.store.saved import write_meta
from harness.types import IMAGE, Data, Part, Partition
from harness.types.artifacts import About, ExportedPart, ExportMeta
from harness.types.plain import to_json
from harness.types.plan import ExportTask

__all__ = ["MEAN_SAMPLES", "export"]


MEAN_SAMPLES = 256
"""Number of training images, evenly spread, over which the mean output of a part is taken."""


def export(
    partition: Partition,
    images: Path,
    folder: Path,
    task: ExportTask,
    plugins: Plugins,
    context: PrepareContext,
    about: About,
) -> None:
    """Export every part of ``partition`` for a runtime into ``folder``, with the reference logits.

    ``images`` is the file of the decoded test split, uint8 [n, height, width, channels].
    """
    from harness.train.counting.count import count

    runtime, need = plugins.runtimes.get(task.entry).entry, plugins.runtimes.need(task.entry)
    params = runtime.params(**task.params)
    made = _need_of(partition, plugins)
    means = _means(made, partition, context)
    parts = []
    for part in partition.parts:
        context.progress(f"exporting {part.name}")
        context.workdir = folder / "parts" / part.name
        context.workdir.mkdir(parents=True)
        counts = count(part.module, [edge.tensor for edge in part.inputs])
        artifact = runtime.export(context, part, params)
        check_artifact(
            need,
            artifact,
            part.name,
            [edge.tensor for edge in part.inputs],
            part.output,
            context.workdir,
            runtime=runtime.name,
            precision=runtime.precision(params),
            params=counts.params,
        )
        parts.append(
            ExportedPart(
                name=part.name,
                inputs=tuple(edge.source for edge in part.inputs),
                stand_ins={
                    edge.source: means.get(edge.source, ()) if edge.missing == "mean" else ()
                    for edge in part.inputs
                    if edge.missing is not None
                },
                wire_dtype=_wire_dtype(partition, part),
                output=part.output,
                counts=counts,
                artifact=replace(artifact, path=artifact.path.relative_to(folder)),
            )
        )
    decoded = np.load(images, mmap_mode="r")
    reference = _forward(made, partition, context.data, decoded[parity_indices(len(decoded))])
    np.save(folder / "reference.npy", reference)
    meta = ExportMeta(
        about=about,
        parts=tuple(parts),
        classes=partition.classes,
        groups=partition.groups,
        lineage=partition.lineage,
    )
    write_meta(folder, to_json(meta))


def _wire_dtype(partition: Partition, part: Part) -> str:
    """Return the element type in which a part's output is sent to the parts that take it.

    Raises:
        ValueError: the edges of these parts declare different types.
    """
    edges = [edge for taker in partition.parts for edge in taker.inputs if edge.source == part.name]
    types = {edge.wire_dtype for edge in edges}
    if len(types) > 1:
        raise ValueError(
            f"part {part.name!r} is sent as {' and as '.join(sorted(types))}: one type is allowed"
        )
    return types.pop() if types else part.output.dtype


def _means(need: Need, partition: Partition, context: PrepareContext) -> dict[str, tuple[float, ...]]:
    """Return the mean output over training images, flat, of each part that has its mean as a stand-in."""
    edges = [edge for part in partition.parts for edge in part.inputs if edge.missing == "mean"]
    wanted = {edge.source for edge in edges} - {IMAGE}
    if not wanted:
        return {}
    train = context.data.train
    picked = spread(len(train), MEAN_SAMPLES)
    sums: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(picked), 64):
        for name, output in _outputs(need, partition, train.batch(picked[start : start + 64])).items():
            if name in wanted:
                total = np.asarray(output, np.float64).sum(axis=0)
                sums[name] = sums[name] + total if name in sums else total
    return {
        name: tuple((total / len(picked)).astype(np.float32).ravel().tolist()) for name, total in sums.items()
    }


def _forward(need: Need, partition: Partition, data: Data, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits of the built modules, float32 [n, classes]. Every export is compared with these logits."""
    outputs = []
    for start in range(0, len(images), 64):
        batch = normalise(np.asarray(images[start : start + 64]), data.info.mean, data.info.std)
        outputs.append(_outputs(need, partition, batch)[partition.parts[-1].name])
    return np.concatenate(outputs)


def _need_of(partition: Partition, plugins: Plugins) -> Need:
    """Return the function that checks the answers of a partition, and names the plugin that made it last."""
    registries: dict[str, Registry[Any]] = {
        "build": plugins.models,
        "compress": plugins.compressors,
        "partition": plugins.partitioners,
    }
    for step in reversed(partition.lineage):
        registry = registries.get(step.stage)
        if registry is not None and step.entry in registry:
            return registry.need(step.entry)
    return needing("the model")


def _outputs(need: Need, partition: Partition, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return every part's output, float32 [n, ...], for a batch [n, ...] of preprocessed images."""
    import torch

    outputs = run_parts(need, partition, torch.from_numpy(batch), finite=True)
    return {name: value.float().cpu().numpy() for name, value in outputs.items()}

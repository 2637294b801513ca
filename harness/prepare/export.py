"""Export a partition for a runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.splits import normalise, parity_indices, spread
from harness.plugins import Plugins
from harness.prepare.context import PrepareContext
from harness.store.saved import write_meta
from harness.types import IMAGE, Data, Part, Partition
from harness.types.artifacts import About, ExportedPart, ExportMeta
from harness.types.plain import to_json
from harness.types.plan import ExportTask
from harness.types.walk import in_order

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

    runtime = plugins.runtimes.get(task.entry).entry
    params = runtime.params(**task.params)
    means = _means(partition, context)
    parts = []
    for part in partition.parts:
        context.progress(f"exporting {part.name}")
        context.workdir = folder / "parts" / part.name
        context.workdir.mkdir(parents=True)
        counts = count(part.module, [edge.tensor for edge in part.inputs])
        artifact = runtime.export(context, part, params)
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
    reference = _forward(partition, context.data, decoded[parity_indices(len(decoded))])
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


def _means(partition: Partition, context: PrepareContext) -> dict[str, tuple[float, ...]]:
    """Return the mean output over training images, flat, of each part that has its mean as a stand-in."""
    edges = [edge for part in partition.parts for edge in part.inputs if edge.missing == "mean"]
    wanted = {edge.source for edge in edges} - {IMAGE}
    if not wanted:
        return {}
    train = context.data.train
    picked = spread(len(train), MEAN_SAMPLES)
    sums: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(picked), 64):
        for name, output in _outputs(partition, train.batch(picked[start : start + 64])).items():
            if name in wanted:
                total = np.asarray(output, np.float64).sum(axis=0)
                sums[name] = sums[name] + total if name in sums else total
    return {
        name: tuple((total / len(picked)).astype(np.float32).ravel().tolist()) for name, total in sums.items()
    }


def _forward(partition: Partition, data: Data, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits of the built modules, float32 [n, classes]. Every export is compared with these logits."""
    outputs = []
    for start in range(0, len(images), 64):
        batch = normalise(np.asarray(images[start : start + 64]), data.info.mean, data.info.std)
        outputs.append(_outputs(partition, batch)[partition.parts[-1].name])
    return np.concatenate(outputs)


def _outputs(partition: Partition, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return every part's output, float32 [n, ...], for a batch [n, ...] of preprocessed images."""
    import torch

    with torch.inference_mode():
        values = {IMAGE: torch.from_numpy(batch)}
        for part, inputs in in_order(partition.parts, values):
            values[part.name] = part.module.eval()(*inputs)
        return {part.name: values[part.name].float().numpy() for part in partition.parts}

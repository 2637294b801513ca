"""Exporting a partition for a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.data.splits import parity_indices, spread
from harness.plugins import Plugins
from harness.prepare.context import PrepareContext
from harness.store.artifacts import Store
from harness.store.saved import load_any, write_meta
from harness.types import IMAGE, Data, Part, Partition

__all__ = ["MEAN_SAMPLES"]


MEAN_SAMPLES = 256
"""Training images, evenly spread, over which a mean is taken that stands in for a missing part."""


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

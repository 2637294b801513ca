"""Accuracy of exported artifacts: on the device, or on this host where the devices are other machines; and what
is left of it when parts do not answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.measure.cell_data import CellData
from harness.measure.deploy import stored_artifact
from harness.measure.parity import Parity, compare
from harness.store.artifacts import Store
from harness.types import Monitor, RuntimeEntry, SessionOptions

if TYPE_CHECKING:
    from harness.worker.process import WorkerProcess

__all__ = ["Evaluations", "Infer", "check_parity", "chunk", "evaluate", "host"]


@dataclass
class Evaluations:
    """Predictions on the whole test split, kept per artifact, device, threads and batch."""

    store: Store

    def once(self, key: str, label: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The arrays kept under ``key``, or what ``make`` gives, kept from now on; ``label`` is for people."""
        if self.store.has(key):
            with np.load(self.store.folder(key) / "evaluation.npz") as kept:
                return {name: kept[name] for name in kept.files}
        arrays = make()
        with self.store.making(key) as folder:
            if folder is not None:
                np.savez(folder / "evaluation.npz", **arrays)
                about = {"stage": "evaluate", "entry": "", "label": label}
                (folder / "meta.json").write_text(json.dumps({"kind": "evaluation", "about": about}))
        return arrays


class Infer:
    """Answers for images [n, ...], in queries of ``batch``, sent to a device or worker in bounded pieces."""

    def __init__(self, infer: Any, batch: int) -> None:
        self._infer, self._batch = infer, batch

    def __call__(self, images: Any) -> Any:
        size = chunk(images, self._batch)
        found = [
            self._infer(images[start : start + size], self._batch) for start in range(0, len(images), size)
        ]
        return np.concatenate(found)


def chunk(images: Any, batch: int, most_bytes: int = 2**25) -> int:
    """Images handed over at once, as float32: whole batches, of at most 32 MiB or one batch."""
    fitting = most_bytes // (4 * images[0].size)
    return int(max(batch, fitting // batch * batch))


def check_parity(infer: Infer, images: Any, reference: Any, tolerance: float) -> Parity:
    return compare(reference, infer(images), tolerance)


def evaluate(infer: Infer, data: CellData) -> Mapping[str, Any]:
    """Class ranks on the whole test split: ``predictions`` int32 [n], ``rank`` of the true class int32 [n].

    Where the export has groups, also ``told`` int32 [n]: the prediction among the classes of the true one's group.
    """
    labels, groups = data.labels, data.export.groups
    predictions, ranks, told = [], [], []
    classes = sum(map(len, groups))
    foreign = np.ones((classes, classes), bool)
    for group in groups:
        foreign[np.ix_(group, group)] = False
    for start, ready in data.preprocessed(chunk(data.images, data.cell.task.measure.batch)):
        logits = infer(ready)
        truth = np.take_along_axis(logits, labels[start : start + len(logits), None], axis=1)
        predictions.append(logits.argmax(axis=1).astype(np.int32))
        ranks.append((logits > truth).sum(axis=1).astype(np.int32))
        if groups:
            within = np.where(foreign[labels[start : start + len(logits)]], -np.inf, logits)
            told.append(within.argmax(axis=1).astype(np.int32))
    answers = {"predictions": np.concatenate(predictions), "rank": np.concatenate(ranks)}
    return {**answers, "told": np.concatenate(told)} if groups else answers


# --- on this host -------------------------------------------------------------------------------


@contextmanager
def host(data: CellData, store: Store, runtime: RuntimeEntry) -> Iterator[WorkerProcess]:
    """A worker on this host's CPU in which all parts of a cell's export are loaded."""
    from harness.worker import commands
    from harness.worker.process import WorkerProcess

    process = WorkerProcess("the host", Monitor(), preload=runtime.preload)
    try:
        loader = f"{runtime.load.__module__}:{runtime.load.__qualname__}"
        options = SessionOptions(threads=data.cell.task.threads, device="cpu")
        for part in data.export.parts:
            artifact = stored_artifact(part.artifact, store, data.cell.export)
            process.ask(commands.Load(part.name, artifact, loader, options))
        yield process
    finally:
        process.close()

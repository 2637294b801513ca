"""Accuracy of exported artifacts: on the device, or on this host if the device is another machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.errors import DeviceError
from harness.measure.cell_data import CellData
from harness.measure.deploy import stored_artifact
from harness.measure.parity import Parity, compare
from harness.measure.predictions import Predictions
from harness.store.artifacts import Store
from harness.types import Monitor, RuntimeEntry, SessionOptions
from harness.types.plain import function_name
from harness.worker import commands
from harness.worker.process import WorkerProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[np.float32]
    Logits = NDArray[np.float32]

__all__ = ["Infer", "check_parity", "chunk", "predict_split", "worker_on_host"]


class InferBatches(Protocol):
    """A function that returns logits [n, classes] for images [n, ...], inferred in queries of ``batch`` images."""

    def __call__(self, images: Images, batch: int, /) -> Logits: ...


class Infer:
    """A function from images [n, ...] to logits [n, classes].

    It sends the images to a device or worker in pieces of bounded size.
    """

    def __init__(self, infer: InferBatches, batch: int) -> None:
        self._infer, self._batch = infer, batch

    def __call__(self, images: Images) -> Logits:
        size = chunk(images, self._batch)
        pieces = [images[start : start + size] for start in range(0, len(images), size)]
        return np.concatenate([self._infer(piece, self._batch) for piece in pieces])


def chunk(images: NDArray[Any], batch: int, most_bytes: int = 2**25) -> int:
    """Return how many images to send at once, a multiple of ``batch``.

    They take at most ``most_bytes`` (32 MiB by default) as float32, but there is always at least one batch.
    """
    fitting = most_bytes // (4 * images[0].size)
    return int(max(batch, fitting // batch * batch))


def check_parity(infer: Infer, images: Images, reference: Logits, tolerance: float) -> Parity:
    """Return the comparison of ``infer``'s logits for ``images`` with ``reference``, float32 [n, classes]."""
    return compare(reference, infer(images), tolerance)


def predict_split(infer: Infer, data: CellData) -> Predictions:
    """Predict the whole test split. Oracle predictions are made if the export has groups of classes.

    Raises:
        DeviceError: an answer is not finite.
    """
    labels, groups = data.labels, data.export.groups
    predictions, ranks, oracle = [], [], []
    classes = sum(map(len, groups))
    foreign = np.ones((classes, classes), bool)  # [true class, class]: whether another group has the class
    for group in groups:
        foreign[np.ix_(group, group)] = False
    for start, images in data.preprocessed(chunk(data.images, data.cell.task.measure.batch)):
        logits = infer(images)
        if bad := np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist():
            raise DeviceError(
                f"answers to {len(bad)} of test images {start} to {start + len(logits) - 1} are not finite: "
                f"NaN or infinity for image {start + bad[0]}"
            )
        true = labels[start : start + len(logits)]
        predictions.append(logits.argmax(axis=1).astype(np.int32))
        ranks.append(
            (logits > np.take_along_axis(logits, true[:, None], axis=1)).sum(axis=1).astype(np.int32)
        )
        if groups:
            own = np.where(foreign[true], -np.inf, logits)
            oracle.append(own.argmax(axis=1).astype(np.int32))
    return Predictions(
        predictions=np.concatenate(predictions),
        rank=np.concatenate(ranks),
        oracle=np.concatenate(oracle) if groups else None,
    )


@contextmanager
def worker_on_host(data: CellData, store: Store, runtime: RuntimeEntry) -> Iterator[WorkerProcess]:
    """Start a worker on this host's CPU, load all parts of a cell's export into it, and end it afterwards."""
    process = WorkerProcess("the host", Monitor(), preload=runtime.preload)
    try:
        loader = function_name(runtime.load)
        options = SessionOptions(threads=data.cell.task.threads, device="cpu")
        for part in data.export.parts:
            artifact = stored_artifact(part.artifact, store, data.cell.export)
            process.ask(commands.Load(part.name, artifact, loader, options))
        yield process
    finally:
        process.close()

"""The data with which one cell is measured, opened once: its export, its test split, and the reference logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.data.splits import normalise, parity_indices
from harness.store.artifacts import Store
from harness.types.artifacts import DataMeta, ExportMeta
from harness.types.plan import Cell

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellData", "open_cell"]


@dataclass(frozen=True, kw_only=True)
class CellData:
    """A cell with its opened artifacts.

    ``images``: uint8 [n, height, width, channels], mapped from disk. ``labels``: int [n]. ``reference``: float32
    [samples, classes], the logits of the built model on the parity samples.
    """

    cell: Cell
    export: ExportMeta
    data: DataMeta
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    reference: NDArray[np.float32]

    def parity_images(self) -> NDArray[np.float32]:
        """Return the preprocessed parity samples, float32 [samples, channels, height, width]."""
        return self._preprocessed(np.asarray(self.images[parity_indices(len(self.images))]))

    def images_at(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return preprocessed test images, float32 [n, channels, height, width]."""
        return self._preprocessed(np.asarray(self.images[indices]))

    def preprocessed(self, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the preprocessed test split in pieces of up to ``size`` images.

        A piece is (index of its first image, float32 [n, channels, height, width]).
        """
        for start in range(0, len(self.images), size):
            yield start, self._preprocessed(np.asarray(self.images[start : start + size]))

    def _preprocessed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return normalise(images, self.data.mean, self.data.std)


def open_cell(cell: Cell, store: Store) -> CellData:
    """Open the artifacts of a cell, which are in the store.

    Raises:
        StorageError: an artifact is absent or damaged.
    """
    return CellData(
        cell=cell,
        export=store.meta(cell.export, ExportMeta),
        data=store.meta(cell.data, DataMeta),
        images=np.load(store.folder(cell.data) / "images.npy", mmap_mode="r"),
        labels=np.load(store.folder(cell.data) / "labels.npy"),
        reference=np.load(store.folder(cell.export) / "reference.npy"),
    )

"""Data sets, and what training reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


__all__ = ["Data", "DataInfo", "Dataset", "Split"]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Static facts of a data set. ``missing`` says why it cannot be read here, and how to get it.

    ``shape`` is (channels, height, width), the last two 0 where images have no common size; ``sizes``
    maps "train" and "test" to sample counts (0 where unknown before loading); ``mean`` and ``std`` are
    per channel, on a 0..1 scale.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str = ""
    missing: str | None = None
    note: str = ""

    @property
    def classes(self) -> int:
        return len(self.class_names)


class Dataset(Protocol):
    """One split as stored: labels in memory, images decoded one at a time."""

    labels: NDArray[np.int64]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Image ``index``, uint8 [height, width, channels], in its stored size."""
        ...

    def __len__(self) -> int: ...


class Split(Protocol):
    """What training and evaluation read: labels, and float32 batches by sample indices."""

    labels: NDArray[np.int64]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Samples ``indices`` ready for the model, float32 [n, ...]."""
        ...

    def __len__(self) -> int: ...


class Data(Protocol):
    """The data set of a method: effective facts (after class selection, resizing) and its splits."""

    @property
    def info(self) -> DataInfo: ...
    @property
    def train(self) -> Split: ...
    @property
    def validation(self) -> Split: ...
    @property
    def test(self) -> Split: ...

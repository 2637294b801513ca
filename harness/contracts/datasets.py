"""Contracts of data sets: their facts, labels and images. Planning uses them, so numpy is imported late."""

from __future__ import annotations

import math
from collections.abc import Set
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from harness.contracts.need import Need
from harness.types import DataInfo, Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CheckedImages", "check_info", "check_labels"]

SPLITS = ("train", "test")


def check_info(need: Need, info: Any) -> None:
    """Check the facts that ``describe`` returned."""
    need(isinstance(info, DataInfo), f"describe gave {type(info).__name__}", "describe gives a DataInfo")
    named = isinstance(info.name, str) and bool(info.name)
    need(named, f"its name is {info.name!r}", "DataInfo.name: a text")
    shape = tuple(info.shape) if isinstance(info.shape, tuple | list) else ()
    good = len(shape) == 3 and all(_is_count(size) for size in shape) and shape[0] > 0
    need(good, f"shape is {info.shape!r}", "DataInfo.shape: (channels, height, width)")
    names = info.class_names
    texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
    need(texts, f"class_names are {_short(names)}", "DataInfo.class_names: a tuple of texts")
    for split in SPLITS:
        size = info.sizes.get(split, 0)
        need(_is_count(size), f"{split} has {size!r} samples", "DataInfo.sizes: whole numbers, 0 if unknown")
    for field, least in (("mean", 0.0), ("std", 1e-9)):
        values = getattr(info, field)
        right = len(values) == shape[0] and all(_is_number(value) and least <= value <= 1 for value in values)
        allowed = f"DataInfo.{field}: a number for each of the {shape[0]} channels, on a scale from 0 to 1"
        need(right, f"{field} is {_short(values)}", allowed)
    need(
        isinstance(info.fingerprint, str),
        f"fingerprint is {info.fingerprint!r}",
        "DataInfo.fingerprint: a text",
    )
    known = bool(info.missing) or bool(info.fingerprint)
    need(known, "has no fingerprint", "DataInfo.fingerprint: it differs if the data differ")


def check_labels(need: Need, dataset: Any, info: DataInfo, split: str) -> None:
    """Check a split that ``load`` returned: its length, and its labels."""
    import numpy as np

    is_dataset = hasattr(dataset, "labels") and hasattr(dataset, "image") and hasattr(dataset, "__len__")
    need(is_dataset, f"load gave {type(dataset).__name__}, not a Dataset", "load gives a Dataset")
    n, said = len(dataset), info.sizes.get(split, 0)
    enough = n > 0 or split == "train"  # a suite about latency alone needs nothing to train on
    need(enough and said in (0, n), f"{split} has {n} samples, said {said}", "DataInfo.sizes")
    labels = dataset.labels
    kind = _kind(labels)
    need(
        isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.shape == (n,),
        f"{split} labels are {kind}, not int64 [{n}]",
        "Dataset.labels: int64 [n]",
    )
    wrong = np.flatnonzero((labels < 0) | (labels >= info.classes))
    if len(wrong):
        problem = f"{split} image {wrong[0]} has label {labels[wrong[0]]}"
        need(False, problem, f"Dataset.labels: 0 to {info.classes - 1}")


class CheckedImages:
    """A split whose images are checked when they are read: uint8 [height, width, channels].

    ``channels`` are the allowed numbers of channels.
    """

    def __init__(self, need: Need, dataset: Dataset, split: str, channels: Set[int]) -> None:
        self.labels = dataset.labels
        self._need, self._dataset, self._split = need, dataset, split
        self._channels = channels

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index``, uint8 [height, width, channels].

        Raises:
            BrokenContract: it is of another type or form.
        """
        import numpy as np

        image = self._dataset.image(index)
        right = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
        if not right or image.shape[2] not in self._channels or not image.size:
            allowed = " or ".join(map(str, sorted(self._channels)))
            problem = f"{self._split} image {index} is {_kind(image)}, not uint8 [height, width, {allowed}]"
            self._need(False, problem, "Dataset.image: uint8 [height, width, channels]")
        return image

    def __len__(self) -> int:
        return len(self._dataset)


def _kind(value: Any) -> str:
    import numpy as np

    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."

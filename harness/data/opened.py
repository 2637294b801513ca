"""Open a chosen data set: its train, validation and test splits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.contracts.datasets import CheckedImages, check_info, check_labels
from harness.contracts.need import Need, needing
from harness.data.choice import SPLIT_SEED, effective_info
from harness.data.splits import KEEP_BYTES, ImageSplit, Resize, StoredImages
from harness.errors import SuiteError
from harness.types import DataInfo, Dataset, DatasetEntry, Params
from harness.types.data import DataChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["REMEMBER", "OpenedData", "open_data", "pick_train"]


@dataclass(frozen=True)
class OpenedData:
    """A data set with its splits, which a method gets as its :class:`~harness.types.Data`."""

    info: DataInfo
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit


def open_data(
    entry: DatasetEntry,
    params: Params,
    choice: DataChoice,
    *,
    need: Need | None = None,
    keep_bytes: int = KEEP_BYTES,
) -> OpenedData:
    """Load a data set and return its splits. ``info.sizes`` counts all three.

    A stored split of up to ``keep_bytes`` stays in memory after decoding. ``need`` checks the data set, and names it.

    Raises:
        SuiteError: the data is absent or cannot be read.
        ValueError: the choice contradicts the data.
        BrokenContract: the data set is not what its entry promises. Images are checked when they are read.
    """
    need = need or needing(f"dataset {entry.name!r}")
    stored = entry.describe(params)
    check_info(need, stored)
    if stored.missing:
        raise SuiteError(stored.missing)
    info = effective_info(stored, choice)
    classes = choice.classes if choice.classes is not None else tuple(range(stored.classes))
    new_label = np.full(stored.classes, -1, np.int64)
    new_label[list(classes)] = np.arange(len(classes))

    images = {
        split: _images(entry, params, split, stored, info.shape, choice, keep_bytes, need)
        for split in ("train", "test")
    }
    train, validation = pick_train(
        images["train"].labels, classes, choice.validation, choice.shots, stored.class_names
    )
    test = np.flatnonzero(np.isin(images["test"].labels, classes))

    def made(split: str, indices: NDArray[np.int64]) -> ImageSplit:
        labels = new_label[images[split].labels[indices]]
        return ImageSplit(images[split], indices, labels, info.mean, info.std)

    sizes = {"train": len(train), "validation": len(validation), "test": len(test)}
    return OpenedData(
        info=replace(info, sizes=sizes),
        train=made("train", train),
        validation=made("train", validation),
        test=made("test", test),
    )


@dataclass(frozen=True)
class _Opener:
    """Loads a stored split. Another process that gets it loads the split again, so no image is copied to it."""

    load: Callable[[Params, str], Dataset]
    params: Params
    split: str
    stored: DataInfo
    need: Need

    def __call__(self) -> Dataset:
        dataset = self.load(self.params, self.split)
        check_labels(self.need, dataset, self.stored, self.split)
        channels = self.stored.shape[0]
        convertible = {1, 3} if channels in (1, 3) else {channels}  # grey and colour are converted
        return CheckedImages(self.need, dataset, self.split, convertible)


_remembered: dict[Hashable, StoredImages] = {}


REMEMBER = 4
"""The number of stored splits that a process keeps, so that it decodes each image once for all its nodes."""


def _images(
    entry: DatasetEntry,
    params: Params,
    split: str,
    stored: DataInfo,
    shape: tuple[int, int, int],
    choice: DataChoice,
    keep_bytes: int,
    need: Need,
) -> StoredImages:
    """Return a stored split, which is loaded unless this process remembers it."""
    resize = None
    if choice.image_size is not None:
        resize = Resize(choice.interpolation, choice.crop_pct, choice.crop_mode)
    key = (entry, params.model_dump_json(), stored.fingerprint, split, shape, resize, keep_bytes)
    images = _remembered.pop(key, None)
    if images is None:
        opener = _Opener(entry.load, params, split, replace(stored, sizes=dict(stored.sizes)), need)
        name = f"{stored.name} {split}"
        images = StoredImages(opener(), name, shape, resize, keep_bytes=keep_bytes, reopen=opener)
    _remembered[key] = images
    for oldest in list(_remembered)[:-REMEMBER]:
        del _remembered[oldest]
    return images


def pick_train(
    labels: NDArray[np.int64],
    classes: Sequence[int],
    validation: float,
    shots: int | None = None,
    class_names: Sequence[str] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices for training and for validation, both ascending.

    Each class is shuffled with its own fixed seed. The first ``validation`` share of its images (rounded, never the
    whole class) is for validation. The next ``shots`` images are for training. Therefore a smaller number of shots is
    a subset of a larger one, the validation split does not depend on ``shots``, and the images of one class do not
    depend on the other classes that are chosen.

    Raises:
        ValueError: a class has fewer than ``shots`` images left.
    """
    train, held_out = [], []
    for label in classes:
        members = np.flatnonzero(labels == label)
        # The stream of RandomState never changes. That of default_rng may change with numpy (NEP 19).
        order = np.random.RandomState([SPLIT_SEED, label]).permutation(members)
        held = max(0, min(int(validation * len(order) + 0.5), len(order) - 1))
        rest = order[held:]
        if shots is not None and len(rest) < shots:
            name = repr(class_names[label]) if class_names else str(label)
            raise ValueError(f"shots: {shots} asked for, but class {name} has {len(rest)} training images")
        train.append(rest[:shots])
        held_out.append(order[:held])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))

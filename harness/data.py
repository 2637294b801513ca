"""From a data set as stored to the splits that methods read: selection, resizing, normalisation.

Which samples are chosen depends on the stored labels and on the suite's ``data:`` block alone, never on
a training seed, so all methods and seeds of a suite see the same splits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from harness.errors import SuiteError
from harness.types import Data, DataInfo, Dataset, DatasetEntry, Params, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = Sequence[int] | NDArray[np.int64]

__all__ = [
    "ArraySplit",
    "DataChoice",
    "ImageSplit",
    "effective_info",
    "normalise",
    "open_data",
    "pick_train",
    "relabel",
    "subset",
]

SPLIT_SEED = 20240806
KEEP_BYTES = 512 * 2**20
"""Decoded splits up to this size stay in memory."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DataChoice(Params):
    """The keys of a suite's ``data:`` block that every data set has."""

    name: str = Field(min_length=1, description="the data set")
    image_size: int | None = Field(
        None, ge=1, description="pixels per side that models see (default: as stored)"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field(
        "bilinear", description="how images are resized"
    )
    normalize: Literal["dataset", "imagenet", "half"] = Field(
        "dataset", description="mean and standard deviation: the data set's, ImageNet's, or 0.5 and 0.5"
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of each class's training images set apart for validation"
    )
    classes: tuple[int, ...] | None = Field(
        None, description="class indices to keep; they become 0, 1, ... in this order"
    )
    shots: int | None = Field(
        None, ge=1, description="training images per class, after validation images are set apart"
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _list_of_classes(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"list the class indices to keep, like [0, 1, 2], not {value!r}")
        return value


def effective_info(info: DataInfo, choice: DataChoice) -> DataInfo:
    """Facts of the data as methods see it, without loading any: classes, shape, mean and std in effect.

    The fingerprint covers the stored data and which samples have which label in which split, not the
    pixels' size and scale: those are columns within one board. It is empty where ``info.missing``.
    Sizes that depend on the labels are 0.

    Raises:
        ValueError: the choice contradicts the data.
    """
    names = _class_names(info, choice)
    shape = _shape(info, choice)
    mean, std = _scale(info, choice)
    train, test = (info.sizes.get(split, 0) for split in ("train", "test"))
    if choice.shots is not None:
        if train and choice.shots > train:
            raise ValueError(f"shots: {choice.shots} of each class, but {info.name} has {train} images")
        train = choice.shots * len(names) if train else 0
    elif choice.validation or choice.classes is not None:
        train = 0
    return replace(
        info,
        class_names=names,
        shape=shape,
        mean=mean,
        std=std,
        sizes={"train": train, "test": test if choice.classes is None else 0},
        fingerprint="" if info.missing else _fingerprint(info, choice),
    )


def _class_names(info: DataInfo, choice: DataChoice) -> tuple[str, ...]:
    if choice.classes is None:
        return info.class_names
    outside = [index for index in choice.classes if not 0 <= index < info.classes]
    if outside:
        raise ValueError(f"classes: {info.name} has no class {outside[0]}; allowed: 0 to {info.classes - 1}")
    if len(set(choice.classes)) < len(choice.classes):
        twice = next(index for index in choice.classes if choice.classes.count(index) > 1)
        raise ValueError(f"classes: {twice} stands there twice")
    if len(choice.classes) < 2:
        raise ValueError(f"classes: at least two of 0 to {info.classes - 1} are needed")
    return tuple(info.class_names[index] for index in choice.classes)


def _shape(info: DataInfo, choice: DataChoice) -> tuple[int, int, int]:
    channels, height, width = info.shape
    if choice.image_size is not None:
        return channels, choice.image_size, choice.image_size
    if not height or not width:
        raise ValueError(
            f"image_size: the images of {info.name} have no common size that is known; give image_size"
        )
    return info.shape


def _scale(info: DataInfo, choice: DataChoice) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = info.shape[0]
    if choice.normalize == "half":
        return (0.5,) * channels, (0.5,) * channels
    if choice.normalize == "imagenet":
        if channels != 3:
            raise ValueError(
                f"normalize: imagenet is for 3 channels, {info.name} has {channels}; allowed: dataset, half"
            )
        return IMAGENET_MEAN, IMAGENET_STD
    if len(info.mean) != channels or len(info.std) != channels:
        raise ValueError(
            f"mean and std: {info.name} has {channels} channels, "
            f"but {len(info.mean)} and {len(info.std)} values are given"
        )
    return info.mean, info.std


def _fingerprint(info: DataInfo, choice: DataChoice) -> str:
    classes = choice.classes if choice.classes is not None else tuple(range(info.classes))
    content = [info.fingerprint, classes, choice.validation, choice.shots, SPLIT_SEED]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# --- opening ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    info: DataInfo
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit


def open_data(entry: DatasetEntry, params: Params, choice: DataChoice) -> Data:
    """Load a data set and make its splits; ``info.sizes`` counts all three.

    Raises:
        SuiteError: the data is not here, or cannot be read.
        ValueError: the choice contradicts the data.
    """
    stored = entry.describe(params)
    if stored.missing:
        raise SuiteError(stored.missing)
    info = effective_info(stored, choice)
    classes = choice.classes if choice.classes is not None else tuple(range(stored.classes))
    new_label = np.full(stored.classes, -1, np.int64)
    new_label[list(classes)] = np.arange(len(classes))

    loaded = {split: entry.load(params, split) for split in ("train", "test")}
    for split, dataset in loaded.items():
        _check_labels(stored, split, dataset.labels)
    train, validation = pick_train(
        loaded["train"].labels, classes, choice.validation, choice.shots, stored.class_names
    )
    chosen = {
        "train": ("train", train),
        "validation": ("train", validation),
        "test": ("test", np.flatnonzero(np.isin(loaded["test"].labels, classes))),
    }
    images = {split: _Images(dataset, f"{info.name} {split}", info.shape, choice)
              for split, dataset in loaded.items()}  # fmt: skip
    splits = {
        name: ImageSplit(
            images[split], indices, new_label[loaded[split].labels[indices]], info.mean, info.std
        )
        for name, (split, indices) in chosen.items()
    }
    sizes = {name: len(split) for name, split in splits.items()}
    return _Opened(replace(info, sizes=sizes), **splits)


def _check_labels(info: DataInfo, split: str, labels: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= info.classes))
    if len(wrong):
        raise ValueError(
            f"{info.name} {split}: image {wrong[0]} has label {labels[wrong[0]]}; "
            f"allowed: 0 to {info.classes - 1}"
        )


def pick_train(
    labels: NDArray[np.int64],
    classes: Sequence[int],
    validation: float,
    shots: int | None = None,
    class_names: Sequence[str] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices for training and for validation, both ascending.

    Each class is shuffled with a fixed seed of its own; its first ``validation`` share (rounded, and
    never all of it) is for validation, the next ``shots`` for training. So fewer shots are a subset of
    more, validation does not depend on shots, and no class depends on which others are chosen.

    Raises:
        ValueError: a class has fewer than ``shots`` images left.
    """
    train, held_out = [], []
    for label in classes:
        members = np.flatnonzero(labels == label)
        # RandomState's stream is frozen for good; that of default_rng may change with numpy (NEP 19)
        order = np.random.RandomState([SPLIT_SEED, label]).permutation(members)
        held = max(0, min(int(validation * len(order) + 0.5), len(order) - 1))
        rest = order[held:]
        if shots is not None and len(rest) < shots:
            name = repr(class_names[label]) if class_names else str(label)
            raise ValueError(f"shots: {shots} asked for, but class {name} has {len(rest)} training images")
        train.append(rest[:shots])
        held_out.append(order[:held])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


# --- images -------------------------------------------------------------------------------------


class _Images:
    """Decoded and resized images of a stored split; small ones stay in memory once decoded."""

    def __init__(self, dataset: Dataset, name: str, shape: tuple[int, int, int], choice: DataChoice) -> None:
        self._dataset = dataset
        self._name = name
        channels, self._height, self._width = shape
        self._mode = {1: "L", 3: "RGB"}.get(channels)
        self._shape = (self._height, self._width, channels)
        self._resize = choice.interpolation if choice.image_size is not None else None
        small = len(dataset) * int(np.prod(self._shape)) <= KEEP_BYTES
        self._kept: NDArray[np.uint8] | None = (
            np.zeros((len(dataset), *self._shape), np.uint8) if small else None
        )
        self._decoded = np.zeros(len(dataset), bool)

    def one(self, index: int) -> NDArray[np.uint8]:
        """Image ``index``, decoded and resized now: uint8 [height, width, channels]."""
        stored = self._dataset.image(index)
        if stored.shape == self._shape:
            return stored
        if stored.shape[:2] != self._shape[:2] and self._resize is None:
            raise ValueError(
                f"{self._name}: image {index} has {stored.shape[0]} x {stored.shape[1]} pixels, "
                f"the first one {self._height} x {self._width}; give image_size"
            )
        if self._mode is None or stored.shape[2] not in (1, 3):
            raise ValueError(f"{self._name}: image {index}: only 1 or 3 channels can be resized or converted")
        from PIL import Image

        picture = Image.fromarray(stored[:, :, 0] if stored.shape[2] == 1 else stored).convert(self._mode)
        if self._resize is not None:
            picture = picture.resize((self._width, self._height), Image.Resampling[self._resize.upper()])
        return np.asarray(picture, np.uint8).reshape(self._shape)

    def many(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images ``indices``, uint8 [n, height, width, channels]."""
        if self._kept is None:
            images = np.empty((len(indices), *self._shape), np.uint8)
            for position, index in enumerate(indices):
                images[position] = self.one(int(index))
            return images
        for index in np.unique(indices[~self._decoded[indices]]):
            self._kept[index] = self.one(int(index))
            self._decoded[index] = True
        return self._kept[indices]


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(images / 255 - mean) / std: uint8 [n, height, width, channels] -> float32 [n, channels, height, width]."""
    n, height, width, channels = images.shape
    out = np.empty((n, channels, height, width), np.float32)
    levels = np.arange(256) / 255
    for channel in range(channels):
        table = ((levels - mean[channel]) / std[channel]).astype(np.float32)
        out[:, channel] = table[images[..., channel]]
    return out


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """A split of images; ``batch`` gives float32 [n, channels, height, width]."""

    _images: _Images
    _indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def raw(self, indices: Indices) -> NDArray[np.uint8]:
        """Samples ``indices`` decoded and resized: uint8 [n, height, width, channels]."""
        return self._images.many(self._indices[np.asarray(indices, np.int64)])

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, height, width, channels] -> float32 [n, channels, height, width], as ``batch`` does."""
        return normalise(images, self.mean, self.std)

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        return self.normalise(self.raw(indices))

    def prepare(self, index: int) -> NDArray[np.float32]:
        """One sample as a device would prepare it, nothing kept: float32 [channels, height, width]."""
        return self.normalise(self._images.one(int(self._indices[index]))[None])[0]

    def __len__(self) -> int:
        return len(self.labels)


class ArraySplit:
    """A split of arrays in memory: float32 [n, ...] (features computed once, say) and labels [n]."""

    def __init__(self, arrays: NDArray[Any], labels: NDArray[Any]) -> None:
        if len(arrays) != len(labels):
            raise ValueError(f"{len(arrays)} samples, but {len(labels)} labels")
        self.arrays = np.asarray(arrays, np.float32)
        self.labels = np.asarray(labels, np.int64)

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        return self.arrays[np.asarray(indices, np.int64)]

    def __len__(self) -> int:
        return len(self.labels)


class _View:
    """Samples of another split, with labels of their own."""

    def __init__(self, split: Split, indices: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self._split = split
        self._indices = indices
        self.labels = labels

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        return self._split.batch(self._indices[np.asarray(indices, np.int64)])

    def __len__(self) -> int:
        return len(self.labels)


def subset(split: Split, indices: Indices) -> Split:
    """The samples ``indices`` of a split, in that order. An image split stays one."""
    picked = np.asarray(indices, np.int64)
    return _view(split, picked, split.labels[picked])


def relabel(split: Split, mapping: Mapping[int, int]) -> Split:
    """The same samples, each label replaced by what ``mapping`` says. An image split stays one.

    Raises:
        ValueError: a label of the split is not in ``mapping``.
    """
    present, inverse = np.unique(split.labels, return_inverse=True)
    absent = [int(label) for label in present if int(label) not in mapping]
    if absent:
        raise ValueError(f"label {absent[0]} is not in the mapping; it has {sorted(mapping)}")
    new = np.array([mapping[int(label)] for label in present], np.int64)
    return _view(split, np.arange(len(split)), new[inverse])


def _view(split: Split, indices: NDArray[np.int64], labels: NDArray[np.int64]) -> Split:
    if isinstance(split, ImageSplit):
        return replace(split, _indices=split._indices[indices], labels=labels)
    return _View(split, indices, labels)

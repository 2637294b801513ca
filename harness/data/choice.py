"""From a data set as stored to the splits that methods read: selection, resizing, normalisation.

Which samples are chosen depends on the stored labels and on the suite's ``data:`` block alone, never on
a training seed, so all methods and seeds of a suite see the same splits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from harness.errors import SuiteError
from harness.data.splits import ArraySplit, ImageSplit, StoredImages, normalise, relabel, subset
from harness.types import Data, DataInfo, DatasetEntry, Params, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
            raise ValueError(
                f"list the class indices to keep, like [0, 1, 2], not {value!r} "
                "(how many classes there are is num_classes)"
            )
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


@dataclass
class _Opened:
    info: DataInfo
    train: Split
    validation: Split
    test: Split


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

    images = {split: _images(entry, params, split, stored, info.shape, choice) for split in ("train", "test")}
    train, validation = pick_train(
        images["train"].labels, classes, choice.validation, choice.shots, stored.class_names
    )
    test = np.flatnonzero(np.isin(images["test"].labels, classes))

    def made(split: str, indices: NDArray[np.int64]) -> ImageSplit:
        labels = new_label[images[split].labels[indices]]
        return ImageSplit(images[split], indices, labels, info.mean, info.std)

    sizes = {"train": len(train), "validation": len(validation), "test": len(test)}
    return _Opened(
        info=replace(info, sizes=sizes),
        train=made("train", train),
        validation=made("train", validation),
        test=made("test", test),
    )


_remembered: dict[Hashable, StoredImages] = {}
REMEMBER = 4
"""Stored splits that a process keeps, so that the nodes it prepares load and decode each image once."""


def _images(
    entry: DatasetEntry,
    params: Params,
    split: str,
    stored: DataInfo,
    shape: tuple[int, int, int],
    choice: DataChoice,
) -> StoredImages:
    interpolation = choice.interpolation if choice.image_size is not None else None
    key = (entry, params.model_dump_json(), stored.fingerprint, split, shape, interpolation)
    found = _remembered.pop(key, None)
    if found is None:
        dataset = entry.load(params, split)
        labels = dataset.labels
        wrong = np.flatnonzero((labels < 0) | (labels >= stored.classes))
        if len(wrong):
            raise ValueError(
                f"{stored.name} {split}: image {wrong[0]} has label {labels[wrong[0]]}; "
                f"allowed: 0 to {stored.classes - 1}"
            )
        found = StoredImages(dataset, f"{stored.name} {split}", shape, interpolation)
    _remembered[key] = found
    for oldest in list(_remembered)[:-REMEMBER]:
        del _remembered[oldest]
    return found


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

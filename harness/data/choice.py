"""The part of a data set that a suite chooses: classes, samples, image size, normalisation.

The chosen samples depend only on the stored labels and on the suite's ``data:`` block, never on a training seed. All
methods and seeds of a suite therefore see the same splits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from harness.types import DataInfo
from harness.types.data import DataChoice

__all__ = ["SPLIT_SEED", "effective_info"]

SPLIT_SEED = 20240806
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def effective_info(info: DataInfo, choice: DataChoice) -> DataInfo:
    """Return the facts of the data as methods see it, without loading it: classes, shape, mean, std.

    The fingerprint covers the stored data and the label and split of each sample. It does not cover the size and
    scale of the pixels: those are columns within one table. It is empty if ``info.missing`` is set. Sizes that
    depend on the labels are 0.

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

"""The part of a data set that a suite chooses: classes, samples, image size, normalisation.

The chosen samples depend only on the stored labels and on the suite's ``data:`` block, never on a training seed. All
methods and seeds of a suite therefore see the same splits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import replace
from math import isclose
from statistics import fmean
from typing import Literal, TypeAlias

from harness.types import DataInfo, Preprocessing
from harness.types.data import DataChoice, Scale

__all__ = ["SPLIT_SEED", "as_weights_expect", "effective_info"]

SPLIT_SEED = 20240806
_Means: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, per channel."""
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


def as_weights_expect(
    choice: DataChoice, written: Collection[str], weights: Preprocessing, info: DataInfo, *, cut: bool = False
) -> tuple[DataChoice, tuple[str, ...]]:
    """Return ``choice`` with the preprocessing of pretrained weights where the suite gives no value, and differences.

    ``written`` are the keys that the suite gives. They win, and a difference from the weights is returned in words.
    For another number of channels than the weights', mean and standard deviation are averaged over the weights'.
    ``cut``: the data set cuts images to their middle square, before anything else. A centre crop gives the same images
    then; weights that expect whole images, resized to a square, do not get them.
    """
    channels = info.shape[0]
    scale = Scale(mean=weights.mean, std=weights.std)
    if channels != len(weights.mean):
        scale = Scale(mean=(fmean(weights.mean),) * channels, std=(fmean(weights.std),) * channels)
    wanted = {
        "image_size": weights.image_size,
        "interpolation": weights.interpolation,
        "crop_pct": weights.crop_pct,
        "crop_mode": weights.crop_mode,
        "normalize": _named(scale),
    }
    notes = []
    filled = choice.model_copy(update={key: value for key, value in wanted.items() if key not in written})
    expected = DataChoice(name=choice.name, **wanted)
    if filled.image_size != weights.image_size:
        notes.append(
            f"image_size {filled.image_size or 'as stored'}, the weights expect {weights.image_size}"
        )
    if filled.image_size is not None and filled.resize_name != expected.resize_name:
        notes.append(f"resized by {filled.resize_name}, the weights expect {expected.resize_name}")
    if cut and (weights.crop_pct is None or weights.crop_mode == "squash"):
        notes.append(
            "images cut to their middle square first, the weights expect whole ones (crop: none keeps them whole)"
        )
    if _same_scale(_scale(info, filled), (scale.mean, scale.std)):
        if channels != len(weights.mean) and (len(set(weights.mean)) > 1 or len(set(weights.std)) > 1):
            notes.append(f"normalize averaged over the weights' {len(weights.mean)} channels")
    else:
        notes.append(f"normalize {filled.normalize_name}, the weights expect {expected.normalize_name}")
    return filled, tuple(notes)


def _named(scale: Scale) -> Literal["imagenet", "half"] | Scale:
    """Return the name of a scale, if it has one in a suite."""
    half = (0.5,) * len(scale.mean)
    if (scale.mean, scale.std) == (half, half):
        return "half"
    return "imagenet" if (scale.mean, scale.std) == (IMAGENET_MEAN, IMAGENET_STD) else scale


def _same_scale(left: _Means, right: _Means) -> bool:
    return all(
        len(a) == len(b) and all(isclose(x, y, abs_tol=1e-3) for x, y in zip(a, b, strict=True))
        for a, b in zip(left, right, strict=True)
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
    if choice.crop_pct is not None and choice.image_size is None:
        raise ValueError("crop_pct: give image_size, the size after the crop")
    if choice.image_size is not None:
        return channels, choice.image_size, choice.image_size
    if not height or not width:
        raise ValueError(
            f"image_size: the images of {info.name} have no common size that is known; give image_size"
        )
    return info.shape


def _scale(info: DataInfo, choice: DataChoice) -> _Means:
    channels = info.shape[0]
    if isinstance(choice.normalize, Scale):
        mean, std = choice.normalize.mean, choice.normalize.std
        if not len(mean) == len(std) == channels:
            raise ValueError(
                f"normalize: {info.name} has {channels} channels, but {len(mean)} means and {len(std)} stds are given"
            )
        return mean, std
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

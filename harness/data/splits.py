"""Splits: the samples that training and evaluation read by their indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.types import Dataset, Split

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Indices = Sequence[int] | NDArray[np.int64]

__all__ = [
    "ArraySplit",
    "ImageSplit",
    "KEEP_BYTES",
    "MOST_PIXELS",
    "PARITY_SAMPLES",
    "Resize",
    "StoredImages",
    "normalise",
    "normalised_levels",
    "parity_indices",
    "relabel",
    "subset",
    "to_pixels",
]

KEEP_BYTES = 512 * 2**20
"""Largest size in bytes of a decoded split that a process keeps in memory."""


MOST_PIXELS = 2**27
"""Largest size of an image before the crop. A strip of pixels, or a wrong ``crop_pct``, would take all memory."""


@dataclass(frozen=True)
class Resize:
    """How images get the size that models see.

    Without ``crop_pct`` both sides are resized. With it, the short side (``center``) or both (``squash``) are resized to
    the size divided by ``crop_pct``, rounded down, and the centre is cropped, as timm and torchvision do.
    """

    interpolation: str
    crop_pct: float | None = None
    crop_mode: str = "center"

    def apply(self, picture: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
        """Return ``picture`` with ``width`` x ``height`` pixels.

        Raises:
            ValueError: it would have more than :data:`MOST_PIXELS` pixels before the crop.
        """
        from PIL import Image

        how = Image.Resampling[self.interpolation.upper()]
        if self.crop_pct is None:
            return picture.resize((width, height), how)
        wide, high = math.floor(width / self.crop_pct), math.floor(height / self.crop_pct)
        if self.crop_mode == "center":  # the models' images are squares, so both sides have one scale
            scaled = [wide * side / min(picture.size) for side in picture.size]
            wide, high = int(scaled[0]), int(scaled[1])
        if wide * high > MOST_PIXELS:
            raise ValueError(
                f"{picture.size[0]} x {picture.size[1]} pixels would become {wide:,} x {high:,} before the crop "
                f"(crop_pct {self.crop_pct:g}); at most {MOST_PIXELS:,} pixels are made"
            )
        picture = picture.resize((wide, high), how)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return picture.crop((left, top, left + width, top + height))


class StoredImages:
    """A stored split with decoded and resized images.

    A split of up to ``keep_bytes`` bytes stays in memory after decoding. ``shape`` is (channels, height, width). If
    ``resize`` is None, no image is resized. Pickling copies no image: another process loads the data set again, with
    ``reopen``, and keeps nothing in memory. Without ``reopen`` the data set itself is pickled.
    """

    def __init__(
        self,
        dataset: Dataset,
        name: str,
        shape: tuple[int, int, int],
        resize: Resize | None,
        *,
        keep_bytes: int = KEEP_BYTES,
        reopen: Callable[[], Dataset] | None = None,
    ) -> None:
        self.labels = dataset.labels
        self._dataset: Dataset | None = dataset
        self._reopen = reopen
        self._name = name
        self.shape = shape
        channels, self._height, self._width = shape
        self._mode = {1: "L", 3: "RGB"}.get(channels)
        self._shape = (self._height, self._width, channels)
        self._resize = resize
        self._kept: NDArray[np.uint8] | None = None
        if len(dataset) * int(np.prod(self._shape)) <= keep_bytes:
            self._kept = np.zeros((len(dataset), *self._shape), np.uint8)
        self._decoded = np.zeros(len(dataset), bool)

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_kept": None, "_decoded": None}
        return state if self._reopen is None else {**state, "_dataset": None}

    @property
    def in_memory(self) -> bool:
        """Return whether images stay in memory after decoding."""
        return self._kept is not None

    @property
    def _stored(self) -> Dataset:
        if self._dataset is None:
            assert self._reopen is not None
            self._dataset = self._reopen()
        return self._dataset

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index`` in its stored size, with the channels that models see: uint8 [h, w, channels]."""
        if self._resize is None:
            kept: NDArray[np.uint8] = self.images(np.array([index]))[0]
            return kept
        stored = self._stored.image(index)
        if stored.shape[2] == self._shape[2]:
            return stored
        picture = self._picture(stored, index)
        return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, self._shape[2])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode and resize image ``index``: uint8 [height, width, channels]."""
        stored = self._stored.image(index)
        if stored.shape == self._shape and (self._resize is None or self._resize.crop_pct is None):
            return stored
        if stored.shape[:2] != self._shape[:2] and self._resize is None:
            raise ValueError(
                f"{self._name}: image {index} has {stored.shape[0]} x {stored.shape[1]} pixels, "
                f"the first one {self._height} x {self._width}; give image_size"
            )
        picture = self._picture(stored, index)
        if self._resize is not None:
            try:
                picture = self._resize.apply(picture, self._width, self._height)
            except ValueError as error:
                raise ValueError(f"{self._name}: image {index}: {error}") from None
        return np.asarray(picture, np.uint8).reshape(self._shape)

    def _picture(self, stored: NDArray[np.uint8], index: int) -> PIL.Image.Image:
        """Return a stored image as Pillow's, grey or RGB as models see it."""
        if self._mode is None or stored.shape[2] not in (1, 3):
            raise ValueError(f"{self._name}: image {index}: only 1 or 3 channels can be resized or converted")
        from PIL import Image

        return Image.fromarray(stored[:, :, 0] if stored.shape[2] == 1 else stored).convert(self._mode)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images ``indices``: uint8 [n, height, width, channels]."""
        if self._kept is None:
            images = np.empty((len(indices), *self._shape), np.uint8)
            for position, index in enumerate(indices):
                images[position] = self.image(int(index))
            return images
        for index in np.unique(indices[~self._decoded[indices]]):
            self._kept[index] = self.image(int(index))
            self._decoded[index] = True
        return self._kept[indices]


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return (images / 255 - mean) / std: uint8 [n, H, W, C] -> float32 [n, C, H, W]."""
    n, height, width, channels = images.shape
    out = np.empty((n, channels, height, width), np.float32)
    for channel, table in enumerate(normalised_levels(mean, std)):
        out[:, channel] = table[images[..., channel]]
    return out


def normalised_levels(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return the normalised value of each level of a byte: float32 [channels, 256]."""
    levels = np.arange(256) / 255
    return np.array([(levels - m) / s for m, s in zip(mean, std, strict=True)]).astype(np.float32)


@dataclass(eq=False)
class ImageSplit:
    """A split of images. ``batch`` returns float32 [n, channels, height, width]."""

    _images: StoredImages
    _indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def raw(self, indices: Indices) -> NDArray[np.uint8]:
        """Return samples ``indices`` decoded and resized: uint8 [n, height, width, channels]."""
        return self._images.images(self._indices[np.asarray(indices, np.int64)])

    def whole(self, index: int) -> NDArray[np.uint8]:
        """Return sample ``index`` decoded but not resized: uint8 [h, w, channels]."""
        return self._images.whole(int(self._indices[index]))

    @property
    def in_memory(self) -> bool:
        """Return whether images stay in memory after decoding."""
        return self._images.in_memory

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of a sample: (channels, height, width)."""
        return self._images.shape

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise uint8 [n, height, width, channels] to float32 [n, channels, height, width], as ``batch`` does."""
        return normalise(images, self.mean, self.std)

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        """Return the preprocessed samples ``indices``, float32 [n, channels, height, width]."""
        return self.normalise(self.raw(indices))

    def prepare(self, index: int) -> NDArray[np.float32]:
        """Prepare one sample as a device would, without a cache: float32 [channels, height, width]."""
        ready: NDArray[np.float32] = self.normalise(self._images.image(int(self._indices[index]))[None])[0]
        return ready

    def __len__(self) -> int:
        return len(self.labels)


class ArraySplit:
    """A split of arrays in memory: float32 [n, ...] (for example features) and labels [n]."""

    def __init__(self, arrays: NDArray[Any], labels: NDArray[Any]) -> None:
        if len(arrays) != len(labels):
            raise ValueError(f"{len(arrays)} samples, but {len(labels)} labels")
        self.arrays: NDArray[np.float32] = np.asarray(arrays, np.float32)
        self.labels = np.asarray(labels, np.int64)

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        """Return the samples ``indices``, float32 [n, ...]."""
        picked: NDArray[np.float32] = self.arrays[np.asarray(indices, np.int64)]
        return picked

    def __len__(self) -> int:
        return len(self.labels)


class _View:
    """A selection of another split's samples, with labels of its own."""

    def __init__(self, split: Split, indices: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self._split = split
        self._indices = indices
        self.labels = labels

    def batch(self, indices: Indices) -> NDArray[np.float32]:
        return self._split.batch(self._indices[np.asarray(indices, np.int64)])

    def __len__(self) -> int:
        return len(self.labels)


def subset(split: Split, indices: Indices) -> Split:
    """Return the samples ``indices`` of a split, in that order. A subset of an image split is an image split."""
    picked = np.asarray(indices, np.int64)
    return _view(split, picked, split.labels[picked])


def relabel(split: Split, mapping: Mapping[int, int]) -> Split:
    """Return the same samples with each label replaced through ``mapping``. An image split stays an image split.

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


PARITY_SAMPLES = 256


def parity_indices(n: int) -> list[int]:
    """Return the fixed samples of the test split on which parity is checked: evenly spread over it."""
    return spread(n, PARITY_SAMPLES)


def spread(n: int, most: int) -> list[int]:
    """Return at most ``most`` of the indices below ``n``, evenly spread."""
    k = min(n, most)
    return [index * n // k for index in range(k)]


def to_pixels(images: Array, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Return the pixels from which preprocessing made ``images``: float32 [n, C, H, W] -> uint8 [n, H, W, C]."""
    shape = (1, -1, 1, 1)
    scaled = images * (255 * np.array(std, np.float32)).reshape(shape)
    scaled += (255 * np.array(mean, np.float32)).reshape(shape)
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    pixels: NDArray[np.uint8] = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels)  # otherwise the frame of every peer would copy it

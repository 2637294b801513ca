"""Data sets and their splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from harness.types.params import Params

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


__all__ = ["Data", "DataChoice", "DataInfo", "Dataset", "Preprocessing", "Scale", "Split"]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """Static facts of a data set.

    ``shape``: (channels, height, width); height and width are 0 if the images have no common size. ``sizes``: numbers
    of samples of "train" and "test", 0 if unknown before loading. ``mean`` and ``std``: per channel, on a 0..1 scale.
    ``missing``: why the data cannot be read here, and how to get it.
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
        """Return the number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are prepared for a model: size in pixels per side, resizing, crop, and normalisation.

    ``crop_pct`` and ``crop_mode``: see :class:`DataChoice`. ``mean`` and ``std``: per channel, on a 0..1 scale.
    """

    image_size: int
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    crop_pct: float | None
    crop_mode: Literal["center", "squash"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Scale(Params):
    """A mean and a standard deviation per channel, on a 0..1 scale."""

    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(min_length=1)


class DataChoice(Params):
    """The keys of a suite's ``data:`` block that every data set has."""

    name: str = Field(min_length=1, description="the data set")
    image_size: int | None = Field(
        None, ge=1, description="pixels per side of the images that models get (default: as stored)"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic"] = Field(
        "bilinear", description="how images are resized"
    )
    crop_pct: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of a side that a centre crop keeps: images are resized to image_size / crop_pct, then cropped; "
        "none: resized to the square",
    )
    crop_mode: Literal["center", "squash"] = Field(
        "center", description="before the crop, the short side is resized (center), or both sides (squash)"
    )
    normalize: Literal["dataset", "imagenet", "half"] | Scale = Field(
        "dataset",
        description="mean and standard deviation: the data set's, ImageNet's, 0.5 and 0.5, or {mean: [...], std: [...]}",
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of each class's training images that is used for validation"
    )
    classes: tuple[int, ...] | None = Field(
        None, description="class indices to keep; they become 0, 1, ... in this order"
    )
    shots: int | None = Field(
        None, ge=1, description="number of training images per class, without validation images"
    )

    @property
    def normalize_name(self) -> str:
        """Return ``normalize`` as one text, for records and tables."""
        if isinstance(self.normalize, str):
            return self.normalize
        mean, std = (
            ",".join(f"{value:.4g}" for value in values)
            for values in (self.normalize.mean, self.normalize.std)
        )
        return f"mean {mean} std {std}"

    @property
    def resize_name(self) -> str:
        """Return how images are resized as one text, for records and tables: ``bicubic, crop 0.9``."""
        if self.image_size is None:
            return "as stored"
        crop = (
            f", {'squash and ' if self.crop_mode == 'squash' else ''}crop {self.crop_pct:g}"
            if self.crop_pct
            else ""
        )
        return f"{self.interpolation}{crop}"

    @field_validator("classes", mode="before")
    @classmethod
    def _list_of_classes(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(
                f"list the class indices to keep, like [0, 1, 2], not {value!r} "
                "(how many classes there are is num_classes)"
            )
        return value


class Dataset(Protocol):
    """One stored split. The labels are in memory, and images are decoded one at a time."""

    labels: NDArray[np.int64]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index``, uint8 [height, width, channels], in its stored size."""
        ...

    def __len__(self) -> int: ...


class Split(Protocol):
    """A split for training and evaluation: labels, and batches by the indices of their samples."""

    labels: NDArray[np.int64]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the preprocessed samples ``indices``, float32 [n, ...]."""
        ...

    def __len__(self) -> int: ...


class Data(Protocol):
    """The data set of a method: its facts after class selection and resizing, and its splits."""

    @property
    def info(self) -> DataInfo:
        """Return the facts of the data after class selection and resizing."""
        ...

    @property
    def train(self) -> Split:
        """Return the training split, without the validation samples."""
        ...

    @property
    def validation(self) -> Split:
        """Return the validation split, which is a part of the stored training split."""
        ...

    @property
    def test(self) -> Split:
        """Return the test split. Methods must not use it."""
        ...

"""The answers of a model to the images of the test split, as tests of accuracy compare them: right or wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Labels", "SeedAnswers"]


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of n test images, integers [n]. ``images``: a hash of them, 16 bytes."""

    values: NDArray[Any]
    images: bytes

    @classmethod
    def of(cls, values: NDArray[Any]) -> Labels:
        """Return labels with their hash, which does not depend on the type of the integers."""
        return cls(values, hashlib.blake2b(values.astype("<i8").tobytes(), digest_size=16).digest())


@dataclass(frozen=True, slots=True)
class SeedAnswers:
    """The answers of one seed to n test images.

    ``images``: a hash of the labels, 16 bytes, which is equal for the same images. ``right``: whether each answer is
    right, one bit for each image, as :func:`numpy.packbits` packs them. Unused bits at the end are 0.
    """

    images: bytes
    n: int
    right: bytes

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> SeedAnswers | None:
        """Return the answers in the raw arrays of a record, or None if it has no predictions or no labels."""
        if "predictions" not in arrays or "labels" not in arrays:
            return None
        return cls.to(Labels.of(arrays["labels"]), arrays["predictions"])

    @classmethod
    def to(cls, labels: Labels, predictions: NDArray[Any]) -> SeedAnswers:
        """Return the answers ``predictions``, integers [n], to the images with ``labels``."""
        right = np.packbits(predictions == labels.values).tobytes()
        return cls(labels.images, len(labels.values), right)

    @property
    def bits(self) -> NDArray[np.uint8]:
        """Return ``right`` as an array, uint8 [ceil(n / 8)]."""
        return np.frombuffer(self.right, np.uint8)

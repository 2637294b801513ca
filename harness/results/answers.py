"""The answers of a model to the images of the test split, as tests of accuracy compare them: right or wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SeedAnswers"]


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
        labels = arrays["labels"].astype("<i8")
        digest = hashlib.blake2b(labels.tobytes(), digest_size=16).digest()
        return cls(digest, len(labels), np.packbits(arrays["predictions"] == arrays["labels"]).tobytes())

    @property
    def bits(self) -> NDArray[np.uint8]:
        """Return ``right`` as an array, uint8 [ceil(n / 8)]."""
        return np.frombuffer(self.right, np.uint8)

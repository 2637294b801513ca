"""Synthetic images: a pattern per class plus noise. They serve suites about latency, and tests."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.types import DataInfo, Params

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Synthetic", "SyntheticParams", "describe", "load"]

CELLS = 4
"""The number of squares of one colour along each side of a class's pattern."""
CONTRAST, NOISE = 60, 25


class SyntheticParams(Params):
    """The number of images and classes, and the size of an image."""

    num_classes: int = Field(10, ge=2, description="number of classes; their sizes differ by at most one")
    size: int = Field(32, ge=1, description="pixels per side")
    channels: Literal[1, 3] = Field(3, description="number of channels: 1 or 3")
    train: int = Field(1000, ge=0, description="number of training images")
    test: int = Field(200, ge=1, description="number of test images")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the patterns and the noise")


class Synthetic:
    """The images of one split. Image ``i`` has class ``i mod num_classes`` and is computed at each call."""

    def __init__(self, params: SyntheticParams, split: str) -> None:
        import numpy as np

        self._params = params
        self._number = {"train": 0, "test": 1}[split]
        self.labels: NDArray[np.int64] = (
            np.arange(getattr(params, split), dtype=np.int64) % params.num_classes
        )

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return the image as uint8 [size, size, channels]."""
        import numpy as np

        p = self._params
        # the stream of RandomState never changes, so these images are the same with any numpy
        pattern = np.random.RandomState([p.seed, int(self.labels[index])])
        fields = 128 + pattern.choice([-CONTRAST, CONTRAST], (CELLS, CELLS, p.channels))
        place = np.arange(p.size) * CELLS // p.size
        noise = np.random.RandomState([p.seed, self._number, index]).randint(
            -NOISE, NOISE + 1, (p.size, p.size, p.channels)
        )
        pixels: NDArray[np.uint8] = (fields[place][:, place] + noise).astype(np.uint8)
        return pixels

    def __len__(self) -> int:
        return len(self.labels)


def describe(params: SyntheticParams) -> DataInfo:
    """Return the static facts of the synthetic images."""
    content = json.dumps(params.model_dump(mode="json"), sort_keys=True)
    return DataInfo(
        name="synthetic",
        shape=(params.channels, params.size, params.size),
        class_names=tuple(str(index) for index in range(params.num_classes)),
        sizes={"train": params.train, "test": params.test},
        mean=(0.5,) * params.channels,
        std=(0.25,) * params.channels,
        fingerprint=hashlib.sha256(f"synthetic {content}".encode()).hexdigest(),
        note="made-up images: accuracy on them says nothing about real ones",
    )


def load(params: SyntheticParams, split: str) -> Synthetic:
    """Return one split, "train" or "test"."""
    return Synthetic(params, split)

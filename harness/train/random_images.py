"""Random changes of single images: timm's random resized crop, a flip, and timm's RandAugment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.splits import ImageSplit
from harness.train.loading import Draws
from harness.types import Split
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RandomImages", "drawn_from", "is_random"]


def is_random(recipe: TrainRecipe) -> bool:
    """Return whether ``recipe`` changes single images at random, which needs their bytes in every epoch."""
    return recipe.augment == "resized-crop-flip" or recipe.rand_augment != "none"


class RandomImages:
    """The images of a split, changed at random as a recipe says.

    A random crop is of the stored image, before it is resized. The changes of a sample are a pure function of the
    epoch's seed, the sample's position and its repetition. They depend neither on the batch nor on the process.

    Raises:
        ValueError: the split does not consist of grey or RGB images.
    """

    def __init__(self, split: Split, recipe: TrainRecipe) -> None:
        from PIL import Image
        from timm.data.auto_augment import posterize, rand_augment_transform
        from timm.data.transforms import RandomResizedCropAndInterpolation

        self._crops = recipe.augment == "resized-crop-flip"
        setting = f"augment {recipe.augment}" if self._crops else f"rand_augment {recipe.rand_augment}"
        if not isinstance(split, ImageSplit):
            raise ValueError(
                f"{setting} needs the images of a data set, and this training reads what was computed from "
                "them; the method can switch augmentation off: ctx.fit(..., **NO_AUGMENTATION)"
            )
        if len(split.mean) not in (1, 3):
            raise ValueError(f"{setting} needs images of 1 or 3 channels, not {len(split.mean)}")
        self._split, self._recipe = split, recipe
        channels, height, width = split.shape
        if self._crops and recipe.image_size is not None:
            height = width = recipe.image_size
        self._shape = (height, width, channels)
        self._changes: list[Callable[[Any], Any]] = []
        if self._crops:
            crop = RandomResizedCropAndInterpolation((height, width), interpolation="bicubic")
            self._changes += [crop, _flip]
        if recipe.rand_augment != "none":
            fill = tuple(min(255, round(255 * mean)) for mean in split.mean)  # for new border pixels
            hparams = {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
            transform = rand_augment_transform(recipe.rand_augment, hparams)
            for operation in transform.ops:
                if operation.aug_fn is posterize:
                    operation.aug_fn = _posterize
            self._changes.append(transform)

    def __reduce__(self) -> tuple[Any, ...]:
        return RandomImages, (self._split, self._recipe)

    def pixels(self, draws: Draws) -> NDArray[np.uint8]:
        """Return the images of ``draws``, changed: uint8 [n, height, width, channels]."""
        from PIL import Image

        changed = np.empty((len(draws), *self._shape), np.uint8)
        with drawn_from(draws.seed) as reseed:
            for i, (index, repeat) in enumerate(
                zip(draws.index.tolist(), draws.repeat.tolist(), strict=True)
            ):
                image = self._split.whole(index) if self._crops else self._split.raw([index])[0]
                reseed(draws.seed, index, repeat)
                picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
                for change in self._changes:
                    picture = change(picture)
                changed[i] = np.asarray(picture).reshape(self._shape)
        return changed


def _flip(picture: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.mirror(picture) if random.random() < 0.5 else picture


def _posterize(picture: Any, bits: int, **_: Any) -> Any:
    """Posterize as timm does.

    At timm's greatest magnitudes no bit is kept (a black image), which Pillow 13 refuses.
    """
    from PIL import Image
    from timm.data.auto_augment import posterize

    return posterize(picture, bits) if bits > 0 else Image.new(picture.mode, picture.size)


@contextmanager
def drawn_from(*seed: int) -> Iterator[Callable[..., None]]:
    """Seed the global random states of Python and numpy, and restore them afterwards.

    The function that is yielded seeds them again.
    """
    before = random.getstate(), np.random.get_state()

    def reseed(*seed: int) -> None:
        python, numpy = map(int, np.random.SeedSequence(seed).generate_state(2))
        random.seed(python)
        np.random.seed(numpy)

    try:
        reseed(*seed)
        yield reseed
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

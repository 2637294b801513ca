"""Augmentation in training: that of DeiT, through timm, and a crop and flip in one gather per batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.splits import ImageSplit
from harness.train.counting.modes import evaluating
from harness.train.evaluation import KEEP_BYTES, Batch, Batches
from harness.types import Split
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Augmented", "CropFlip", "RandomImages", "drawn_from", "mix"]


class Augmented:
    """The training samples on the device, augmented by the recipe: RandAugment, crop and flip, erasing, mixing.

    Every random choice is a pure function of the step and of the seed that ``start`` gets. The noise of erased pixels
    is the exception: it comes from torch's global generator. A split of up to ``keep_bytes`` bytes is kept on the
    device, unless its images are augmented from their bytes in every epoch.
    """

    def __init__(
        self,
        split: Split,
        recipe: TrainRecipe,
        device: torch.device,
        module: torch.nn.Module,
        *,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self._device, self._crops = device, recipe.augment == "crop-flip"
        self._crop: CropFlip | None = None
        self._erase: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._mixup: Callable[..., Any] | None = None
        self._seed = 0
        _need_images(split, recipe)
        self._redrawn = recipe.augment == "resized-crop-flip" or recipe.rand_augment != "none"
        self._samples = (
            Batches(RandomImages(split, recipe), device)
            if self._redrawn
            else Batches(split, device, keep_bytes=keep_bytes)
        )
        if recipe.random_erasing:
            from timm.data.random_erasing import RandomErasing

            self._erase = RandomErasing(recipe.random_erasing, mode="pixel", device=device)
        if recipe.mixup or recipe.cutmix:
            from timm.data.mixup import Mixup

            # Without smoothing: smoothing and mixing commute, and the loss does the smoothing.
            classes = _classes(module, split, device)
            self._mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0, num_classes=classes)

    def start(self, seed: int) -> None:
        """Begin an epoch. ``seed`` determines its random choices."""
        self._seed = seed
        if self._crops:
            self._crop = CropFlip(len(self), seed, self._device)

    def take(self, indices: NDArray[np.int64], step: int) -> Batch:
        """Return the samples ``indices`` as batch number ``step`` of the epoch."""
        drawn = self._redrawn or self._erase is not None or self._mixup is not None
        with drawn_from(self._seed, step) if drawn else nullcontext():
            batch = self._samples.take(indices)
            inputs, labels = batch.inputs, batch.labels
            if self._crop is not None:
                inputs = self._crop(inputs, batch.index)
            if self._erase is not None:
                inputs = self._erase(inputs.clone())  # timm's functions write in place
            if self._mixup is not None:
                inputs, labels = mix(self._mixup, inputs, labels)
        return replace(batch, inputs=inputs, labels=labels)

    def __len__(self) -> int:
        return len(self._samples)


def _need_images(split: Split, recipe: TrainRecipe) -> None:
    shape = split.batch([0]).shape[1:]
    for key in ("random_erasing", "cutmix"):
        if getattr(recipe, key) and len(shape) != 3:
            text = "x".join(map(str, shape))
            raise ValueError(f"{key} needs images [channels, height, width], not {text}")


def _classes(module: torch.nn.Module, split: Split, device: torch.device) -> int:
    """Return the number of the module's logits. It can exceed the classes in the training samples."""
    import torch

    first = Batches(split, device).take(np.arange(1))
    with evaluating(module), torch.inference_mode():
        return int(module(first.inputs).shape[-1])


def mix(
    mixup: Callable[..., Any], inputs: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply timm's ``mixup`` to any number n of samples.

    Maps ``inputs`` [n, ...] and ``labels`` [n] to inputs [n, ...] and labels float32 [n, classes].

    timm mixes sample i with sample n - 1 - i. With an odd n the last sample stays unmixed.
    """
    import torch
    from timm.data.mixup import one_hot

    even = len(inputs) - len(inputs) % 2
    mixed, soft = mixup(inputs[:even].clone(), labels[:even])
    return torch.cat([mixed, inputs[even:]]), torch.cat([soft, one_hot(labels[even:], soft.shape[1])])


class RandomImages:
    """A split of images whose ``batch`` augments them differently at each call.

    It applies timm's random resized crop, a flip, and timm's RandAugment to the images' bytes. The random numbers
    come from the global random states of Python and numpy.

    Raises:
        ValueError: the split does not consist of grey or RGB images.
    """

    def __init__(self, split: Split, recipe: TrainRecipe) -> None:
        from PIL import Image
        from timm.data.auto_augment import posterize, rand_augment_transform
        from timm.data.transforms import RandomResizedCropAndInterpolation

        resized = recipe.augment == "resized-crop-flip"
        setting = f"augment {recipe.augment}" if resized else f"rand_augment {recipe.rand_augment}"
        if not isinstance(split, ImageSplit):
            raise ValueError(
                f"{setting} needs the images of a data set, and this training reads what was computed from "
                "them; the method can switch augmentation off: ctx.fit(..., **NO_AUGMENTATION)"
            )
        if len(split.mean) not in (1, 3):
            raise ValueError(f"{setting} needs images of 1 or 3 channels, not {len(split.mean)}")
        self._split, self.labels = split, split.labels
        self._changes: list[Callable[[Any], Any]] = []
        if resized:
            size = split.raw([0]).shape[1:3]
            self._changes += [RandomResizedCropAndInterpolation(size, interpolation="bicubic"), _flip]
        if recipe.rand_augment != "none":
            fill = tuple(min(255, round(255 * mean)) for mean in split.mean)  # for new border pixels
            hparams = {"img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
            transform = rand_augment_transform(recipe.rand_augment, hparams)
            for operation in transform.ops:
                if operation.aug_fn is posterize:
                    operation.aug_fn = _posterize
            self._changes.append(transform)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the samples ``indices``, augmented and preprocessed: float32 [n, channels, height, width]."""
        from PIL import Image

        images = self._split.raw(indices)  # [n, H, W, C]
        changed = np.empty_like(images)
        for i, image in enumerate(images):
            picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
            for change in self._changes:
                picture = change(picture)
            changed[i] = np.asarray(picture).reshape(image.shape)
        return self._split.normalise(changed)

    def __len__(self) -> int:
        return len(self.labels)


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
def drawn_from(*seed: int) -> Iterator[None]:
    """Seed the global random states of Python and numpy, and restore them afterwards."""
    before = random.getstate(), np.random.get_state()
    python, numpy = map(int, np.random.SeedSequence(seed).generate_state(2))
    try:
        random.seed(python)
        np.random.seed(numpy)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


class CropFlip:
    """A random crop after padding by 4 pixels, and a horizontal flip with probability 1/2, for one epoch.

    The padding mirrors the image, so that padded pixels are plausible after any normalisation. The crop and flip of a
    sample are a pure function of the seed and the sample's index. Neither batch size nor earlier draws change them.
    """

    pad = 4

    def __init__(self, samples: int, seed: int, device: torch.device | str) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self._shift = torch.randint(-self.pad, self.pad + 1, (samples, 2), generator=generator).to(device)
        self._flip = (torch.rand(samples, generator=generator) < 0.5).to(device)

    def __call__(self, inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return ``inputs`` [n, C, H, W] cropped and flipped. ``index`` [n] are the samples' positions in the split.

        Raises:
            ValueError: the inputs are not images, or are too small to mirror 4 pixels.
        """
        import torch

        if inputs.ndim != 4 or min(inputs.shape[2:]) <= self.pad:
            shape = "x".join(map(str, inputs.shape[1:]))
            raise ValueError(f"augment crop-flip needs images of more than {self.pad} pixels, not {shape}")
        n, channels, height, width = inputs.shape
        down, right = self._shift[index].unbind(1)
        columns = torch.arange(width, device=inputs.device).expand(n, width)
        columns = torch.where(self._flip[index, None], width - 1 - columns, columns)
        rows = _mirror(torch.arange(height, device=inputs.device) + down[:, None], height)
        columns = _mirror(columns + right[:, None], width)
        sample = torch.arange(n, device=inputs.device)[:, None, None, None]
        channel = torch.arange(channels, device=inputs.device)[:, None, None]
        return inputs[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _mirror(position: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror positions outside 0..size-1 into that range. The border pixel is not repeated."""
    return (size - 1) - (size - 1 - position.abs()).abs()

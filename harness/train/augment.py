"""Augmentation in training: that of DeiT, through timm, and a crop and flip in one gather per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.train.counting.modes import evaluating
from harness.train.evaluation import KEEP_BYTES, Batch, Batches
from harness.train.loading import Draws, Loader
from harness.train.random_images import RandomImages, drawn_from, is_random
from harness.types import Split
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

__all__ = ["Augmented", "CropFlip", "mix"]


class Augmented:
    """The training samples on the device, augmented by the recipe: RandAugment, crop and flip, erasing, mixing.

    Changes of single images are a pure function of the epoch's seed, the sample and its repetition. Erasing and mixing
    are one of the epoch's seed and the batch's number. The noise of erased pixels is the exception: it comes from
    torch's global generator. A split of up to ``keep_bytes`` bytes is kept on the device, unless its images are
    augmented from their bytes in every epoch. ``loader`` reads the images of a split that is not kept.
    """

    def __init__(
        self,
        split: Split,
        recipe: TrainRecipe,
        device: torch.device,
        module: torch.nn.Module,
        *,
        keep_bytes: int = KEEP_BYTES,
        loader: Loader | None = None,
    ) -> None:
        self._device, self._crops, self._repeats = device, recipe.augment == "crop-flip", recipe.repeats
        self._erase: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._mixup: Callable[..., Any] | None = None
        _need_images(split, recipe)
        changed = RandomImages(split, recipe) if is_random(recipe) else None
        self._samples = Batches(split, device, keep_bytes=keep_bytes, loader=loader, changed=changed)
        if recipe.random_erasing:
            from timm.data.random_erasing import RandomErasing

            self._erase = RandomErasing(recipe.random_erasing, mode="pixel", device=device)
        if recipe.mixup or recipe.cutmix:
            from timm.data.mixup import Mixup

            # Without smoothing: smoothing and mixing commute, and the loss does the smoothing.
            classes = _classes(module, split, device)
            self._mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0, num_classes=classes)

    def epoch(self, seed: int, batches: Sequence[tuple[int, Draws]]) -> Iterator[Batch]:
        """Yield the numbered ``batches`` of an epoch, in order. ``seed`` determines its random choices."""
        import torch

        crop = CropFlip(len(self) * self._repeats, seed, self._device) if self._crops else None
        drawn = self._erase is not None or self._mixup is not None
        samples = self._samples.over([replace(draws, seed=seed) for _, draws in batches])
        for (number, draws), batch in zip(batches, samples, strict=True):
            inputs, labels = batch.inputs, batch.labels
            with drawn_from(seed, number) if drawn else nullcontext():
                if crop is not None:
                    repeat = torch.from_numpy(draws.repeat).to(self._device)
                    inputs = crop(inputs, batch.index + len(self) * repeat)
                if self._erase is not None:
                    inputs = self._erase(inputs.clone())  # timm's functions write in place
                if self._mixup is not None:
                    inputs, labels = mix(self._mixup, inputs, labels)
            yield replace(batch, inputs=inputs, labels=labels)

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

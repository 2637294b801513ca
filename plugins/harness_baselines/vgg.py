"""VGG ("Very Deep Convolutional Networks", Simonyan and Zisserman, 2015) by its dimensions.

This is the usual form for images of 32 px: BatchNorm after every convolution, and one linear layer on the mean over
the pixels instead of three fully connected layers. ``[[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512,
512, 512]]`` is VGG-16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["VGG", "vgg"]


class VGG(nn.Module):
    """A module: images [n, C, H, W] -> logits [n, classes], or features [n, D] if ``classes`` is 0."""

    def __init__(self, channels: int, classes: int, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        widths = [width for stage in stages for width in stage]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for before, width in zip([channels, *widths], widths, strict=False)
        )
        self.pooled = [i == len(stage) - 1 for stage in stages for i in range(len(stage))]
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(widths[-1], classes) if classes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] or features [n, D]."""
        for block, last in zip(self.blocks, self.pooled, strict=True):
            x = block(x)
            if last:
                x = self.pool(x)
        return self.head(x.mean(dim=(2, 3)))


def vgg(
    *, image_size: Sequence[int], channels: int, classes: int, stages: Sequence[Sequence[int]]
) -> nn.Module:
    """Return a new :class:`VGG`. ``image_size`` changes no weight; it is in the spec because counting needs it."""
    return VGG(channels, classes, stages)

"""Training-time augmentation, on the device, in one gather per batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["CropFlip"]


class CropFlip:
    """Random crop after padding by 4 pixels, and horizontal flip with probability 1/2, for one epoch.

    The padding mirrors the image, so that it stays an image after any normalisation. What happens to a sample
    is a pure function of the seed and the sample's index: no batch size or earlier draw changes it.
    """

    pad = 4

    def __init__(self, samples: int, seed: int, device: str) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self._shift = torch.randint(-self.pad, self.pad + 1, (samples, 2), generator=generator).to(device)
        self._flip = (torch.rand(samples, generator=generator) < 0.5).to(device)

    def __call__(self, inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """``inputs`` [n, C, H, W], the samples' positions ``index`` [n] -> [n, C, H, W].

        Raises:
            ValueError: not images, or images too small to mirror 4 pixels.
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
    """Positions outside 0..size-1 mirrored back in, the border pixel not repeated."""
    return (size - 1) - (size - 1 - position.abs()).abs()

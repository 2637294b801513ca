"""Evaluate a module: batches of a split on a device, and the logits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.data.splits import ImageSplit, normalised_levels
from harness.train.counting.modes import evaluating, on_device
from harness.train.loading import Draws, Loader, Pixels, StoredPixels
from harness.types import Evaluation, Split

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["KEEP_BYTES", "Batch", "Batches", "evaluate", "in_batches", "logits_of", "normalised"]

KEEP_BYTES = 1 << 30
"""Largest size in bytes of a split that a training keeps on the device. The training split of CIFAR-10 fits."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The samples that a loss gets, on the training device.

    ``inputs`` are float32 [n, ...], ``labels`` int64 [n]. ``index``, int64 [n], are the samples' positions in the
    training split. Under mixup or cutmix ``labels`` are float32 [n, classes], and each row sums to 1. torch's
    ``cross_entropy`` takes both forms.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


def evaluate(
    module: torch.nn.Module, split: Split, *, device: str, batch_size: int = 256, workers: int = 0
) -> Evaluation:
    """Run ``module`` over a split in inference mode. Its training mode and device are restored afterwards.

    With fewer than five classes, ``top5`` covers all classes. Equal logits are ranked by class index. ``workers``
    processes decode the images, unless these stay in memory.

    Raises:
        ValueError: the split is empty, or the module does not give logits [n, classes] for all classes of the labels.
    """
    import torch

    if len(split) == 0:
        raise ValueError("there is no sample to evaluate")
    where = torch.device(device)
    with on_device(module, where), Loader(workers) as loader:
        samples = Batches(split, where, loader=loader)
        logits = logits_of(module, samples, batch_size).cpu().numpy()
    greatest = int(np.max(split.labels))
    if greatest >= logits.shape[1]:
        raise ValueError(f"there is a label {greatest}, and the module gives {logits.shape[1]} logits")
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5] == np.asarray(split.labels)[:, None]
    return Evaluation(
        logits=logits,
        top1=100 * float(ranked[:, 0].mean()),
        top5=100 * float(ranked.any(axis=1).mean()),
        n=len(logits),
    )


class Batches:
    """A split on a device. A split of up to ``keep_bytes`` bytes is copied whole.

    A larger one is copied batch by batch. ``loader`` reads the images of :meth:`over`, unless they stay in memory after
    decoding. ``changed`` are the images to be read in place of the split's, in every epoch.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        *,
        keep_bytes: int = 0,
        loader: Loader | None = None,
        changed: Pixels | None = None,
    ) -> None:
        import torch

        self._split, self._device = split, device
        self.labels = torch.as_tensor(np.array(split.labels, np.int64), device=device)
        self._whole: torch.Tensor | None = None
        self._read: Callable[[Sequence[Draws]], Iterator[NDArray[np.uint8]]] | None = None
        loader = loader or Loader()
        if changed is not None:
            self._read = partial(loader.read, loader.add(changed))
        elif keep_bytes and (first := split.batch([0])).nbytes * len(split) <= keep_bytes:
            whole = torch.empty(len(split), *first.shape[1:])
            for start in range(0, len(split), 1024):
                rows = np.arange(start, min(start + 1024, len(split)))
                whole[start : start + 1024] = self._fetch(rows)
            self._whole = whole.to(device)
        elif loader.workers and isinstance(split, ImageSplit) and not split.in_memory:
            self._read = partial(loader.read, loader.add(StoredPixels(split)))

    def take(self, indices: NDArray[np.int64]) -> Batch:
        """Return the samples at ``indices`` [n], without a change."""
        import torch

        index = torch.from_numpy(indices).to(self._device)
        if self._whole is not None:
            inputs = self._whole[index]
        else:
            inputs = self._on_device(self._fetch(indices))
        return Batch(inputs=inputs, labels=self.labels[index], index=index)

    def over(self, batches: Sequence[Draws]) -> Iterator[Batch]:
        """Yield each batch, in order. No batch is empty."""
        import torch

        if self._read is None:
            for draws in batches:
                yield self.take(draws.index)
            return
        assert isinstance(self._split, ImageSplit)
        levels = normalised_levels(self._split.mean, self._split.std)
        for draws, images in zip(batches, self._read(batches), strict=True):
            index = torch.from_numpy(draws.index).to(self._device)
            if self._device.type == "cuda":  # bytes are a quarter of the copy, and one core would be too slow
                inputs = normalised(self._on_device(torch.from_numpy(images)), torch.from_numpy(levels))
            else:
                inputs = torch.from_numpy(self._split.normalise(images))
            yield Batch(inputs=inputs, labels=self.labels[index], index=index)

    def _fetch(self, indices: NDArray[np.int64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.require(self._split.batch(indices), np.float32, ["C", "W"]))

    def _on_device(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            return inputs
        return inputs.pin_memory().to(self._device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.labels)


def normalised(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Return what :func:`harness.data.splits.normalise` returns, bit for bit, on the device of ``images``.

    Maps bytes [n, H, W, C] and the values of ``levels``, float32 [C, 256], to float32 [n, C, H, W].
    """
    import torch

    levels = levels.to(images.device)
    return torch.stack([values[images[..., channel].int()] for channel, values in enumerate(levels)], dim=1)


def in_batches(samples: int, size: int) -> list[Draws]:
    """Return the positions 0 to ``samples`` - 1 in batches of ``size``. The last may be smaller."""
    return [Draws.of(np.arange(start, min(start + size, samples))) for start in range(0, samples, size)]


def logits_of(module: torch.nn.Module, samples: Batches, batch_size: int) -> torch.Tensor:
    """Return the logits of ``module`` in evaluation mode for all samples: float32 [n, classes], on the device."""
    import torch

    parts = []
    with evaluating(module), torch.inference_mode():
        for batch in samples.over(in_batches(len(samples), batch_size)):
            logits = module(batch.inputs)
            if logits.ndim != 2 or len(logits) != len(batch.index):
                shape = "x".join(map(str, logits.shape))
                raise ValueError(
                    f"evaluating needs logits [{len(batch.index)}, classes]; the module gave {shape}"
                )
            parts.append(logits.float())
        return torch.cat(parts)

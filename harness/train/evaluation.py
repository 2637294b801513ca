"""Evaluate a module: batches of a split on a device, and the logits for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.train.counting.modes import evaluating, on_device
from harness.types import Evaluation, Split

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["KEEP_BYTES", "Batch", "Batches", "evaluate", "logits_of"]

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


def evaluate(module: torch.nn.Module, split: Split, *, device: str, batch_size: int = 256) -> Evaluation:
    """Run ``module`` over a split in inference mode. Its training mode and device are restored afterwards.

    With fewer than five classes, ``top5`` covers all classes. Equal logits are ranked by class index.

    Raises:
        ValueError: the split is empty, or the module does not give logits [n, classes] for all classes of the labels.
    """
    import torch

    if len(split) == 0:
        raise ValueError("there is no sample to evaluate")
    where = torch.device(device)
    with on_device(module, where):
        samples = Batches(split, where)
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

    A larger one is copied batch by batch.
    """

    def __init__(self, split: Split, device: torch.device, *, keep_bytes: int = 0) -> None:
        import torch

        self._split, self._device = split, device
        self.labels = torch.as_tensor(np.array(split.labels, np.int64), device=device)
        self._whole: torch.Tensor | None = None
        if keep_bytes and (first := split.batch([0])).nbytes * len(split) <= keep_bytes:
            whole = torch.empty(len(split), *first.shape[1:])
            for start in range(0, len(split), 1024):
                rows = np.arange(start, min(start + 1024, len(split)))
                whole[start : start + 1024] = self._fetch(rows)
            self._whole = whole.to(device)

    def take(self, indices: NDArray[np.int64]) -> Batch:
        """Return the samples at ``indices`` [n]."""
        import torch

        index = torch.from_numpy(indices).to(self._device)
        if self._whole is not None:
            inputs = self._whole[index]
        elif self._device.type == "cuda":
            inputs = self._fetch(indices).pin_memory().to(self._device, non_blocking=True)
        else:
            inputs = self._fetch(indices)
        return Batch(inputs=inputs, labels=self.labels[index], index=index)

    def _fetch(self, indices: NDArray[np.int64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.require(self._split.batch(indices), np.float32, ["C", "W"]))

    def __len__(self) -> int:
        return len(self.labels)


def logits_of(module: torch.nn.Module, samples: Batches, batch_size: int) -> torch.Tensor:
    """Return the logits of ``module`` in evaluation mode for all samples: float32 [n, classes], on the device."""
    import torch

    parts = []
    with evaluating(module), torch.inference_mode():
        for start in range(0, len(samples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(samples)))
            logits = module(samples.take(rows).inputs)
            if logits.ndim != 2 or len(logits) != len(rows):
                shape = "x".join(map(str, logits.shape))
                raise ValueError(f"evaluating needs logits [{len(rows)}, classes]; the module gave {shape}")
            parts.append(logits.float())
        return torch.cat(parts)

"""The default loss of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.train.evaluation import Batch
from harness.types.recipe import TrainRecipe

if TYPE_CHECKING:
    import torch

__all__ = ["Loss", "default_loss"]

Loss = Callable[["torch.nn.Module", Batch], "torch.Tensor"]


def default_loss(recipe: TrainRecipe) -> Loss:
    """Return the loss of ``recipe``: cross-entropy, or the binary cross-entropy of timm, a mean over n x classes.

    Labels are smoothed here, also those that Mixup or CutMix mixed. A threshold turns the smoothed labels of the binary
    loss into 0 and 1: every class of a mixed image counts whole ("ResNet strikes back", section 4.1).
    """
    from torch.nn import functional

    smoothing = recipe.label_smoothing
    if recipe.loss == "cross-entropy":

        def cross_entropy(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return functional.cross_entropy(module(batch.inputs), batch.labels, label_smoothing=smoothing)

        return cross_entropy

    from timm.loss import BinaryCrossEntropy

    timms = BinaryCrossEntropy(smoothing, target_threshold=recipe.bce_threshold)

    def binary(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        logits, labels = module(batch.inputs), batch.labels
        if labels.ndim == 2:  # timm smooths class indices only
            labels = labels * (1 - smoothing) + smoothing / labels.shape[1]
        loss: torch.Tensor = timms(logits, labels)
        return loss

    return binary

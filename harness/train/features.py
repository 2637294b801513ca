"""Compute the features of a frozen module once per image, and train a head on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.splits import ArraySplit
from harness.train.counting.modes import evaluating, on_device
from harness.train.evaluation import Batches, in_batches
from harness.train.loading import Loader
from harness.types import Context, FitResult, Split
from harness.types.recipe import NO_AUGMENTATION

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["extract_features", "fit_on_features"]


def extract_features(
    ctx: Context,
    module: torch.nn.Module,
    split: Split,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch: int = 256,
) -> NDArray[np.float32]:
    """Return the outputs [n, ...] of ``module`` in evaluation mode for every sample of ``split``.

    If ``forward`` is given, it maps inputs to outputs instead. It must use ``module``.
    """
    import torch

    device, outputs = torch.device(ctx.device), []
    with Loader(ctx.workers) as loader, on_device(module, device), evaluating(module), torch.inference_mode():
        samples = Batches(split, device, loader=loader)
        for number, taken in enumerate(samples.over(in_batches(len(split), batch))):
            ctx.progress(f"features of {len(split)} images", number * batch / len(split))
            outputs.append((forward or module)(taken.inputs).cpu().numpy())
    return np.concatenate(outputs)


def fit_on_features(
    ctx: Context,
    trunks: Sequence[torch.nn.Module],
    head: torch.nn.Module,
    *,
    macs: int,
    name: str,
    **recipe: Any,
) -> FitResult:
    """Train ``head`` on the features [n, D] of the frozen ``trunks``, concatenated.

    The trunks cost ``macs`` per image. Their features are computed once per image, so there is no augmentation. The
    forward passes of the trunks are a part of the cost.
    """
    start, train = time.perf_counter(), ctx.data.train
    columns = [extract_features(ctx, trunk, train) for trunk in trunks]
    seconds = time.perf_counter() - start
    features = ArraySplit(np.concatenate(columns, axis=1), train.labels)
    fit = ctx.fit(head, data=features, name=name, **recipe, **NO_AUGMENTATION)
    return replace(
        fit,
        image_passes=fit.image_passes + len(train),
        train_macs=fit.train_macs + len(train) * macs,
        train_s=fit.train_s + seconds,
    )

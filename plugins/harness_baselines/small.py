"""Small ViTs on all classes, trained from random weights with a given training compute: one ViT, or an ensemble of N.

Training compute is image passes times the MACs of a forward pass (``Lineage.train_macs``), summed over all steps of
the source. It is spent in whole epochs: the nearest number, at least one. The lineage holds the compute that was
spent and its ratio to the target. Pretraining that was done elsewhere is in no lineage, so it is in no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from harness.methods import Piece, fused_partition, seeded
from harness.types import Context, FitResult, Lineage, Model, Partition, Split, TensorSpec
from harness_baselines.sketch import MEAN, SmallSize, small_shape
from harness_timm.vit import ViTShape

__all__ = ["Compute", "Mean", "budget", "ensemble", "mean", "small_model", "spend", "step_of"]

Compute: TypeAlias = Literal["equal"] | float
"""Training compute: equal to the source's, or a multiple of it."""


def small_model(
    ctx: Context, source: Model, size: SmallSize, compute: Compute, recorded: Mapping[str, Any]
) -> Model:
    """Return one small ViT of ``size``, trained with ``compute``. The source's lineage gives only the training budget.

    ``recorded`` are the parameters as the record states them.

    Raises:
        ValueError: the source records no training, or the dimensions do not fit the image.
    """
    info = ctx.data.info
    shape = small_shape(source.spec, size, info.shape, info.classes)
    target = budget(source, compute)
    module = seeded(shape.spec().build, ctx.seed)
    fit = spend(ctx, module, shape, target, "small-model")
    return Model(
        module=module,
        spec=shape.spec(),
        input=TensorSpec(shape=info.shape),
        classes=info.classes,
        lineage=(step_of("compress", "small-model", recorded, target, [fit]),),
    )


def ensemble(
    ctx: Context, source: Model, size: SmallSize, compute: Compute, members: int, recorded: Mapping[str, Any]
) -> Partition:
    """Return N = ``members`` small ViTs that differ by their initial weights, each trained with 1/N of the budget.

    If a member's logits are absent, zeros replace them. The mean is then scaled, which does not change the predicted
    class.

    Raises:
        ValueError: as :func:`small_model`.
    """
    shape = small_shape(source.spec, size, source.input.shape, source.classes)
    target = budget(source, compute)
    modules: list[nn.Module] = []
    fits: list[FitResult] = []
    for i in range(1, members + 1):
        module = seeded(shape.spec().build, ctx.seed * 1000 + i)
        fits.append(spend(ctx, module, shape, target // members, f"member{i}"))
        modules.append(module)
    logits = (source.classes,)
    return fused_partition(
        source,
        [Piece(module=module, spec=shape.spec(), output=logits) for module in modules],
        Piece(module=MEAN.build(), spec=MEAN, output=logits),
        missing="zeros",
        lineage=(step_of("partition", "ensemble", recorded, target, fits),),
        names=("member", "mean"),
    )


class Mean(nn.Module):
    """A module: logits [n, classes] of each member -> their mean [n, classes]."""

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        """Return the mean [n, classes]."""
        return torch.stack(logits).mean(dim=0)


def mean() -> nn.Module:
    """Return a new :class:`Mean`."""
    return Mean()


def budget(source: Model, compute: Compute) -> int:
    """Return the training compute to spend, in MACs.

    Raises:
        ValueError: the source records no training.
    """
    spent = sum(step.train_macs for step in source.lineage)
    if not spent:
        raise ValueError("the model in `from` was not trained: there is no training compute to be equal to")
    return round(spent * (1.0 if compute == "equal" else compute))


def spend(
    ctx: Context, module: nn.Module, shape: ViTShape, macs: int, name: str, data: Split | None = None
) -> FitResult:
    """Train ``module`` for the number of epochs that is nearest to ``macs``, at least one.

    ``data`` are the training images; None stands for all of them.
    """
    images = len(ctx.data.train if data is None else data)
    epochs = max(1, round(macs / (shape.macs() * images)))
    return ctx.fit(module, data=data, name=name, epochs=epochs, early_stop=None)  # to the budget's end


def step_of(
    stage: str, entry: str, recorded: Mapping[str, Any], target: int, fits: Sequence[FitResult], **notes: Any
) -> Lineage:
    """Return the step of the lineage, with the cost of all ``fits`` and the target in MACs."""
    spent = sum(fit.train_macs for fit in fits)
    spending = {
        "target_macs": target,
        "spent_macs": spent,
        "ratio": spent / target,
        "epochs": [fit.epochs for fit in fits],
    }
    return Lineage.of(stage, entry, recorded, fits, {**spending, **notes})

"""Small ViTs from random weights, on all classes, for a stated training compute: one, or an ensemble of N.

Training compute is image passes times the MACs of a forward pass (``Lineage.train_macs``), summed over the
source's whole history. It is spent in whole epochs: the nearest number, at least one; what was really spent
and its ratio to the target are in the lineage. Pretraining done elsewhere is in no lineage, so in no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from harness.types import IMAGE, Context, Edge, FitResult, Lineage, Model, Part, Partition, Split, TensorSpec
from harness_baselines.params import EnsembleParams, SmallModelParams
from harness_baselines.sketch import MEAN, small_shape
from harness_timm.models import seeded
from harness_timm.vit import ViTShape

__all__ = ["Mean", "budget", "ensemble", "mean", "small_model", "spend", "step_of"]


def small_model(ctx: Context, source: Model, params: SmallModelParams) -> Model:
    """One small ViT. Its lineage starts anew: of the source it has the budget alone.

    Raises:
        ValueError: the source records no training, or the dimensions do not fit the image.
    """
    info = ctx.data.info
    shape = small_shape(source.spec, params, info.shape, info.classes)
    target = budget(source, params)
    module = seeded(shape.spec().build, ctx.seed)
    fitted = spend(ctx, module, shape, target, "small-model")
    return Model(
        module=module,
        spec=shape.spec(),
        input=TensorSpec(shape=info.shape),
        classes=info.classes,
        lineage=(step_of("compress", "small-model", params, target, [fitted]),),
    )


def ensemble(ctx: Context, source: Model, params: EnsembleParams) -> Partition:
    """N small ViTs that differ by their initial weights, each trained with 1/N of the budget.

    Raises:
        ValueError: as :func:`small_model`.
    """
    shape = small_shape(source.spec, params, source.input.shape, source.classes)
    target = budget(source, params)
    image, answer = TensorSpec(shape=source.input.shape), TensorSpec(shape=(source.classes,))
    parts: list[Part] = []
    fits: list[FitResult] = []
    for i in range(1, params.members + 1):
        module = seeded(shape.spec().build, ctx.seed * 1000 + i)
        fits.append(spend(ctx, module, shape, target // params.members, f"member{i}"))
        edge = Edge(source=IMAGE, tensor=image)
        parts.append(Part(name=f"member{i}", module=module, spec=shape.spec(), inputs=(edge,), output=answer))
    parts.append(
        Part(
            name="mean",
            module=MEAN.build(),
            spec=MEAN,
            # without a member's logits the mean of the others, scaled: the same answer
            inputs=tuple(Edge(source=part.name, tensor=answer, missing="zeros") for part in parts),
            output=answer,
        )
    )
    step = step_of("partition", "ensemble", params, target, fits)
    return Partition(parts=tuple(parts), classes=source.classes, lineage=(step,))


class Mean(nn.Module):
    """Logits [n, classes] of each member -> their mean [n, classes]."""

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        return torch.stack(logits).mean(dim=0)


def mean() -> nn.Module:
    return Mean()


def budget(source: Model, params: SmallModelParams) -> int:
    """The MACs to be spent.

    Raises:
        ValueError: the source records no training.
    """
    spent = sum(step.train_macs for step in source.lineage)
    if not spent:
        raise ValueError("the model in `from` was not trained: there is no training compute to be equal to")
    return round(spent * (1.0 if params.compute == "equal" else params.compute))


def spend(
    ctx: Context, module: nn.Module, shape: ViTShape, macs: int, name: str, data: Split | None = None
) -> FitResult:
    """Train ``module`` on ``data`` (all training images) for the epochs that come nearest to ``macs``, at least one."""
    images = len(ctx.data.train if data is None else data)
    epochs = max(1, round(macs / (shape.macs() * images)))
    return ctx.fit(module, data=data, name=name, epochs=epochs, early_stop=None)  # to the budget's end


def step_of(
    stage: str, entry: str, params: SmallModelParams, target: int, fits: Sequence[FitResult], **notes: Any
) -> Lineage:
    """The step's place in the lineage: what ``fits`` cost together, against ``target``."""
    spent = sum(fit.train_macs for fit in fits)
    return Lineage(
        stage=stage,
        entry=entry,
        params=params.model_dump(),
        image_passes=sum(fit.image_passes for fit in fits),
        train_macs=spent,
        train_s=sum(fit.train_s for fit in fits),
        notes={
            "target_macs": target,
            "spent_macs": spent,
            "ratio": spent / target,
            "epochs": [fit.epochs for fit in fits],
            **notes,
        },
    )

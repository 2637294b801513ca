"""Classes at random in N groups, a small ViT from scratch on each: what splitting alone gives, without a method.

Nothing is pruned and there is no teacher. Two fusions:

- ``average``: softmax of each sub-model over its own classes. A class has one sub-model, so an average over all
  (0 where a class is foreign) has the order of the outputs themselves; nothing more is trained.
- ``probe``: a linear layer on the sub-models' features, which stay as they are.

No sub-model ever saw an image of a foreign class. The oracle shows what that costs: the accuracy if each image were
answered by the sub-model that owns its class. Measuring takes it from the outputs of ``average``
(``Partition.groups``); no part of the graph sees a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.methods import (
    FINE_TUNING,
    Piece,
    class_groups,
    fit_on_features,
    fused_partition,
    own_images,
    seeded,
)
from harness.types import Context, FitResult, Model, ModuleSpec, Partition
from harness_baselines.sketch import group_sizes, probe_spec, small_shape, sub_shapes
from harness_baselines.small import budget, spend, step_of
from harness_timm.surgery import feature_model
from harness_timm.vit import ViTShape

if TYPE_CHECKING:
    from harness_baselines.plugin import ClassSplitParams

__all__ = ["AveragedSoftmax", "Probe", "averaged_softmax", "class_split", "probe"]


def class_split(ctx: Context, source: Model, params: ClassSplitParams) -> Partition:
    """Return the sub-models and their fusion. Of the source's lineage only the budget is taken.

    Raises:
        ValueError: the source records no training, too many parts, or a class without training images.
    """
    shape = small_shape(source.spec, params, source.input.shape, source.classes)
    sizes, draw = group_sizes(source.classes, params.parts), np.random.RandomState(ctx.seed)
    groups = class_groups(sizes, draw)  # its stream is frozen for good
    target = budget(source, params)
    wanted = len(ctx.data.train) * _probe_macs(shape, params) if params.fusion == "probe" else 0
    share = max(0, target - wanted) // params.parts

    subs: list[nn.Module] = []
    fits: list[FitResult] = []
    for i, group in enumerate(groups, 1):
        trained = replace(shape, classes=len(group))
        module = seeded(trained.spec().build, ctx.seed * 1000 + i)
        images = own_images(ctx.data.train, group, needed_by="class-split")
        fits.append(spend(ctx, module, trained, share, f"sub{i}", images))
        subs.append(module)

    deployed = sub_shapes(shape, params)
    if params.fusion == "average":
        spec = ModuleSpec(
            factory="harness_baselines.class_split:averaged_softmax",
            params={"groups": [list(group) for group in groups]},
        )
        fusion = spec.build()
    else:
        subs = [feature_model(sub) for sub in subs]
        spec = probe_spec(params.parts * shape.dim, source.classes)
        fusion = seeded(spec.build, ctx.seed * 1000)
        macs = sum(sub.macs() for sub in deployed)
        epochs = params.probe_epochs
        fits.append(
            fit_on_features(ctx, subs, fusion, macs=macs, name="fusion", epochs=epochs, **FINE_TUNING)
        )

    notes = {"classes": [list(group) for group in groups]}
    step = step_of("partition", "class-split", params, target, fits, **notes)
    return fused_partition(
        source,
        [
            Piece(module=sub, spec=small.spec(), output=(small.classes or small.dim,))
            for sub, small in zip(subs, deployed, strict=True)
        ],
        Piece(module=fusion, spec=spec, output=(source.classes,)),
        missing="zeros",
        lineage=(step,),
        groups=groups if params.fusion == "average" else (),
    )


class AveragedSoftmax(nn.Module):
    """Logits [n, k_i] of each sub-model over its own classes -> log of the softmax outputs [n, C]."""

    order: torch.Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        classes = torch.tensor([label for group in groups for label in group])
        self.register_buffer("order", classes.argsort(), persistent=False)

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([functional.log_softmax(own, dim=-1) for own in logits], dim=-1)[:, self.order]


class Probe(nn.Module):
    """Features [n, D] of each sub-model -> logits [n, C] by one linear layer over all."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat(features, dim=-1))


def averaged_softmax(*, groups: Sequence[Sequence[int]]) -> nn.Module:
    """Return a new :class:`AveragedSoftmax`."""
    return AveragedSoftmax(groups)


def probe(*, features: int, classes: int) -> nn.Module:
    """Return a new :class:`Probe`; ``features`` are those of all sub-models together."""
    return Probe(features, classes)


def _probe_macs(shape: ViTShape, params: ClassSplitParams) -> int:
    """Return the MACs of the probe's training per image: each sub-model's features once, the layer every epoch."""
    features = params.parts * replace(shape, classes=0).macs()
    return features + params.probe_epochs * params.parts * shape.dim * shape.classes

"""The baseline class-split: random groups of classes, and a small ViT trained from scratch on each group.

It shows what splitting gives without a method: nothing is pruned and there is no teacher. There are two fusions:

- ``average``: softmax of each sub-model over its own classes. Each class has one sub-model, so an average over all
  sub-models (0 for a foreign class) ranks classes as the outputs themselves do. Nothing more is trained.
- ``probe``: a linear layer on the sub-models' features. The sub-models are frozen.

No sub-model sees an image of a foreign class. The oracle shows what that costs: it is the accuracy if each image were
answered by the sub-model that owns its class. It is computed during measuring, from the outputs of ``average``
(``Partition.groups``). No part of the graph sees a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

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
from harness_baselines.sketch import SmallSize, group_sizes, probe_spec, small_shape, sub_shapes
from harness_baselines.small import Compute, budget, spend, step_of
from harness_timm.surgery import feature_model
from harness_timm.vit import ViTShape

__all__ = ["AveragedSoftmax", "Probe", "averaged_softmax", "class_split", "probe"]


def class_split(
    ctx: Context,
    source: Model,
    size: SmallSize,
    compute: Compute,
    *,
    parts: int,
    fusion: Literal["average", "probe"],
    probe_epochs: int,
    recorded: Mapping[str, Any],
) -> Partition:
    """Return the sub-models and their fusion. The source's lineage gives only the training budget.

    ``recorded`` are the parameters as the record states them.

    Raises:
        ValueError: the source records no training, there are too many parts, or a class has no training images.
    """
    shape = small_shape(source.spec, size, source.input.shape, source.classes)
    sizes, draw = group_sizes(source.classes, parts), np.random.RandomState(ctx.seed)
    groups = class_groups(sizes, draw)  # the stream of RandomState never changes
    target = budget(source, compute)
    probed = fusion == "probe"
    wanted = len(ctx.data.train) * _probe_macs(shape, parts, probe_epochs) if probed else 0
    share = max(0, target - wanted) // parts

    subs: list[nn.Module] = []
    fits: list[FitResult] = []
    for i, group in enumerate(groups, 1):
        trained = replace(shape, classes=len(group))
        module = seeded(trained.spec().build, ctx.seed * 1000 + i)
        images = own_images(ctx.data.train, group, needed_by="class-split")
        fits.append(spend(ctx, module, trained, share, f"sub{i}", images))
        subs.append(module)

    deployed = sub_shapes(shape, parts, probed=probed)
    if not probed:
        spec = ModuleSpec(
            factory="harness_baselines.class_split:averaged_softmax",
            params={"groups": [list(group) for group in groups]},
        )
        answer = spec.build()
    else:
        subs = [feature_model(sub) for sub in subs]
        spec = probe_spec(parts * shape.dim, source.classes)
        answer = seeded(spec.build, ctx.seed * 1000)
        macs = sum(sub.macs() for sub in deployed)
        fits.append(
            fit_on_features(ctx, subs, answer, macs=macs, name="fusion", epochs=probe_epochs, **FINE_TUNING)
        )

    notes = {"classes": [list(group) for group in groups]}
    step = step_of("partition", "class-split", recorded, target, fits, **notes)
    return fused_partition(
        source,
        [
            Piece(module=sub, spec=small.spec(), output=(small.classes or small.dim,))
            for sub, small in zip(subs, deployed, strict=True)
        ],
        Piece(module=answer, spec=spec, output=(source.classes,)),
        missing="zeros",
        lineage=(step,),
        groups=() if probed else groups,
    )


class AveragedSoftmax(nn.Module):
    """A module: logits [n, k_i] of each sub-model over its own classes -> log of the softmax outputs [n, C]."""

    order: torch.Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        classes = torch.tensor([label for group in groups for label in group])
        self.register_buffer("order", classes.argsort(), persistent=False)

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        """Return the log of the softmax outputs [n, C], in the order of the classes."""
        return torch.cat([functional.log_softmax(own, dim=-1) for own in logits], dim=-1)[:, self.order]


class Probe(nn.Module):
    """A module: features [n, D] of each sub-model -> logits [n, C], by one linear layer over all features."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, C]."""
        return self.linear(torch.cat(features, dim=-1))


def averaged_softmax(*, groups: Sequence[Sequence[int]]) -> nn.Module:
    """Return a new :class:`AveragedSoftmax`."""
    return AveragedSoftmax(groups)


def probe(*, features: int, classes: int) -> nn.Module:
    """Return a new :class:`Probe`; ``features`` is the number of features of all sub-models together."""
    return Probe(features, classes)


def _probe_macs(shape: ViTShape, parts: int, epochs: int) -> int:
    """Return the MACs of the probe's training per image: each sub-model once, and the linear layer in every epoch."""
    features = parts * replace(shape, classes=0).macs()
    return features + epochs * parts * shape.dim * shape.classes

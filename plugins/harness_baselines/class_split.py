"""Classes at random in N groups, a small ViT from scratch on each: what splitting alone gives, without a method.

Nothing is pruned and nobody teaches. Two fusions:

- ``average``: softmax of each sub-model over its own classes. A class has one sub-model, so an average over all
  (0 where a class is foreign) has the order of the outputs themselves; nothing more is trained.
- ``probe``: a linear layer on the sub-models' features, which stay as they are.

No sub-model ever saw an image of a foreign class. What that costs, the oracle tells: the accuracy if each image were
answered by the sub-model that owns its class. Measuring takes it from the outputs of ``average``
(``Partition.groups``); no part of the graph sees a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.data.choice import relabel, subset
from harness.train.features import fit_on_features
from harness.types import (
    IMAGE,
    Context,
    Edge,
    FitResult,
    Model,
    ModuleSpec,
    Part,
    Partition,
    Split,
    TensorSpec,
)
from harness_baselines.params import ClassSplitParams
from harness_baselines.sketch import small_shape
from harness_baselines.small import budget, spend, step_of
from harness_baselines.splitting import group_sizes, probe_spec, sub_shapes
from harness_timm.models import seeded
from harness_timm.surgery import feature_model
from harness_timm.vit import ViTShape

__all__ = [
    "AveragedSoftmax",
    "Probe",
    "averaged_softmax",
    "class_groups",
    "class_split",
    "own_images",
    "probe",
]


def class_split(ctx: Context, source: Model, params: ClassSplitParams) -> Partition:
    """The sub-models and their fusion. The lineage starts anew: of the source there is the budget alone.

    Raises:
        ValueError: the source records no training, too many parts, or a class without training images.
    """
    shape = small_shape(source.spec, params, source.input.shape, source.classes)
    groups = class_groups(source.classes, params.parts, ctx.seed)
    deployed = sub_shapes(shape, params)
    target = budget(source, params)
    wanted = len(ctx.data.train) * _probe_macs(shape, params) if params.fusion == "probe" else 0
    share = max(0, target - wanted) // params.parts

    subs: list[nn.Module] = []
    fits: list[FitResult] = []
    for i, group in enumerate(groups, 1):
        trained = replace(shape, classes=len(group))
        module = seeded(trained.spec().build, ctx.seed * 1000 + i)
        fits.append(spend(ctx, module, trained, share, f"sub{i}", own_images(ctx.data.train, group)))
        subs.append(module)

    if params.fusion == "average":
        spec = ModuleSpec(
            factory="harness_baselines.class_split:averaged_softmax",
            params={"groups": [list(g) for g in groups]},
        )
        fusion = spec.build()
    else:
        subs = [feature_model(sub) for sub in subs]
        spec = probe_spec(params.parts * shape.dim, source.classes)
        fusion = seeded(spec.build, ctx.seed * 1000)
        macs = sum(sub.macs() for sub in deployed)
        tuned = {"epochs": params.probe_epochs, "warmup_epochs": 0, "early_stop": None}
        fits.append(fit_on_features(ctx, subs, fusion, macs=macs, name="fusion", **tuned))

    image = TensorSpec(shape=source.input.shape)
    parts = [
        Part(
            name=f"sub{i}",
            module=sub,
            spec=made.spec(),
            inputs=(Edge(source=IMAGE, tensor=image),),
            output=TensorSpec(shape=(made.classes or made.dim,)),
        )
        for i, (sub, made) in enumerate(zip(subs, deployed, strict=True), 1)
    ]
    answer = Part(
        name="fusion",
        module=fusion,
        spec=spec,
        inputs=tuple(Edge(source=part.name, tensor=part.output, missing="zeros") for part in parts),
        output=TensorSpec(shape=(source.classes,)),
    )
    notes = {"classes": [list(group) for group in groups]}
    step = step_of("partition", "class-split", params, target, fits, **notes)
    return Partition(
        parts=(*parts, answer),
        classes=source.classes,
        lineage=(step,),
        groups=groups if params.fusion == "average" else (),
    )


def class_groups(classes: int, parts: int, seed: int, least: int = 2) -> tuple[tuple[int, ...], ...]:
    """The classes at random in groups of at least ``least``, whose sizes differ by one at most."""
    order = np.random.RandomState(seed).permutation(classes)  # its stream is frozen for good
    ends = np.cumsum(group_sizes(classes, parts, least))[:-1]
    return tuple(tuple(sorted(map(int, group))) for group in np.split(order, ends))


def own_images(data: Split, group: Sequence[int]) -> Split:
    """The images of a group's classes, labelled 0, 1 ... in its order.

    Raises:
        ValueError: a class has none.
    """
    found = np.isin(data.labels, group)
    absent = set(group) - set(np.asarray(data.labels)[found].tolist())
    if absent:
        raise ValueError(f"class-split: class {min(absent)} has no training image")
    return relabel(subset(data, np.flatnonzero(found)), {label: i for i, label in enumerate(group)})


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
    return AveragedSoftmax(groups)


def probe(*, features: int, classes: int) -> nn.Module:
    return Probe(features, classes)


def _probe_macs(shape: ViTShape, params: ClassSplitParams) -> int:
    """MACs of the probe's training per training image: each sub-model's features once, the layer every epoch."""
    features = params.parts * replace(shape, classes=0).macs()
    return features + params.probe_epochs * params.parts * shape.dim * shape.classes

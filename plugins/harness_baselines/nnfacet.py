"""The baseline nnfacet: a CNN split by classes as NNFacet does (Chen, Le, Tan, Ho, IEEE TMC 2023).

It is ED-ViT's CNN baseline. For each subset of the classes, the filters that are important to it form a small model,
which is fine-tuned. A multilayer perceptron combines the features of all small models. Importance is the average
percentage of zeros of a filter's activations (APoZ, Hu et al. 2016), which ED-ViT names as NNFacet's criterion: fewer
zeros are more important.

Interpretations, where NNFacet's own choice needs its devices, or where only its abstract was available:

- Classes are divided at random, as in DeViT and ED-ViT. NNFacet computes a division that suits its sensors.
- Every sub-model keeps the same share of each layer's filters, those with the fewest zeros over the training images of
  its classes. So sizes are known at planning time. NNFacet keeps all filters above a threshold.
- Fine-tuning labels the images of foreign classes 0, with |D| / (10 C) - k of each, as EC-SNN does after NNFacet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.methods import (
    FINE_TUNING,
    Batches,
    Piece,
    class_groups,
    evaluating,
    fit_on_features,
    fused_partition,
    on_device,
    resampled,
    seeded,
)
from harness.types import Context, FitResult, Lineage, Model, Partition, Split
from harness_baselines.sketch import group_sizes, perceptron_spec
from harness_baselines.vgg import VGG
from harness_baselines.vgg_sketch import VGGShape

__all__ = ["Perceptron", "cut", "nnfacet", "perceptron", "resample", "zero_shares"]


def nnfacet(
    ctx: Context,
    model: Model,
    *,
    parts: int,
    keep: float,
    negatives: int | None,
    epochs: int,
    hidden: int,
    fusion_epochs: int,
    recorded: Mapping[str, Any],
) -> Partition:
    """Return the ``parts`` sub-models, each with the share ``keep`` of the filters, and the perceptron.

    ``negatives`` are the images of each foreign class (by default as in EC-SNN), ``epochs`` those of fine-tuning,
    ``hidden`` the neurons of the perceptron, and ``recorded`` the parameters as the record states them.

    Raises:
        ValueError: the model is not a ``vgg``, there are more parts than classes, or a class has no training images.
    """
    shape = VGGShape.from_spec(model.spec)
    if shape is None or not isinstance(model.module, VGG):
        raise ValueError(f"nnfacet needs a vgg, not {type(model.module).__name__}")
    sizes, draw = group_sizes(model.classes, parts, least=1), np.random.RandomState(ctx.seed)
    groups = class_groups(sizes, draw)  # the stream of RandomState never changes
    zeros, counts, measured = zero_shares(ctx, model.module, model.classes, shape.macs())

    subs: list[nn.Module] = []
    fits = [measured]
    for i, group in enumerate(groups, 1):
        weights = counts[list(group), None] / counts[list(group)].sum()
        shares = [(weights * layer[list(group)]).sum(0) for layer in zeros]
        small = seeded(shape.narrowed(keep, len(group) + 1).spec().build, ctx.seed * 1000 + i)
        cut(model.module, small, shares)
        data = resample(ctx.data.train, group, model.classes, negatives, ctx.seed)
        fits.append(ctx.fit(small, data=data, name=f"sub{i}", epochs=epochs, **FINE_TUNING))
        small.head = nn.Identity()
        subs.append(small)

    bare = shape.narrowed(keep, 0)
    spec = perceptron_spec(parts * bare.dim, hidden, model.classes)
    fusion = seeded(spec.build, ctx.seed * 1000)
    macs = parts * bare.macs()
    fits.append(
        fit_on_features(ctx, subs, fusion, macs=macs, name="fusion", epochs=fusion_epochs, **FINE_TUNING)
    )

    notes = {"classes": [list(group) for group in groups]}
    step = Lineage.of("partition", "nnfacet", recorded, fits, notes)
    return fused_partition(
        model,
        [Piece(module=sub, spec=bare.spec(), output=(bare.dim,)) for sub in subs],
        Piece(module=fusion, spec=spec, output=(model.classes,)),
        missing="zeros",
        lineage=(*model.lineage, step),
    )


def zero_shares(
    ctx: Context, vgg: VGG, classes: int, macs: int
) -> tuple[list[torch.Tensor], torch.Tensor, FitResult]:
    """Return the APoZ of each layer's filters per class, the images per class, and the cost.

    The APoZ of a layer is [C, filters], over the training images of each class. The number of images is [C]. ``macs``
    is the MACs of one pass.

    Raises:
        ValueError: a class has no training image.
    """
    start, device = time.perf_counter(), torch.device(ctx.device)
    train = Batches(ctx.data.train, device)
    counts = torch.bincount(train.labels, minlength=classes).cpu()
    if not counts.all():
        raise ValueError(f"nnfacet, importance: class {int(counts.argmin())} has no training image")
    outputs: list[torch.Tensor] = []
    taps = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in vgg.blocks]
    totals = [torch.zeros(classes, block[0].out_channels) for block in vgg.blocks]
    with on_device(vgg, device), evaluating(vgg), torch.inference_mode():
        for first in range(0, len(train), 256):
            batch = train.take(np.arange(first, min(first + 256, len(train))))
            outputs.clear()
            vgg(batch.inputs)
            for total, out in zip(totals, outputs, strict=True):  # out [n, filters, H, W]
                total.index_add_(0, batch.labels.cpu(), (out == 0).float().mean(dim=(2, 3)).cpu())
    for tap in taps:
        tap.remove()
    passes, seconds = len(train), time.perf_counter() - start
    cost = FitResult(image_passes=passes, train_macs=passes * macs, train_s=seconds, epochs=0)
    return [total / counts[:, None] for total in totals], counts, cost


def cut(vgg: VGG, small: nn.Module, shares: Sequence[torch.Tensor]) -> None:
    """Fill ``small``, except its head, with the filters of ``vgg`` that have the fewest zeros, in their order.

    ``shares`` holds the shares of zeros [filters] of each convolution of ``vgg``.
    """
    assert isinstance(small, VGG)
    before: torch.Tensor | None = None
    for block, narrow, zero in zip(vgg.blocks, small.blocks, shares, strict=True):
        kept = zero.argsort(stable=True)[: narrow[0].out_channels].sort().values
        with torch.no_grad():
            weight = block[0].weight[kept]
            narrow[0].weight.copy_(weight if before is None else weight[:, before])
            for name, value in block[1].state_dict().items():  # num_batches_tracked is a scalar
                narrow[1].state_dict()[name].copy_(value[kept] if value.ndim else value)
        before = kept


def resample(data: Split, own: Sequence[int], classes: int, negatives: int | None, seed: int) -> Split:
    """Return the images of the classes ``own``, labelled 1 to k, and some images of the others, labelled 0.

    ``negatives`` is the number of images of each foreign class; None stands for |D| / (10 C) - k.
    """
    return resampled(data, own, classes, negatives, np.random.RandomState([seed, 1, *own]))[0]


class Perceptron(nn.Module):
    """A module: features [n, D] of each sub-model -> logits [n, C], by one hidden layer."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, C]."""
        return self.fc2(functional.relu(self.fc1(torch.cat(features, dim=-1))))


def perceptron(*, features: int, hidden: int, classes: int) -> nn.Module:
    """Return a new :class:`Perceptron`; ``features`` is the number of features of all sub-models together."""
    return Perceptron(features, hidden, classes)

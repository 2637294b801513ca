"""A CNN split by classes in the manner of NNFacet (Chen, Le, Tan, Ho, IEEE TMC 2023), ED-ViT's CNN baseline.

Each class finds some filters important; the filters important for a subset of the classes form a small model, which is
fine-tuned; a multilayer perceptron reads the features of all small models. Importance is the average percentage of
zeros of a filter's activations (APoZ, Hu et al. 2016), which ED-ViT names as NNFacet's way: few zeros, much to say.

Readings, where NNFacet's own choices need its devices, or only its abstract was at hand:

- Classes are divided at random, as in DeViT and ED-ViT; NNFacet solves for a division that suits its sensors.
- Every sub-model keeps the same share of each layer's filters, the least zero over its classes' training images; so
  sizes are known when planning. NNFacet takes all filters that pass a threshold.
- Fine-tuning labels the images of foreign classes 0, with |D| / (10 C) - k of each, as EC-SNN does after NNFacet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.data.choice import relabel, subset
from harness.train.counting.modes import evaluating, on_device
from harness.train.evaluation import Samples
from harness.train.features import fit_on_features
from harness.types import IMAGE, Context, Edge, FitResult, Lineage, Model, Part, Partition, Split, TensorSpec
from harness_baselines.class_split import class_groups
from harness_baselines.params import NNFacetParams
from harness_baselines.splitting import perceptron_spec
from harness_baselines.vgg import VGG
from harness_baselines.vgg_sketch import VGGShape
from harness_timm.models import seeded

__all__ = ["Perceptron", "cut", "nnfacet", "perceptron", "resampled", "zero_shares"]


def nnfacet(ctx: Context, model: Model, params: NNFacetParams) -> Partition:
    """The sub-models and the perceptron.

    Raises:
        ValueError: no ``vgg``, more parts than classes, or a class without training images.
    """
    shape = VGGShape.from_spec(model.spec)
    if shape is None or not isinstance(model.module, VGG):
        raise ValueError(f"nnfacet needs a vgg, not {type(model.module).__name__}")
    groups = class_groups(model.classes, params.parts, ctx.seed, least=1)
    zeros, counts, measured = zero_shares(ctx, model.module, model.classes, shape.macs())
    bare = shape.narrowed(params.keep, 0)

    subs: list[nn.Module] = []
    fits = [measured]
    for i, group in enumerate(groups, 1):
        weights = counts[list(group), None] / counts[list(group)].sum()
        shares = [(weights * layer[list(group)]).sum(0) for layer in zeros]
        small = seeded(shape.narrowed(params.keep, len(group) + 1).spec().build, ctx.seed * 1000 + i)
        cut(model.module, small, shares)
        data = resampled(ctx.data.train, group, model.classes, params.negatives, ctx.seed)
        fits.append(
            ctx.fit(small, data=data, name=f"sub{i}", epochs=params.epochs, warmup_epochs=0, early_stop=None)
        )
        small.head = nn.Identity()
        subs.append(small)
    spec = perceptron_spec(params.parts * bare.dim, params.hidden, model.classes)
    fusion = seeded(spec.build, ctx.seed * 1000)
    macs = params.parts * bare.macs()
    tuned = {"epochs": params.fusion_epochs, "warmup_epochs": 0, "early_stop": None}
    fits.append(fit_on_features(ctx, subs, fusion, macs=macs, name="fusion", **tuned))

    feature = TensorSpec(shape=(bare.dim,))
    parts = [
        Part(
            name=f"sub{i}",
            module=sub,
            spec=bare.spec(),
            inputs=(Edge(source=IMAGE, tensor=model.input),),
            output=feature,
        )
        for i, sub in enumerate(subs, 1)
    ]
    edges = tuple(Edge(source=part.name, tensor=feature, missing="zeros") for part in parts)
    answer = TensorSpec(shape=(model.classes,))
    parts.append(Part(name="fusion", module=fusion, spec=spec, inputs=edges, output=answer))
    step = Lineage(
        stage="partition",
        entry="nnfacet",
        params=params.model_dump(),
        image_passes=sum(fit.image_passes for fit in fits),
        train_macs=sum(fit.train_macs for fit in fits),
        train_s=sum(fit.train_s for fit in fits),
        notes={"classes": [list(group) for group in groups]},
    )
    return Partition(parts=tuple(parts), classes=model.classes, lineage=(*model.lineage, step))


def zero_shares(
    ctx: Context, vgg: VGG, classes: int, macs: int
) -> tuple[list[torch.Tensor], torch.Tensor, FitResult]:
    """APoZ of each layer's filters on the training images of each class, [C, filters]; images per class [C]; cost.

    Raises:
        ValueError: a class has no training image.
    """
    start, device = time.perf_counter(), torch.device(ctx.device)
    train = Samples(ctx.data.train, device, keep=False)
    counts = torch.bincount(train.labels, minlength=classes).cpu()
    if not counts.all():
        raise ValueError(f"nnfacet, importance: class {int(counts.argmin())} has no training image")
    found: list[torch.Tensor] = []
    taps = [block.register_forward_hook(lambda _, __, out: found.append(out)) for block in vgg.blocks]
    totals = [torch.zeros(classes, block[0].out_channels) for block in vgg.blocks]
    with on_device(vgg, device), evaluating(vgg), torch.inference_mode():
        for first in range(0, len(train), 256):
            batch = train.take(np.arange(first, min(first + 256, len(train))))
            found.clear()
            vgg(batch.inputs)
            for total, out in zip(totals, found, strict=True):  # out [n, filters, H, W]
                total.index_add_(0, batch.labels.cpu(), (out == 0).float().mean(dim=(2, 3)).cpu())
    for tap in taps:
        tap.remove()
    passes, seconds = len(train), time.perf_counter() - start
    cost = FitResult(image_passes=passes, train_macs=passes * macs, train_s=seconds, epochs=0)
    return [total / counts[:, None] for total in totals], counts, cost


def cut(vgg: VGG, small: nn.Module, shares: Sequence[torch.Tensor]) -> None:
    """Fill ``small`` but for its head with the filters of ``vgg`` that are zero least, in their order."""
    assert isinstance(small, VGG)
    before: torch.Tensor | None = None
    for block, narrow, zero in zip(vgg.blocks, small.blocks, shares, strict=True):
        kept = zero.argsort(stable=True)[: narrow[0].out_channels].sort().values
        with torch.no_grad():
            weight = block[0].weight[kept]
            narrow[0].weight.copy_(weight if before is None else weight[:, before])
            for name, value in block[1].state_dict().items():  # a count of batches has no filters
                narrow[1].state_dict()[name].copy_(value[kept] if value.ndim else value)
        before = kept


def resampled(data: Split, own: Sequence[int], classes: int, negatives: int | None, seed: int) -> Split:
    """Own classes -> 1 ... k; of each foreign class ``negatives`` images -> 0."""
    rng = np.random.RandomState([seed, 1, *own])
    wanted = negatives or max(1, round(len(data) / (10 * classes)) - len(own))
    picked = []
    for label in range(classes):
        members = np.flatnonzero(data.labels == label)
        picked.append(members if label in own else rng.permutation(members)[:wanted])
    mapping = {label: own.index(label) + 1 if label in own else 0 for label in range(classes)}
    return relabel(subset(data, np.sort(np.concatenate(picked))), mapping)


class Perceptron(nn.Module):
    """Features [n, D] of each sub-model -> logits [n, C], by one hidden layer."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.relu(self.fc1(torch.cat(features, dim=-1))))


def perceptron(*, features: int, hidden: int, classes: int) -> nn.Module:
    return Perceptron(features, hidden, classes)

"""ED-ViT: "Splitting Vision Transformer for Distributed Inference on Edge Devices", X. Liu et al., 2024.

A ViT trained on all classes (Model_0) is split by classes into N sub-models, each pruned from d, h, c to s d,
s h, s c (Algorithm 2) and fine-tuned; their features are fused by an MLP (section 4.5).

Readings taken, where the paper leaves a choice:

- Resampling (Algorithm 2, line 1) is not defined. As in EC-SNN, by one of the authors: own classes -> labels
  1 ... k, all others -> 0, with |D| / (10 C) - k images of each foreign class (at least one). So a sub-model of
  one class has something to tell it from, which N = 10 needs.
- Importance comes from the original model alone (harness_edvit.importance).
- Joint dimensions of q, k and v are merged into s h heads as in UP-ViT's code (harness_edvit.pruning.best_merged).
- The new head starts from the old one's rows (harness_edvit.pruning.new_head), with the first stage.
- Fine-tuning epochs are not given: ``epochs`` after each stage, with the suite's recipe but no warm-up.
- Entire retraining starts from the sub-models and the MLP that ED-ViT gives.

Proxy images come from training data; validation and test data are not read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from harness.data.choice import relabel, subset
from harness.train.counting.count import count
from harness.train.counting.modes import evaluating, on_device
from harness.train.features import fit_on_features
from harness.types import (
    IMAGE,
    Context,
    Edge,
    FitResult,
    Lineage,
    Model,
    ModuleSpec,
    Part,
    Partition,
    Sketch,
    Split,
    TensorSpec,
)
from harness_edvit.fusion import FusionMLP, Whole
from harness_edvit.importance import Importance, kl_exact, kl_fisher, random_importance
from harness_edvit.masked import check_prunable
from harness_edvit.params import EDViTParams
from harness_edvit.pruning import best, best_merged, keep_attention, keep_ffn, keep_residual, new_head
from harness_edvit.sketch import mlp_spec, part_classes, sub_spec
from harness_timm.models import seeded
from harness_timm.surgery import feature_model, require_vit

__all__ = ["class_partition", "edvit", "prune", "resampled"]


def edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    """Algorithm 1 with the heads that ``sketch`` decided.

    Raises:
        ValueError: no plain timm ViT, or a class without training images; the message names the stage.
    """
    vit = require_vit(model.module, "edvit")
    check_prunable(vit)
    owned = class_partition(model.classes, params.parts, ctx.seed)
    heads: Sequence[int] = sketch.decisions["heads"]

    @cache  # measured when the first sub-model needs it, for all
    def importance() -> tuple[Importance, np.ndarray, float]:
        return _importance(ctx, vit, params)

    subs = []
    for i, (own, kept) in enumerate(zip(owned, heads, strict=True), start=1):
        made = _once(
            ctx,
            model,
            params,
            f"sub{i}",
            own,
            kept,
            lambda i=i, own=own, kept=kept: prune(ctx, model, params, f"sub{i}", own, kept, importance),
        )
        subs.append(made)
    steps = [step for sub in subs for step in sub.lineage]

    parts, fits = (_averaged if params.fusion == "average" else _fused)(ctx, model, params, subs, owned)
    step = Lineage(
        stage="partition",
        entry="edvit",
        params=params.model_dump(),
        image_passes=sum(s.image_passes for s in steps) + sum(f.image_passes for f in fits),
        train_macs=sum(s.train_macs for s in steps) + sum(f.train_macs for f in fits),
        train_s=sum(s.train_s for s in steps) + sum(f.train_s for f in fits),
        notes={
            "heads": list(heads),
            "classes": [list(own) for own in owned],
            "stages_s": {s.entry: s.notes for s in steps},
            "fusion_s": [f.train_s for f in fits],
        },
    )
    return Partition(
        parts=parts,
        classes=model.classes,
        lineage=(*model.lineage, step),
        groups=tuple(map(tuple, owned)) if params.fusion == "average" else (),
    )


def class_partition(classes: int, parts: int, seed: int) -> list[list[int]]:
    """Lines 3 to 5: a random partition of the classes, sizes differing by at most one."""
    order = np.random.default_rng([seed, 1]).permutation(classes)
    bounds = np.cumsum(part_classes(classes, parts))[:-1]
    return [sorted(int(c) for c in own) for own in np.split(order, bounds)]


def resampled(
    data: Split, own: Sequence[int], classes: int, negatives: int | None, seed: int
) -> tuple[Split, np.ndarray]:
    """Algorithm 2, line 1: (X_i, y_i), and how many images of each class it has, int64 [C]."""
    labels = np.asarray(data.labels)
    rng = np.random.default_rng([seed, 2, *own])
    wanted = negatives or max(1, round(len(labels) / (10 * classes)) - len(own))
    picked = []
    for c in range(classes):
        members = np.flatnonzero(labels == c)
        picked.append(members if c in own else rng.permutation(members)[:wanted])
    mapping = {c: own.index(c) + 1 if c in own else 0 for c in range(classes)}
    indices = np.sort(np.concatenate(picked))
    return relabel(subset(data, indices), mapping), np.array([len(members) for members in picked])


def prune(
    ctx: Context,
    model: Model,
    params: EDViTParams,
    name: str,
    own: Sequence[int],
    heads: int,
    importance: Callable[[], tuple[Importance, np.ndarray, float]],
) -> Model:
    """Algorithm 2: the sub-model of the classes ``own`` with ``heads`` heads."""
    scores, labels, measured_s = importance()
    data, counts = resampled(ctx.data.train, own, model.classes, params.negatives, ctx.seed)
    # the sum over X_i, from a proxy stratified by class
    weights = torch.tensor(counts / np.bincount(labels, minlength=model.classes), dtype=torch.float32)[labels]
    if params.importance != "random":
        scores = scores.summed(weights)

    vit = copy.deepcopy(require_vit(model.module, "edvit"))
    attn = vit.blocks[0].attn
    head_dim, dim = attn.head_dim, vit.embed_dim * heads // attn.num_heads
    spec = sub_spec(model.spec, dim, heads, len(own) + 1)
    plain = spec.build()
    fits = []

    def tune(stage: str) -> None:
        ctx.progress(f"{name}: fine-tuning after {stage}")
        fits.append(
            ctx.fit(
                vit,
                data=data,
                name=f"{name}-{stage}",
                epochs=params.epochs,
                warmup_epochs=0,
                early_stop=None,
                **({} if params.lr is None else {"lr": params.lr, "min_lr": min(1e-5, params.lr)}),
            )
        )

    keep_residual(vit, best(scores.residual, dim))  # line 2: d -> s d
    new_head(vit, own)
    tune("residual")
    for block, found in zip(vit.blocks, scores.attention, strict=True):  # line 3: h -> s h
        keep_attention(block.attn, best_merged(found, heads, head_dim))
    tune("attention")
    for block, found in zip(vit.blocks, scores.ffn, strict=True):  # line 4: c -> s c
        keep_ffn(block.mlp, best(found, plain.blocks[0].mlp.fc1.out_features))
    tune("ffn")

    plain.load_state_dict(vit.state_dict())
    step = Lineage(
        stage="partition",
        entry=name,
        params={},
        image_passes=sum(fit.image_passes for fit in fits),
        train_macs=sum(fit.train_macs for fit in fits),
        train_s=sum(fit.train_s for fit in fits),
        notes={
            "importance_of_all": measured_s,
            **dict(zip(("residual", "attention", "ffn"), (fit.train_s for fit in fits), strict=True)),
        },
    )
    return replace(model, module=plain.eval(), spec=spec, classes=len(own) + 1, lineage=(step,))


def _importance(ctx: Context, vit: nn.Module, params: EDViTParams) -> tuple[Importance, np.ndarray, float]:
    """Scores per unit and proxy image, the images' labels, and the seconds it took."""
    start, names = time.perf_counter(), ctx.data.info.class_names
    train_labels = np.asarray(ctx.data.train.labels)
    rng = np.random.default_rng([ctx.seed, 3])
    picked = []
    for c, class_name in enumerate(names):
        members = np.flatnonzero(train_labels == c)
        if not len(members):
            raise ValueError(f"edvit, importance: class {class_name!r} has no sample in the proxy slice")
        picked.append(rng.permutation(members)[: params.proxy])
    indices = np.concatenate(picked)
    labels = train_labels[indices]
    if params.importance == "random":
        return random_importance(vit, ctx.seed), labels, time.perf_counter() - start
    measure = kl_exact if params.importance == "kl-exact" else kl_fisher
    device = torch.device(ctx.device)
    images = torch.from_numpy(np.asarray(ctx.data.train.batch(indices))).to(device)
    with on_device(vit, device), evaluating(vit):
        found = [
            measure(vit, batch, lambda done: ctx.progress(f"importance ({params.importance})", done))
            for batch in images.split(256)
        ]
    joined = Importance(
        residual=torch.cat([f.residual for f in found], 1).cpu(),
        attention=tuple(torch.cat(a, 1).cpu() for a in zip(*(f.attention for f in found), strict=True)),
        ffn=tuple(torch.cat(a, 1).cpu() for a in zip(*(f.ffn for f in found), strict=True)),
    )
    return joined, labels, time.perf_counter() - start


def _once(
    ctx: Context,
    model: Model,
    params: EDViTParams,
    name: str,
    own: Sequence[int],
    heads: int,
    make: Callable[[], Model],
) -> Model:
    """The sub-model; made once for all fusions of Table 3."""
    weights = hashlib.sha256()
    for tensor in model.module.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    about: dict[str, Any] = params.model_dump(
        exclude={"parts", "memory_budget_mb", "policy", "fusion", "shrinking", "fusion_epochs", "missing"}
    )
    about |= {
        "name": name,
        "own": list(own),
        "heads": heads,
        "source": weights.hexdigest(),
        "spec": [model.spec.factory, dict(model.spec.params)],
    }
    return ctx.once(json.dumps(about, sort_keys=True), make)


# --- fusion ---------------------------------------------------------------------------------------

_Made = tuple[tuple[Part, ...], list[FitResult]]


def _averaged(
    ctx: Context, model: Model, params: EDViTParams, subs: Sequence[Model], owned: list[list[int]]
) -> _Made:
    """Table 3, "w/o retrain": no MLP."""
    modules = [(sub.module, sub.spec, sub.classes) for sub in subs]
    fusion = ModuleSpec(factory="harness_edvit.fusion:average", params={"owned": owned})
    return _parts(model, modules, fusion, fusion.build(), params.missing), []


def _fused(
    ctx: Context, model: Model, params: EDViTParams, subs: Sequence[Model], owned: list[list[int]]
) -> _Made:
    """Section 4.5: the MLP on the frozen sub-models' features; for ``retrain`` then all together."""
    bare = [feature_model(sub.module) for sub in subs]
    dims = [sub.embed_dim for sub in bare]
    fusion = mlp_spec(dims, max(1, int(params.shrinking * sum(dims))), model.classes)
    mlp = seeded(fusion.build, ctx.seed)
    assert isinstance(mlp, FusionMLP)
    image = TensorSpec(shape=ctx.data.info.shape)
    macs = sum(count(sub, [image]).macs for sub in bare)
    tuned = {"epochs": params.fusion_epochs, "warmup_epochs": 0, "early_stop": None}
    fits = [fit_on_features(ctx, bare, mlp, macs=macs, name="fusion", **tuned)]
    if params.fusion == "retrain":
        whole = Whole(bare, mlp)
        fits.append(ctx.fit(whole, name="retrain", **tuned))
    modules = [
        (module, sub_spec(model.spec, dim, sub.module.blocks[0].attn.num_heads, 0), dim)
        for module, dim, sub in zip(bare, dims, subs, strict=True)
    ]
    return _parts(model, modules, fusion, mlp, params.missing), fits


def _parts(
    model: Model,
    subs: Sequence[tuple[nn.Module, ModuleSpec, int]],
    fusion: ModuleSpec,
    module: nn.Module,
    missing: Literal["zeros", "mean"],
) -> tuple[Part, ...]:
    parts = [
        Part(
            name=f"sub{i}",
            module=sub,
            spec=spec,
            inputs=(Edge(source=IMAGE, tensor=model.input),),
            output=TensorSpec(shape=(width,)),
        )
        for i, (sub, spec, width) in enumerate(subs, start=1)
    ]
    answer = Part(
        name="fusion",
        module=module,
        spec=fusion,
        inputs=tuple(Edge(source=part.name, tensor=part.output, missing=missing) for part in parts),
        output=TensorSpec(shape=(model.classes,)),
    )
    return (*parts, answer)

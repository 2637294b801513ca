"""ED-ViT: "Splitting Vision Transformer for Distributed Inference on Edge Devices", X. Liu et al., 2024.

A ViT trained on all classes (Model_0) is split by classes into N sub-models (Algorithm 1). Each is pruned from d, h, c
to s d, s h, s c and fine-tuned (Algorithm 2). An MLP fuses their features (section 4.5).

Readings taken, where the paper leaves a choice:

- Resampling (Algorithm 2, line 1) is not defined. It is done as in EC-SNN, by one of the authors: own classes ->
  labels 1 ... k, all others -> 0, with |D| / (10 C) - k images of each foreign class (at least one). So a sub-model of
  one class has something to tell it from, which N = 10 needs.
- Importance comes from the original model alone (importance.py).
- Joint dimensions of q, k and v are merged into s h heads as in UP-ViT's code (``pruning.best_merged``).
- The new head starts from the old one's rows (``pruning.new_head``), with the first stage.
- Fine-tuning epochs are not given: ``epochs`` after each stage, with the suite's recipe but no warm-up.
- Entire retraining starts from the sub-models and the MLP that ED-ViT gives.

Proxy images come from training data. Validation and test data are not read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.methods import (
    FINE_TUNING,
    Piece,
    class_groups,
    count,
    fit_on_features,
    fused_partition,
    resampled,
    resumable,
    seeded,
)
from harness.types import Context, FitResult, Lineage, Model, ModuleSpec, Partition, Sketch, Split, TensorSpec
from harness_edvit.fusion import FusionMLP, Whole
from harness_edvit.importance import Proxy, measure_importance
from harness_edvit.masked import check_prunable
from harness_edvit.pruning import best, best_merged, keep_attention, keep_ffn, keep_residual, new_head
from harness_edvit.sketch import mlp_spec, part_classes, sub_spec
from harness_timm.surgery import feature_model, require_vit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from timm.models.vision_transformer import VisionTransformer

    from harness_edvit.plugin import EDViTParams

__all__ = ["Share", "class_partition", "edvit", "prune", "resample"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one sub-model is made for: its name, its classes C_i in ascending order, and the heads it keeps."""

    name: str
    classes: tuple[int, ...]
    heads: int


# --- Algorithm 1: model splitting -----------------------------------------------------------------


def edvit(ctx: Context, model: Model, params: EDViTParams, sketch: Sketch) -> Partition:
    """Algorithm 1: Model_0 -> Model_1 ... Model_N and the MLP. The planner ran lines 6 to 19 (``sketch.split``).

    Raises:
        ValueError: ``model`` is no plain timm ViT, or a class has no training image; the message names the stage.
    """
    vit = require_vit(model.module, "edvit")
    check_prunable(vit)
    owned = class_partition(model.classes, params.parts, ctx.seed)  # lines 3 to 5: C_1 ... C_N
    heads = sketch.decisions["heads"]  # lines 6 to 19: h - hp_1 ... h - hp_N
    shares = [
        Share(name=f"sub{i}", classes=classes, heads=kept)
        for i, (classes, kept) in enumerate(zip(owned, heads, strict=True), 1)
    ]

    @cache  # measured for all sub-models when the first one needs it
    def proxy() -> Proxy:
        return measure_importance(ctx, vit, params.importance, params.proxy)

    subs = [prune_once(ctx, model, params, share, proxy) for share in shares]  # lines 7 to 9
    average = params.fusion == "average"
    fused = fuse_average(subs, owned) if average else fuse_mlp(ctx, model, params, subs)  # lines 20 and 21
    return fused_partition(  # line 22
        model,
        fused.subs,
        fused.fusion,
        missing=params.missing,
        lineage=(*model.lineage, lineage_of(params, shares, subs, fused.fits)),
        groups=owned if average else (),
    )


def lineage_of(
    params: EDViTParams, shares: Sequence[Share], subs: Sequence[Model], fits: Sequence[FitResult]
) -> Lineage:
    """Return the step in the record: what all trainings cost, heads and classes, and seconds per stage."""
    steps = [step for sub in subs for step in sub.lineage]
    notes = {
        "heads": [share.heads for share in shares],
        "classes": [list(share.classes) for share in shares],
        "stages_s": {step.entry: step.notes for step in steps},
        "fusion_s": [fit.train_s for fit in fits],
    }
    return Lineage.of("partition", "edvit", params.model_dump(), [*steps, *fits], notes)


def class_partition(classes: int, parts: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Lines 3 to 5: return a random partition of the classes, whose sizes differ by at most one."""
    return class_groups(part_classes(classes, parts), np.random.default_rng([seed, 1]))


# --- Algorithm 2: model pruning (section 4.3) -----------------------------------------------------


def prune(ctx: Context, model: Model, params: EDViTParams, share: Share, proxy: Callable[[], Proxy]) -> Model:
    """Algorithm 2: return the sub-model of the classes C_i with h - hp_i heads, both of ``share``."""
    measured = proxy()
    own, classes = share.classes, len(share.classes) + 1  # "none of them" is one more
    data, counts = resample(
        ctx.data.train, own, model.classes, params.negatives, ctx.seed
    )  # line 1: X_i, y_i
    scores = measured.scores_of(counts)

    vit = copy.deepcopy(require_vit(model.module, "edvit"))
    attn = vit.blocks[0].attn
    head_dim, dim = attn.head_dim, vit.embed_dim * share.heads // attn.num_heads
    spec = sub_spec(model.spec, dim, share.heads, classes)
    plain = spec.build()
    neurons = plain.blocks[0].mlp.fc1.out_features
    tune = partial(fine_tune, ctx, params, share.name, vit, data)

    keep_residual(vit, best(scores.residual, dim))  # line 2: d -> s d
    new_head(vit, own)
    fits = {"residual": tune("residual")}
    for block, score in zip(vit.blocks, scores.attention, strict=True):  # line 3: h -> s h
        keep_attention(block.attn, best_merged(score, share.heads, head_dim))
    fits["attention"] = tune("attention")
    for block, score in zip(vit.blocks, scores.ffn, strict=True):  # line 4: c -> s c
        keep_ffn(block.mlp, best(score, neurons))
    fits["ffn"] = tune("ffn")  # line 5

    plain.load_state_dict(vit.state_dict())  # what is left is a plain ViT of fewer heads
    notes = {"importance_of_all": measured.seconds, **{stage: fit.train_s for stage, fit in fits.items()}}
    step = Lineage.of("partition", share.name, {}, list(fits.values()), notes)
    return replace(model, module=plain.eval(), spec=spec, classes=classes, lineage=(step,))


def prune_once(
    ctx: Context, model: Model, params: EDViTParams, share: Share, proxy: Callable[[], Proxy]
) -> Model:
    """Return the sub-model, pruned once for all fusions of Table 3."""
    facts = params.model_dump(include={"importance", "proxy", "negatives", "epochs", "lr"})
    return resumable(
        ctx,
        share.name,
        partial(prune, ctx, model, params, share, proxy),
        source=model,
        own=list(share.classes),
        heads=share.heads,
        **facts,
    )


def resample(
    data: Split, own: Sequence[int], classes: int, negatives: int | None, seed: int
) -> tuple[Split, NDArray[np.int64]]:
    """Algorithm 2, line 1: return (X_i, y_i), and how many images of each class it has, int64 [C]."""
    return resampled(data, own, classes, negatives, np.random.default_rng([seed, 2, *own]))


def fine_tune(
    ctx: Context, params: EDViTParams, name: str, vit: VisionTransformer, data: Split, stage: str
) -> FitResult:
    """Train on (X_i, y_i) after a pruning stage (section 4.3, and line 5 after the last)."""
    ctx.progress(f"{name}: fine-tuning after {stage}")
    rate: dict[str, Any] = {} if params.lr is None else {"lr": params.lr, "min_lr": min(1e-5, params.lr)}
    return ctx.fit(vit, data=data, name=f"{name}-{stage}", epochs=params.epochs, **FINE_TUNING, **rate)


# --- model fusion (section 4.5 and Table 3) -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The sub-models as deployed, what fuses their outputs, and the trainings that it took."""

    subs: list[Piece]
    fusion: Piece
    fits: list[FitResult]


def fuse_mlp(ctx: Context, model: Model, params: EDViTParams, subs: Sequence[Model]) -> Fused:
    """Algorithm 1, lines 20 and 21: train the MLP on the frozen sub-models' features.

    ``fusion: retrain`` then trains all together.
    """
    bare = [feature_model(sub.module) for sub in subs]
    dims = [sub.embed_dim for sub in bare]
    spec = mlp_spec(dims, max(1, int(params.shrinking * sum(dims))), model.classes)
    mlp = seeded(spec.build, ctx.seed)
    assert isinstance(mlp, FusionMLP)
    image = TensorSpec(shape=ctx.data.info.shape)
    macs = sum(count(sub, [image]).macs for sub in bare)
    fits = [
        fit_on_features(ctx, bare, mlp, macs=macs, name="fusion", epochs=params.fusion_epochs, **FINE_TUNING)
    ]
    if params.fusion == "retrain":
        fits.append(ctx.fit(Whole(bare, mlp), name="retrain", epochs=params.fusion_epochs, **FINE_TUNING))
    pieces = [
        Piece(
            module=module,
            spec=sub_spec(model.spec, dim, sub.module.blocks[0].attn.num_heads, 0),
            output=(dim,),
        )
        for module, dim, sub in zip(bare, dims, subs, strict=True)
    ]
    return Fused(subs=pieces, fusion=Piece(module=mlp, spec=spec, output=(model.classes,)), fits=fits)


def fuse_average(subs: Sequence[Model], owned: Sequence[Sequence[int]]) -> Fused:
    """Table 3, "w/o retrain": average softmax outputs, without an MLP."""
    pieces = [Piece(module=sub.module, spec=sub.spec, output=(sub.classes,)) for sub in subs]
    spec = ModuleSpec(factory="harness_edvit.fusion:average", params={"owned": [list(own) for own in owned]})
    answer = Piece(module=spec.build(), spec=spec, output=(sum(map(len, owned)),))
    return Fused(subs=pieces, fusion=answer, fits=[])

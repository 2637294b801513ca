"""ED-ViT's model splitting (section 4.2, Algorithm 1) and model fusion (section 4.5).

"Splitting Vision Transformer for Distributed Inference on Edge Devices", X. Liu et al., 2024.

A ViT trained on all classes (Model_0) is split by classes into N sub-models (Algorithm 1, section 4.2). Each is pruned
from d, h, c to s d, s h, s c and fine-tuned (Algorithm 2, pruning.py). An MLP fuses their features (section 4.5). Which
device runs which part is decided before, when planning (Algorithm 3, assignment.py).

Readings taken, where the paper leaves a choice (further ones are in the other files):

- Entire retraining (Table 3) starts from the sub-models and the MLP that ED-ViT gives.

Proxy images come from training data. Validation and test data are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from harness.methods import FINE_TUNING, Piece, class_groups, count, fit_on_features, fused_partition, seeded
from harness.types import Context, FitResult, Lineage, Model, ModuleSpec, Partition, StandIn, TensorSpec
from harness_edvit.fusion import FusionMLP, Whole
from harness_edvit.importance import Proxy, check_prunable, measure_importance
from harness_edvit.pruning import Pruning, Share, prune_once
from harness_edvit.sketch import Fusion, mlp_spec, sub_spec
from harness_timm.surgery import feature_model, require_vit

__all__ = ["Settings", "class_partition", "edvit"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Algorithm 1 is run with.

    ``classes`` and ``heads`` are the numbers of each sub-model (``sketch.split``). ``shrinking`` is lambda of the MLP,
    which is trained for ``fusion_epochs``. ``missing`` is what stands in for a sub-model that does not answer.
    ``recorded`` are the parameters as the record states them.
    """

    classes: Sequence[int]
    heads: Sequence[int]
    pruning: Pruning
    fusion: Fusion
    shrinking: float
    fusion_epochs: int
    missing: StandIn
    recorded: Mapping[str, Any]


# --- Algorithm 1: model splitting (section 4.2) ---------------------------------------------------


def edvit(ctx: Context, model: Model, settings: Settings) -> Partition:
    """Split ``model``, Model_0, into Model_1 ... Model_N and what fuses them (Algorithm 1).

    Raises:
        ValueError: ``model`` is no plain timm ViT, or a class has no training image; the message names the stage.
    """
    vit = require_vit(model.module, "edvit")
    check_prunable(vit)
    owned = class_partition(settings.classes, ctx.seed)  # lines 3 to 5: C_1 ... C_N
    shares = [  # lines 6 and 10 to 19, run when planning: h - hp_1 ... h - hp_N
        Share(name=f"sub{i}", classes=classes, heads=heads)
        for i, (classes, heads) in enumerate(zip(owned, settings.heads, strict=True), 1)
    ]

    @cache  # measured for all sub-models when the first one needs it
    def proxy() -> Proxy:
        return measure_importance(ctx, vit, settings.pruning.importance, settings.pruning.proxy)

    subs = [prune_once(ctx, model, settings.pruning, share, proxy) for share in shares]  # lines 7 to 9
    fused = fuse(ctx, model, settings, subs, owned)  # lines 20 and 21
    return fused_partition(  # line 22
        model,
        fused.subs,
        fused.fusion,
        missing=settings.missing,
        lineage=(*model.lineage, lineage_of(settings, shares, subs, fused.fits)),
        groups=owned if settings.fusion == "average" else (),
    )


def class_partition(sizes: Sequence[int], seed: int) -> tuple[tuple[int, ...], ...]:
    """Return a random partition of the classes 0 to sum(``sizes``) - 1 into groups of ``sizes`` (lines 3 to 5)."""
    return class_groups(sizes, np.random.default_rng([seed, 1]))


# --- model fusion (section 4.5 and Table 3) -------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The sub-models as deployed, what fuses their outputs, and the trainings that it took."""

    subs: list[Piece]
    fusion: Piece
    fits: list[FitResult]


def fuse(
    ctx: Context, model: Model, settings: Settings, subs: Sequence[Model], owned: Sequence[Sequence[int]]
) -> Fused:
    """Return the sub-models and their fusion, trained if it has weights (lines 20 and 21)."""
    return fuse_average(subs, owned) if settings.fusion == "average" else fuse_mlp(ctx, model, settings, subs)


def fuse_mlp(ctx: Context, model: Model, settings: Settings, subs: Sequence[Model]) -> Fused:
    """Train the MLP on the features of the frozen sub-models; with ``fusion: retrain`` then train all together."""
    bare = [feature_model(sub.module) for sub in subs]
    dims = [sub.embed_dim for sub in bare]
    spec = mlp_spec(dims, max(1, int(settings.shrinking * sum(dims))), model.classes)
    mlp = seeded(spec.build, ctx.seed)
    assert isinstance(mlp, FusionMLP)
    image, epochs = TensorSpec(shape=ctx.data.info.shape), settings.fusion_epochs
    macs = sum(count(sub, [image]).macs for sub in bare)
    fits = [fit_on_features(ctx, bare, mlp, macs=macs, name="fusion", epochs=epochs, **FINE_TUNING)]
    if settings.fusion == "retrain":
        fits.append(ctx.fit(Whole(bare, mlp), name="retrain", epochs=epochs, **FINE_TUNING))
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
    """Return the average of softmax outputs, without an MLP and without training (Table 3, "w/o retrain")."""
    pieces = [Piece(module=sub.module, spec=sub.spec, output=(sub.classes,)) for sub in subs]
    spec = ModuleSpec(factory="harness_edvit.fusion:average", params={"owned": [list(own) for own in owned]})
    answer = Piece(module=spec.build(), spec=spec, output=(sum(map(len, owned)),))
    return Fused(subs=pieces, fusion=answer, fits=[])


# --- what the record states -----------------------------------------------------------------------


def lineage_of(
    settings: Settings, shares: Sequence[Share], subs: Sequence[Model], fits: Sequence[FitResult]
) -> Lineage:
    """Return the step of the lineage: what all trainings cost, heads and classes, and seconds per stage."""
    steps = [step for sub in subs for step in sub.lineage]
    notes = {
        "heads": [share.heads for share in shares],
        "classes": [list(share.classes) for share in shares],
        "stages_s": {step.entry: step.notes for step in steps},
        "fusion_s": [fit.train_s for fit in fits],
    }
    return Lineage.of("partition", "edvit", settings.recorded, [*steps, *fits], notes)

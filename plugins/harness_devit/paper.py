"""DeViT: "DeViT: Decomposing Vision Transformers for Collaborative Inference in Edge Devices", G. Xu, Z. Hao,
Y. Luo, H. Hu, J. An, S. Mao, IEEE Transactions on Mobile Computing, 2024.

The DEKD algorithm (Algorithm 1): classes are shared out among N devices. A copy M_i of the large ViT M_0 is trained on
each share Omega_i and shrunk to a small ViT m_i, which M_i teaches. Then the m_i are trained together, their class
tokens fused, with M_0 as the teacher.

Readings taken, where the paper leaves a choice (more in the other files):

- The sub-teachers start from M_0 with its head's rows for their classes: in one paragraph the paper calls them both
  randomly initialised and pretrained.
- The paper gives no alpha, beta, gamma, learning rates and epochs: alpha is the authors' code's, beta and gamma
  are 1, the rest is the suite's recipe.

Shapes: images [n, C, H, W]; Z_i [n, D_s], or [n, 2, D_s] from a distilled DeiT; logits [n, classes].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.methods import Piece, fused_partition, resumable, seeded
from harness.types import Context, FitResult, Lineage, Model, Partition
from harness_devit.distillation import distil
from harness_devit.ensemble import train_ensemble
from harness_devit.hsic import hsic_importance
from harness_devit.partitioning import SubTask, partition_data
from harness_devit.shrinking import choose, random_importance, slice_teacher, taylor_importance
from harness_devit.sketch import Shape, fusion_shape, sub_shape, teacher_shape
from harness_timm.surgery import require_vit
from harness_timm.vit import truncated_spec

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from harness_devit.plugin import DeViTParams

__all__ = ["dekd"]


# --- Algorithm 1: DEKD ----------------------------------------------------------------------------


def dekd(ctx: Context, large: Model, params: DeViTParams) -> Partition:
    """Algorithm 1: the large ViT M_0, which line 14 trains, -> N small ViTs and their fusion.

    Raises:
        ValueError: a teacher of another family, a class with too few images, sizes that do not fit.
    """
    m0 = require_vit(large.module, "devit")
    shape = teacher_shape(large.spec)

    # (1) Data Partition
    tasks = partition_data(
        ctx, shape.classes, params.parts, params.held_out
    )  # lines 1 to 4: Omega_1 ... Omega_N

    smalls, fits, teachers, notes = [], [], [], []
    for i, omega in enumerate(tasks, 1):
        # (2) Model Shrinking
        teacher = sub_teacher(ctx, large, omega, params)  # line 5: M_i
        small = shrink(ctx, teacher, shape, omega, params, ctx.seed * 1000 + i)  # lines 6 to 10: m_i
        # (3) Sub-task Distillation
        fits.append(distil(ctx, teacher, small, omega, params))  # lines 11 and 12: theta_i
        smalls.append(small)
        teachers.append(teacher.lineage[-1])
        notes.append(notes_of(ctx, small, omega))

    # (4) Model Ensemble
    bare, fused = sub_shape(shape, params), fusion_shape(shape, params)
    subs = [headless(small, bare) for small in smalls]  # line 13: theta_0
    fusion = seeded(fused.spec().build, ctx.seed * 1000)
    fits.append(train_ensemble(ctx, m0, subs, fusion, shape, params))  # line 15
    feature = (bare.dim,) if bare.read == 1 else (bare.read, bare.dim)
    return fused_partition(
        large,
        [Piece(module=sub, spec=bare.spec(), output=feature) for sub in subs],
        Piece(module=fusion, spec=fused.spec(), output=(large.classes,)),
        missing=params.missing,
        lineage=(*large.lineage, *teachers, lineage_of(params, fits, notes)),
    )


def notes_of(ctx: Context, small: VisionTransformer, omega: SubTask) -> dict[str, Any]:
    """Return what the record says of one sub-model, its accuracy on its own classes included."""
    top1 = None if omega.validation is None else ctx.evaluate(small, omega.validation).top1
    return {"classes": list(omega.classes), "held_out_images": len(omega.unseen), "sub_top1": top1}


def lineage_of(params: DeViTParams, fits: Sequence[FitResult], parts: list[dict[str, Any]]) -> Lineage:
    """Return the step in the record: what all trainings cost, the last of them that of the ensemble."""
    measured = params.init == "teacher-slice" and params.importance != "random"
    notes = {
        "parts": parts,
        "ensemble_s": fits[-1].train_s,
        "data_used_for_importance": "train" if measured else None,
    }
    return Lineage.of("partition", "devit", params.model_dump(mode="json"), fits, notes)


# --- (2) Model Shrinking: lines 5 to 10 (section IV-C) --------------------------------------------


def sub_teacher(ctx: Context, large: Model, omega: SubTask, params: DeViTParams) -> Model:
    """Line 5: return M_i, trained on Omega_i. All rows with the same M_0, classes and recipe share it."""
    overrides = params.teacher_stage.overrides()
    return resumable(
        ctx,
        "teacher",
        partial(train_teacher, ctx, large, omega, overrides),
        source=large,
        classes=omega.classes,
        unseen=params.held_out,
        overrides=overrides,
    )


def train_teacher(ctx: Context, large: Model, omega: SubTask, overrides: dict[str, Any]) -> Model:
    """Train a copy of M_0 with its head's rows for Omega_i's classes."""
    n = len(omega.classes)
    spec = truncated_spec(large.spec, len(large.module.blocks), n)
    teacher = seeded(spec.build, ctx.seed)
    rows, heads = torch.tensor(omega.classes), ("head.", "head_dist.")
    weights = large.module.state_dict()
    teacher.load_state_dict({k: w[rows] if k.startswith(heads) else w for k, w in weights.items()})
    fit = ctx.fit(
        teacher, data=omega.seen, validation=omega.validation, name=f"teacher-{omega.name}", **overrides
    )
    step = Lineage.of("partition", "devit-teacher", {"classes": list(omega.classes), **overrides}, [fit])
    return replace(large, module=teacher, spec=spec, classes=n, lineage=(step,))


def shrink(
    ctx: Context, teacher: Model, shape: Shape, omega: SubTask, params: DeViTParams, seed: int
) -> VisionTransformer:
    """Lines 6 to 10: return m_i with a head for its classes."""
    small_shape = sub_shape(shape, params, classes=teacher.classes)
    small = require_vit(seeded(small_shape.spec().build, seed), "devit")
    if params.init == "random":
        return small
    m_i = require_vit(teacher.module, "devit")
    if params.importance == "taylor":  # lines 6 and 7
        importance = taylor_importance(m_i, omega.unseen, ctx.device)
    elif params.importance == "hsic":
        importance = hsic_importance(m_i, omega.unseen, ctx.device, seed)
    else:
        importance = random_importance(shape, seed)
    kept = choose(importance, small_shape)  # lines 8 and 9
    slice_teacher(m_i.cpu(), small, kept)  # line 10
    return small


# --- (4) Model Ensemble: line 13 ------------------------------------------------------------------


def headless(small: VisionTransformer, bare: Shape) -> nn.Module:
    """Line 13: return m_i as it is deployed, which gives Z_i."""
    sub, weights = bare.spec().build(), small.state_dict()
    sub.load_state_dict({name: weights[name] for name in sub.state_dict()})
    return sub

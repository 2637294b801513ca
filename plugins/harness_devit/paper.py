"""DeViT's algorithm DEKD (section IV-A, Algorithm 1).

"DeViT: Decomposing Vision Transformers for Collaborative Inference in Edge Devices", G. Xu, Z. Hao, Y. Luo, H. Hu,
J. An, S. Mao, IEEE Transactions on Mobile Computing, 2024.

The classes are divided among N devices. For each share Omega_i a copy M_i of the large ViT M_0 is trained and shrunk to
a small ViT m_i, which M_i then teaches. At the end all m_i are trained together with the fusion of their class tokens,
with M_0 as the teacher.

Readings taken, where the paper leaves a choice (further ones are in the other files):

- The sub-teachers start from M_0 with its head's rows for their classes. In one paragraph the paper calls them both
  randomly initialised and pretrained.
- The paper gives no alpha, beta, gamma, learning rates and epochs. alpha is that of the authors' code, beta and gamma
  are 1, and the rest is the suite's recipe.

Shapes: images [n, C, H, W]; Z_i [n, D_s], or [n, 2, D_s] from a distilled DeiT; logits [n, classes].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.methods import Piece, fused_partition, resumable, seeded
from harness.types import Context, FitResult, Lineage, Model, Partition, StandIn
from harness_devit.distillation import Distillation, distil
from harness_devit.ensemble import Ensembling, train_ensemble
from harness_devit.given import Given, start_from
from harness_devit.partitioning import SubTask, partition_data
from harness_devit.shrinking import choose, measure_importance, slice_teacher
from harness_devit.sketch import Criterion, Shape, Shapes
from harness_timm.surgery import require_vit
from harness_timm.vit import truncated_spec

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["Settings", "dekd"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What Algorithm 1 is run with.

    ``held_out`` is the share of images that importance is taken on. Without a ``criterion`` the sub-models start with
    the ``given`` weights, or at random. ``teacher_recipe`` holds keywords of ``ctx.fit``. ``missing`` is what stands in for a sub-model that does not
    answer. ``recorded`` are the parameters as the record states them.
    """

    shapes: Shapes
    held_out: float
    criterion: Criterion | None
    given: Given | None
    teacher_recipe: Mapping[str, Any]
    distillation: Distillation
    ensembling: Ensembling
    missing: StandIn
    recorded: Mapping[str, Any]


# --- Algorithm 1: DEKD ----------------------------------------------------------------------------


def dekd(ctx: Context, large: Model, settings: Settings) -> Partition:
    """Decompose the trained ViT ``large``, M_0, into N small ViTs and their fusion (Algorithm 1).

    Line 14, the training of M_0, is a step of the suite before this one.

    Raises:
        ValueError: a teacher of another family, or a class with too few images.
    """
    m0, shapes = require_vit(large.module, "devit"), settings.shapes
    teachers, smalls, fits, notes = [], [], [], []

    # (1) Data Partition
    tasks = partition_data(ctx, shapes.groups, settings.held_out)  # lines 1 to 4: Omega_1 ... Omega_N
    for i, omega in enumerate(tasks, 1):
        # (2) Model Shrinking
        teacher = sub_teacher(ctx, large, omega, settings)  # line 5: M_i
        small = shrink(ctx, teacher, omega, settings, ctx.seed * 1000 + i)  # lines 6 to 10: m_i
        # (3) Sub-task Distillation
        fit = distil(ctx, teacher, small, omega, settings.distillation)  # lines 11 and 12: theta_i
        teachers.append(teacher)
        smalls.append(small)
        fits.append(fit)
        notes.append(notes_of(ctx, small, omega))
    # (4) Model Ensemble
    subs = [headless(small, shapes.sub) for small in smalls]  # line 13: theta_0
    fusion = seeded(shapes.fusion.spec().build, ctx.seed * 1000)
    fits.append(train_ensemble(ctx, m0, subs, fusion, shapes, settings.ensembling))  # line 15
    return deployed(large, teachers, subs, fusion, settings, lineage_of(settings, fits, notes))


# --- (2) Model Shrinking: lines 5 to 10 -----------------------------------------------------------


def sub_teacher(ctx: Context, large: Model, omega: SubTask, settings: Settings) -> Model:
    """Return M_i, trained on Omega_i (line 5). Rows of an ablation with the same M_0, classes and recipe share it."""
    overrides = dict(settings.teacher_recipe)
    return resumable(
        ctx,
        "teacher",
        partial(train_teacher, ctx, large, omega, overrides),
        source=large,
        classes=omega.classes,
        unseen=settings.held_out,
        overrides=overrides,
    )


def train_teacher(ctx: Context, large: Model, omega: SubTask, overrides: Mapping[str, Any]) -> Model:
    """Train a copy of M_0 with its head's rows for Omega_i's classes; ``overrides`` are keywords of ``ctx.fit``."""
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


def shrink(ctx: Context, teacher: Model, omega: SubTask, settings: Settings, seed: int) -> VisionTransformer:
    """Return m_i with a head for the classes of M_i, cut from it (lines 6 to 10).

    Without a criterion of importance it has the given weights and a new head, or is at random by ``seed``.
    """
    shape = replace(settings.shapes.sub, classes=teacher.classes)
    small = require_vit(seeded(shape.spec().build, seed), "devit")
    if settings.given is not None:
        start_from(settings.given, small, settings.shapes.sub)
    if settings.criterion is None:
        return small
    m_i = require_vit(teacher.module, "devit")
    importance = measure_importance(settings.criterion, m_i, omega.unseen, ctx.device, seed)  # lines 6 and 7
    kept = choose(importance, shape)  # lines 8 and 9
    slice_teacher(m_i.cpu(), small, kept)  # line 10
    return small


# --- (4) Model Ensemble: line 13, and what is deployed --------------------------------------------


def headless(small: VisionTransformer, shape: Shape) -> nn.Module:
    """Return m_i without its head, which gives Z_i (line 13); ``shape`` has no classes."""
    sub, weights = shape.spec().build(), small.state_dict()
    sub.load_state_dict({name: weights[name] for name in sub.state_dict()})
    return sub


def deployed(
    large: Model,
    teachers: Sequence[Model],
    subs: Sequence[nn.Module],
    fusion: nn.Module,
    settings: Settings,
    step: Lineage,
) -> Partition:
    """Return ``subs`` and ``fusion`` as the parts that devices run. All trainings before ``step`` are in the lineage."""
    shape, fused = settings.shapes.sub, settings.shapes.fusion
    feature = (shape.dim,) if shape.read == 1 else (shape.read, shape.dim)
    return fused_partition(
        large,
        [Piece(module=sub, spec=shape.spec(), output=feature) for sub in subs],
        Piece(module=fusion, spec=fused.spec(), output=(large.classes,)),
        missing=settings.missing,
        lineage=(*large.lineage, *(teacher.lineage[-1] for teacher in teachers), step),
    )


# --- what the record states -----------------------------------------------------------------------


def notes_of(ctx: Context, small: VisionTransformer, omega: SubTask) -> dict[str, Any]:
    """Return what the record states of one sub-model: classes, held-out images, and accuracy on its own classes."""
    top1 = None if omega.validation is None else ctx.evaluate(small, omega.validation).top1
    return {"classes": list(omega.classes), "held_out_images": len(omega.unseen), "sub_top1": top1}


def lineage_of(settings: Settings, fits: Sequence[FitResult], parts: list[dict[str, Any]]) -> Lineage:
    """Return the step of the lineage: what all trainings cost. The last of ``fits`` is that of the ensemble."""
    notes = {
        "parts": parts,
        "ensemble_s": fits[-1].train_s,
        "data_used_for_importance": "train" if settings.criterion in ("taylor", "hsic") else None,
    }
    if settings.given is not None:
        notes["start"] = settings.given.name
    return Lineage.of("partition", "devit", settings.recorded, fits, notes)

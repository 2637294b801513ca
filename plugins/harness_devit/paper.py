"""DeViT: "DeViT: Decomposing Vision Transformers for Collaborative Inference in Edge Devices", G. Xu, Z. Hao,
Y. Luo, H. Hu, J. An, S. Mao, IEEE Transactions on Mobile Computing, 2024.

The DEKD algorithm (Algorithm 1): classes are shared out among N devices, a copy M_i of the large ViT M_0 is trained
on each share Omega_i and shrunk to a small ViT m_i, which M_i teaches; then the m_i are trained together, their class
tokens fused, with M_0 as the teacher.

Readings taken, where the paper leaves a choice (more in shrinking.py, hsic.py, distillation.py, fusion.py and cct.py):

- Classes are drawn without replacement (Eq. 4), so each is in one group.
- The sub-teachers start from M_0 with its head's rows for their classes: in one paragraph the paper calls them both
  randomly initialised and pretrained.
- Importance is taken on training images that the sub-teacher has not seen; the paper takes the test split.
- In the ensemble stage all sub-models are trained (Algorithm 3 updates theta_0, which holds them), by one optimiser;
  the gradient of its line 7 is of L_ensemble.
- Table VII's L_feat and Table VIII's L_token alone train no classifier: they are read as ground truth plus that.
- The paper gives no alpha, beta, gamma, learning rates and epochs: alpha is the authors' code's, beta and gamma
  are 1, the rest is the suite's recipe.

Shapes: images [n, C, H, W]; Z_i [n, D_s], or [n, 2, D_s] from a distilled DeiT; logits [n, classes].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness.data.choice import relabel, subset
from harness.train.counting.count import count
from harness.types import IMAGE, Context, Edge, FitResult, Lineage, Model, Part, Partition, Split, TensorSpec
from harness_devit.distillation import FeatureLoss, Loss, prediction_loss, sub_task_loss
from harness_devit.fusion import Fusion
from harness_devit.hsic import hsic_importance
from harness_devit.params import DeViTParams
from harness_devit.shrinking import choose, random_importance, slice_teacher, taylor_importance
from harness_devit.sketch import Shape, fusion_shape, group_sizes, sub_shape, teacher_shape
from harness_devit.submodel import Tap, read_tokens
from harness_timm.models import seeded
from harness_timm.surgery import require_vit
from harness_timm.vit import truncated_spec

__all__ = ["Ensemble", "class_groups", "dekd", "held_out"]


@dataclass(frozen=True, kw_only=True)
class SubTask:
    """Omega_i, relabelled 0 ... N_i - 1: ``seen`` and ``unseen`` by the sub-teacher make ``train``."""

    name: str
    classes: tuple[int, ...]
    train: Split
    seen: Split
    unseen: Split
    validation: Split | None


def dekd(ctx: Context, large: Model, params: DeViTParams) -> Partition:
    """Algorithm 1: the large ViT M_0 -> N small ViTs and their fusion.

    Raises:
        ValueError: a teacher of another family, a class with too few images, sizes that do not fit.
    """
    m0 = require_vit(large.module, "devit")
    shape = teacher_shape(large.spec)
    fits: list[tuple[FitResult, int]] = []  # with the MACs of the teacher's pass beside each

    # (1) data partition
    groups = class_groups(shape.classes, params.parts, ctx.seed)
    tasks = [_sub_task(ctx, f"sub{i}", group, params.held_out) for i, group in enumerate(groups, 1)]

    smalls, lineage, notes = [], [], []
    for i, task in enumerate(tasks, 1):
        # (2) model shrinking
        teacher = _sub_teacher(ctx, large, task, params)
        lineage.append(teacher.lineage[-1])
        small = _shrink(ctx, teacher, shape, task, params, seed=ctx.seed * 1000 + i)
        # (3) sub-task distillation
        fits.append(_distil(ctx, teacher, small, task, params))
        smalls.append(small)
        top1 = None if task.validation is None else ctx.evaluate(small, task.validation).top1
        notes.append({"classes": list(task.classes), "held_out_images": len(task.unseen), "sub_top1": top1})

    # (4) model ensemble
    bare = sub_shape(shape, params)
    subs = [_headless(small, bare) for small in smalls]
    fused = fusion_shape(shape, params)
    fusion = seeded(fused.spec().build, ctx.seed * 1000)
    fits.append(_ensemble(ctx, m0, subs, fusion, shape, params))

    image, answer = TensorSpec(shape=large.input.shape), TensorSpec(shape=(large.classes,))
    feature = TensorSpec(shape=(bare.dim,) if bare.read == 1 else (bare.read, bare.dim))
    parts = [
        Part(
            name=task.name,
            module=sub,
            spec=bare.spec(),
            inputs=(Edge(source=IMAGE, tensor=image),),
            output=feature,
        )
        for task, sub in zip(tasks, subs, strict=True)
    ]
    edges = tuple(Edge(source=part.name, tensor=feature, missing=params.missing) for part in parts)
    parts.append(Part(name="fusion", module=fusion, spec=fused.spec(), inputs=edges, output=answer))

    measured = params.init == "teacher-slice" and params.importance != "random"
    step = Lineage(
        stage="partition",
        entry="devit",
        params=params.model_dump(mode="json"),
        image_passes=sum(fit.image_passes for fit, _ in fits),
        train_macs=sum(fit.train_macs + fit.image_passes * macs for fit, macs in fits),
        train_s=sum(fit.train_s for fit, _ in fits),
        notes={
            "parts": notes,
            "ensemble_s": fits[-1][0].train_s,
            "data_used_for_importance": "train" if measured else None,
        },
    )
    return Partition(parts=tuple(parts), classes=large.classes, lineage=(*large.lineage, *lineage, step))


# --- (1) data partition ---------------------------------------------------------------------------


def class_groups(classes: int, parts: int, seed: int) -> list[tuple[int, ...]]:
    """Eq. 4: the classes at random in N groups whose sizes differ by one at most."""
    order = np.random.RandomState(seed).permutation(classes)  # its stream is frozen for good
    ends = np.cumsum(group_sizes(classes, parts))[:-1]
    return [tuple(sorted(map(int, group))) for group in np.split(order, ends)]


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of a ``share`` of each class, at least one image and never all.

    Raises:
        ValueError: a class has one image only.
    """
    found = []
    for label in np.unique(labels):
        members = np.random.RandomState([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(
                f"devit, data partition: class {label} of a part has {len(members)} training image"
            )
        found.append(members[: min(max(1, round(share * len(members))), len(members) - 1)])
    return np.sort(np.concatenate(found))


def _sub_task(ctx: Context, name: str, classes: tuple[int, ...], share: float) -> SubTask:
    def of_group(split: Split) -> Split:
        members = np.flatnonzero(np.isin(split.labels, classes))
        return relabel(subset(split, members), {label: i for i, label in enumerate(classes)})

    train, validation = (
        of_group(ctx.data.train),
        of_group(ctx.data.validation) if len(ctx.data.validation) else None,
    )
    absent = set(range(len(classes))) - set(train.labels.tolist())
    if absent:
        raise ValueError(f"devit, data partition: class {classes[min(absent)]} has no training image")
    unseen = held_out(train.labels, share, ctx.seed)
    return SubTask(
        name=name,
        classes=classes,
        train=train,
        seen=subset(train, np.setdiff1d(np.arange(len(train)), unseen)),
        unseen=subset(train, unseen),
        validation=validation if validation is not None and len(validation) else None,
    )


# --- (2) model shrinking --------------------------------------------------------------------------


def _sub_teacher(ctx: Context, large: Model, task: SubTask, params: DeViTParams) -> Model:
    """Algorithm 1, line 5: M_i, shared by all rows with the same M_0, classes and recipe."""
    overrides = params.teacher_stage.overrides()

    def train() -> Model:
        n = len(task.classes)
        spec = truncated_spec(large.spec, len(large.module.blocks), n)
        teacher = seeded(spec.build, ctx.seed)
        weights = large.module.state_dict()
        rows = torch.tensor(task.classes)
        heads = ("head.", "head_dist.")
        teacher.load_state_dict({k: w[rows] if k.startswith(heads) else w for k, w in weights.items()})
        fit = ctx.fit(
            teacher, data=task.seen, validation=task.validation, name=f"teacher-{task.name}", **overrides
        )
        step = Lineage(
            stage="partition",
            entry="devit-teacher",
            params={"classes": list(task.classes), **overrides},
            image_passes=fit.image_passes,
            train_macs=fit.train_macs,
            train_s=fit.train_s,
        )
        return replace(large, module=teacher, spec=spec, classes=n, lineage=(step,))

    key = f"teacher {_digest(large)} classes {task.classes} unseen {params.held_out} {sorted(overrides.items())}"
    return ctx.once(key, train)


def _digest(model: Model) -> str:
    found = hashlib.sha256(repr(model.spec).encode())
    for name, tensor in model.module.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _shrink(
    ctx: Context, teacher: Model, shape: Shape, task: SubTask, params: DeViTParams, seed: int
) -> VisionTransformer:
    """Algorithm 1, lines 6 to 10: m_i with a head for its classes."""
    small_shape = sub_shape(shape, params, classes=teacher.classes)
    small = require_vit(seeded(small_shape.spec().build, seed), "devit")
    if params.init == "random":
        return small
    vit = require_vit(teacher.module, "devit")
    if params.importance == "taylor":
        importance = taylor_importance(vit, task.unseen, ctx.device)
    elif params.importance == "hsic":
        importance = hsic_importance(vit, task.unseen, ctx.device, seed)
    else:
        importance = random_importance(shape, seed)
    slice_teacher(vit.cpu(), small, choose(importance, small_shape))
    return small


# --- (3) sub-task distillation --------------------------------------------------------------------


def _distil(
    ctx: Context, teacher: Model, small: VisionTransformer, task: SubTask, params: DeViTParams
) -> tuple[FitResult, int]:
    """Algorithm 2: M_i teaches m_i on Omega_i."""
    vit = require_vit(teacher.module, "devit").to(ctx.device).eval()
    wanted = "feature" in params.sub_losses
    features = FeatureLoss(small, vit, params.fm, params.alpha) if wanted else None
    fit = ctx.fit(
        small,
        loss=sub_task_loss(vit, features, params),
        data=task.train,
        validation=task.validation,
        name=f"distil-{task.name}",
        **params.sub_stage.overrides(),
    )
    if features is not None:
        features.close()
    taught = wanted or "prediction" in params.sub_losses
    return fit, count(vit, [teacher.input]).macs if taught else 0


def _headless(small: VisionTransformer, bare: Shape) -> nn.Module:
    """m_i as it is deployed: it gives Z_i."""
    sub, weights = bare.spec().build(), small.state_dict()
    sub.load_state_dict({name: weights[name] for name in sub.state_dict()})
    return sub


# --- (4) model ensemble ---------------------------------------------------------------------------


class Ensemble(nn.Module):
    """All sub-models and their fusion: images -> logits. ``maps`` are G of Eq. 15, in training only."""

    def __init__(self, subs: list[nn.Module], fusion: Fusion, maps: nn.ModuleList) -> None:
        super().__init__()
        self.subs, self.fusion, self.maps = nn.ModuleList(subs), fusion, maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fusion(*(sub(images) for sub in self.subs))


def token_maps(fused: int, teacher: int, read: int, direct: bool) -> nn.ModuleList:
    """G of each token. With ``fa: code`` the fused feature is itself compared, where the widths agree."""
    if direct and fused == teacher:
        return nn.ModuleList(nn.Identity() for _ in range(read))
    return nn.ModuleList(nn.Linear(fused, teacher, bias=False) for _ in range(read))


def ensemble_loss(m0: VisionTransformer, whole: Ensemble, taps: list[Tap], params: DeViTParams) -> Loss:
    """L_ensemble: Eq. 14 and 15, or a row of Table VIII; ``taps`` keep FA(Z_s) of each branch."""
    tokens, hard = "token" in params.ensemble_losses, "prediction" in params.ensemble_losses

    def loss(module: nn.Module, batch: object) -> torch.Tensor:
        with torch.no_grad():
            last = m0.forward_features(batch.inputs) if tokens or hard else None
            y_t = m0.forward_head(last) if hard else None
            z_t = read_tokens(m0, last) if tokens else None  # [n, R, D_t]
        total = prediction_loss(module(batch.inputs), batch.labels, y_t, params.label_smoothing)
        if not tokens:
            return total
        fused = torch.stack([g(tap.value) for g, tap in zip(whole.maps, taps, strict=True)], dim=1)
        return total + params.gamma * functional.mse_loss(fused, z_t)

    return loss


def _ensemble(
    ctx: Context,
    m0: VisionTransformer,
    subs: list[nn.Module],
    fusion: Fusion,
    shape: Shape,
    params: DeViTParams,
) -> tuple[FitResult, int]:
    """Algorithm 3: sub-models and fusion trained together on all classes."""
    m0 = m0.to(ctx.device).eval()
    fused = fusion_shape(shape, params)
    direct = params.fusion in ("linear", "mlp") and params.fa == "code"
    maps = seeded(lambda: token_maps(fused.fused, shape.dim, shape.read, direct), ctx.seed * 1000 + 999)
    whole = Ensemble(subs, fusion, maps)
    if "token" not in params.ensemble_losses:
        maps.requires_grad_(False)
    taps = [Tap(branch.fa) for branch in fusion.branches]
    fit = ctx.fit(
        whole,
        loss=ensemble_loss(m0, whole, taps, params),
        name="ensemble",
        **params.ensemble_stage.overrides(),
    )
    for tap in taps:
        tap.close()
    taught = {"prediction", "token"} & set(params.ensemble_losses)
    image = TensorSpec(shape=(shape.channels, *shape.image_size))
    return fit, count(m0, [image]).macs if taught else 0

"""Model ensemble (section IV-E): Algorithm 3 and the losses of Eq. 14 and 15.

Readings taken:

- All sub-models are trained in this stage by one optimiser: Algorithm 3 updates theta_0, which holds them.
- The gradient of line 7 is of L_ensemble.
- A distilled DeiT has L_token for each of its tokens, and they are added (authors' code). L_pred is of the mean of both
  branches' logits, in the authors' code too.
- Table VIII's L_token alone trains no classifier: it is read as ground truth plus that.

Shapes: images [n, C, H, W]; teacher's tokens Z_t [n, R, D_t]; logits [n, classes].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness.methods import Batch, count, seeded
from harness.types import Context, FitResult, TensorSpec
from harness_devit.deit import read_tokens
from harness_devit.distillation import Loss, prediction_loss, with_teacher
from harness_devit.fusion import Fusion
from harness_devit.shrinking import Tap
from harness_devit.sketch import Shapes

__all__ = ["Ensemble", "Ensembling", "ensemble_loss", "token_maps", "train_ensemble"]


@dataclass(frozen=True, kw_only=True)
class Ensembling:
    """How the large ViT teaches the ensemble.

    ``terms`` are a row of Table VIII, ``gamma`` is the weight of L_token in Eq. 14, ``smoothing`` that of the labels.
    ``recipe`` holds keywords of ``ctx.fit``.
    """

    terms: Sequence[Literal["truth", "prediction", "token"]]
    gamma: float
    smoothing: float
    recipe: Mapping[str, Any]


class Ensemble(nn.Module):
    """All sub-models and their fusion, m_0: images -> logits. ``maps`` are G of Eq. 15, used in training only."""

    def __init__(self, subs: list[nn.Module], fusion: Fusion, maps: nn.ModuleList) -> None:
        super().__init__()
        self.subs, self.fusion, self.maps = nn.ModuleList(subs), fusion, maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes]."""
        return self.fusion(*(sub(images) for sub in self.subs))


def train_ensemble(
    ctx: Context,
    m0: VisionTransformer,
    subs: list[nn.Module],
    fusion: Fusion,
    shapes: Shapes,
    how: Ensembling,
) -> FitResult:
    """Train sub-models and fusion together on all classes, with the teacher ``m0``, M_0 (Algorithm 3).

    The cost includes the teacher's passes.
    """
    m0, teacher = m0.to(ctx.device).eval(), shapes.teacher
    direct = shapes.fusion.kind in ("linear", "mlp") and shapes.fusion.fa == "code"
    fused = shapes.fusion.fused
    maps = seeded(lambda: token_maps(fused, teacher.dim, teacher.read, direct), ctx.seed * 1000 + 999)
    whole = Ensemble(subs, fusion, maps)  # line 1
    if "token" not in how.terms:
        maps.requires_grad_(False)
    taps = [Tap(branch.fa) for branch in fusion.branches]
    loss = ensemble_loss(m0, whole, taps, how)
    fit = ctx.fit(whole, loss=loss, name="ensemble", **how.recipe)  # lines 2 to 16
    for tap in taps:
        tap.close()
    taught = {"prediction", "token"} & set(how.terms)
    image = TensorSpec(shape=(teacher.channels, *teacher.image_size))
    return with_teacher(fit, count(m0, [image]).macs if taught else 0)


def token_maps(fused: int, teacher: int, read: int, direct: bool) -> nn.ModuleList:
    """Return G of Eq. 15 for each of the ``read`` tokens: [n, ``fused``] -> [n, ``teacher``] channels.

    If the fused feature is compared ``direct``ly (``fa: code``) and the widths agree, G is the identity.
    """
    if direct and fused == teacher:
        return nn.ModuleList(nn.Identity() for _ in range(read))
    return nn.ModuleList(nn.Linear(fused, teacher, bias=False) for _ in range(read))


def ensemble_loss(m0: VisionTransformer, whole: Ensemble, taps: list[Tap], how: Ensembling) -> Loss:
    """Return L_ensemble: Eq. 14 and 15, or what ``how.terms`` leave of it (Table VIII).

    ``taps`` keep FA(Z_s) [n, F] of each branch.
    """
    tokens, hard = "token" in how.terms, "prediction" in how.terms

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            last = m0.forward_features(batch.inputs) if tokens or hard else None
            y_t = m0.forward_head(last) if hard else None
            z_t = read_tokens(m0, last) if tokens else None  # [n, R, D_t]
        y_s = module(batch.inputs)  # line 4
        total = prediction_loss(y_s, batch.labels, y_t, how.smoothing)
        if z_t is None:
            return total
        fused = torch.stack([g(tap.value) for g, tap in zip(whole.maps, taps, strict=True)], dim=1)
        token = z_t.shape[1] * functional.mse_loss(
            fused, z_t
        )  # a mean over tokens too: R times it is their sum
        return total + how.gamma * token  # lines 5 and 6

    return loss

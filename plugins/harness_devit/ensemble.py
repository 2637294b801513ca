"""Model ensemble (section IV-E): Algorithm 3 and the losses of Eq. 14 and 15.

Readings taken:

- All sub-models are trained in this stage (Algorithm 3 updates theta_0, which holds them), by one optimiser.
- The gradient of line 7 is of L_ensemble.
- Table VIII's L_token alone trains no classifier: it is read as ground truth plus that.

Shapes: images [n, C, H, W]; teacher's tokens Z_t [n, R, D_t]; logits [n, classes].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness.methods import Batch, count, seeded
from harness.types import Context, FitResult, TensorSpec
from harness_devit.distillation import Loss, prediction_loss
from harness_devit.fusion import Fusion
from harness_devit.sketch import Shape, fusion_shape
from harness_devit.submodel import Tap, read_tokens, with_teacher

if TYPE_CHECKING:
    from harness_devit.plugin import DeViTParams

__all__ = ["Ensemble", "ensemble_loss", "token_maps", "train_ensemble"]


class Ensemble(nn.Module):
    """All sub-models and their fusion: images -> logits. ``maps`` are G of Eq. 15, in training only."""

    def __init__(self, subs: list[nn.Module], fusion: Fusion, maps: nn.ModuleList) -> None:
        super().__init__()
        self.subs, self.fusion, self.maps = nn.ModuleList(subs), fusion, maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fusion(*(sub(images) for sub in self.subs))


def train_ensemble(
    ctx: Context,
    m0: VisionTransformer,
    subs: list[nn.Module],
    fusion: Fusion,
    shape: Shape,
    params: DeViTParams,
) -> FitResult:
    """Algorithm 3: sub-models and fusion are trained together on all classes. The teacher's passes are in the cost.

    ``shape`` is that of the teacher ``m0``.
    """
    m0 = m0.to(ctx.device).eval()
    direct = params.fusion in ("linear", "mlp") and params.fa == "code"
    fused = fusion_shape(shape, params).fused
    maps = seeded(lambda: token_maps(fused, shape.dim, shape.read, direct), ctx.seed * 1000 + 999)
    whole = Ensemble(subs, fusion, maps)  # line 1
    if "token" not in params.ensemble_losses:
        maps.requires_grad_(False)
    taps = [Tap(branch.fa) for branch in fusion.branches]
    fit = ctx.fit(  # lines 2 to 16
        whole,
        loss=ensemble_loss(m0, whole, taps, params),
        name="ensemble",
        **params.ensemble_stage.overrides(),
    )
    for tap in taps:
        tap.close()
    taught = {"prediction", "token"} & set(params.ensemble_losses)
    image = TensorSpec(shape=(shape.channels, *shape.image_size))
    return with_teacher(fit, count(m0, [image]).macs if taught else 0)


def token_maps(fused: int, teacher: int, read: int, direct: bool) -> nn.ModuleList:
    """Return G of each token. With ``fa: code`` the fused feature itself is compared, if the widths agree."""
    if direct and fused == teacher:
        return nn.ModuleList(nn.Identity() for _ in range(read))
    return nn.ModuleList(nn.Linear(fused, teacher, bias=False) for _ in range(read))


def ensemble_loss(m0: VisionTransformer, whole: Ensemble, taps: list[Tap], params: DeViTParams) -> Loss:
    """Return L_ensemble: Eq. 14 and 15, or a row of Table VIII. ``taps`` keep FA(Z_s) of each branch."""
    tokens, hard = "token" in params.ensemble_losses, "prediction" in params.ensemble_losses

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            last = m0.forward_features(batch.inputs) if tokens or hard else None
            y_t = m0.forward_head(last) if hard else None
            z_t = read_tokens(m0, last) if tokens else None  # [n, R, D_t]
        total = prediction_loss(
            module(batch.inputs), batch.labels, y_t, params.label_smoothing
        )  # line 4 within
        if not tokens:
            return total
        fused = torch.stack([g(tap.value) for g, tap in zip(whole.maps, taps, strict=True)], dim=1)
        return total + params.gamma * functional.mse_loss(fused, z_t)  # lines 5 and 6

    return loss

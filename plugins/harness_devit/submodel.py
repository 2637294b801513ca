"""Sub-models, and what is read of a ViT: stock timm ViTs, a DeiT that gives both its tokens, and CCTs.

Shapes: images [n, C, H, W]; Z [n, R, D], the R tokens that heads read, normalised (or [n, 1, D], the mean of the
patches, or in a CCT their sequence pooling, where there is no class token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.types import FitResult

__all__ = ["Tap", "TwoTokens", "block_taps", "embedding_axis", "read_tokens", "two_tokens", "with_teacher"]

# tensors outside the blocks whose first, or last, axis is the embedding's channels
_FIRST = ("patch_embed.proj.", "norm.", "fc_norm.")
_LAST = ("cls_token", "dist_token", "pos_embed", "head.weight", "head_dist.weight", "attn_pool.score.weight")


class TwoTokens(VisionTransformerDistilled):
    """A distilled DeiT. Without classes it gives the class and the distillation token [n, 2, D]."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return super().forward_head(x, pre_logits) if self.num_classes else x[:, :2]


def two_tokens(
    *,
    image_size: Sequence[int],
    patch_size: int,
    channels: int,
    classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    drop_path_rate: float,
) -> nn.Module:
    """Return a new :class:`TwoTokens`."""
    return TwoTokens(
        img_size=tuple(image_size),
        patch_size=patch_size,
        in_chans=channels,
        num_classes=classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        drop_path_rate=drop_path_rate,
    )


def read_tokens(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """Return Z [n, R, D] of the last block's normalised tokens [n, T, D]."""
    if isinstance(vit, VisionTransformerDistilled):
        return x[:, :2]
    return vit.forward_head(x, pre_logits=True)[:, None]


def embedding_axis(name: str) -> int | None:
    """Return which axis of the tensor ``name`` outside the blocks is the embedding's D channels, or ``None``.

    A CCT's first convolutions have none, so a sub-model has them whole: only the last one's outputs are tokens.
    """
    if name.startswith(_FIRST):
        return 0
    return -1 if name in _LAST else None


class Tap:
    """Keeps as ``value`` the last output of a module, or with ``inputs`` its last first input."""

    def __init__(self, module: nn.Module, *, inputs: bool = False) -> None:
        self.value = torch.empty(0)
        if inputs:
            self._handle = module.register_forward_pre_hook(self._keep_input)
        else:
            self._handle = module.register_forward_hook(self._keep_output)

    def close(self) -> None:
        """Remove the hook from the module."""
        self._handle.remove()

    def _keep_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.value = inputs[0]

    def _keep_output(self, module: nn.Module, inputs: object, out: torch.Tensor) -> None:
        self.value = out


def block_taps(vit: VisionTransformer) -> tuple[list[Tap], list[Tap], list[Tap]]:
    """Return the tap of each block: O_h, heads side by side [n, T, D]; O_w [n, T, d]; and the block's output [n, T, D]."""
    return (
        [Tap(block.attn.proj, inputs=True) for block in vit.blocks],
        [Tap(block.mlp.fc2, inputs=True) for block in vit.blocks],
        [Tap(block) for block in vit.blocks],
    )


def with_teacher(fit: FitResult, macs: int) -> FitResult:
    """Return ``fit`` with the cost of the teacher, whose pass of ``macs`` stands beside each of the student's."""
    return replace(fit, train_macs=fit.train_macs + fit.image_passes * macs)

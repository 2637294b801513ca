"""A distilled DeiT that gives both its class token and its distillation token: the sub-model of DeViT's DeDeiTs.

"Training data-efficient image transformers & distillation through attention", H. Touvron et al., 2021.

This file imports no training code, since the process that is measured builds the network too.

Shapes: images [n, C, H, W]; tokens x [n, T, D]; Z [n, R, D], the R tokens that heads read, after the last LayerNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = ["TwoTokens", "read_tokens", "two_tokens"]


class TwoTokens(VisionTransformerDistilled):
    """A distilled DeiT: images -> logits, or without classes the class and the distillation token [n, 2, D]."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the logits [n, classes] of ``x`` [n, T, D], or without classes its first two tokens [n, 2, D]."""
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
    """Build a :class:`TwoTokens` with random weights; the keywords are fields of ``sketch.TokenShape``."""
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
    """Return Z [n, R, D] of ``x`` [n, T, D], the tokens after the last LayerNorm.

    R is 2 for a distilled DeiT and 1 for the others. Where there is no class token, Z is what takes its place: the mean
    of the patches, or the sequence pooling of a CCT.
    """
    if isinstance(vit, VisionTransformerDistilled):
        return x[:, :2]
    return vit.forward_head(x, pre_logits=True)[:, None]

"""Physical removal of units from a timm ViT, in place: the three stages of section 4.3.

After all three the model is a plain ViT of fewer heads: its weights fit timm's ``VisionTransformer``.
``keep`` are ascending indices of units. Before removal there are D channels of the residual stream, and in each block
A joint dimensions of q, k and v and F neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from timm.layers import Mlp
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["best", "best_merged", "keep_attention", "keep_ffn", "keep_residual", "new_head"]


def best(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the indices of the ``k`` highest ``scores`` [U, 1], ascending. Of equal scores the first ones are taken."""
    return scores.flatten().argsort(descending=True, stable=True)[:k].sort().values


def best_merged(scores: torch.Tensor, heads: int, head_dim: int) -> torch.Tensor:
    """Return the dimensions that ``heads`` new heads keep of the old ones, ascending; ``scores`` [A, 1].

    The A dimensions are cut into ``heads`` groups of consecutive ones, and each group keeps its ``head_dim`` best.
    """
    groups = torch.arange(len(scores)).tensor_split(heads)
    return torch.cat([group[best(scores[group], head_dim)] for group in groups])


def keep_residual(vit: VisionTransformer, keep: torch.Tensor) -> None:
    """Stage 1, d -> s d: cut everything that writes to or reads from the residual stream."""
    for name in ("cls_token", "reg_token", "dist_token", "pos_embed"):
        token = getattr(vit, name, None)
        if token is not None:
            setattr(vit, name, nn.Parameter(token.detach()[..., keep]))
    _rows(vit.patch_embed.proj, keep)
    norms = [vit.patch_embed.norm, vit.norm_pre, vit.norm, vit.fc_norm]
    for block in vit.blocks:
        norms += [block.norm1, block.norm2]
        for scale in (block.ls1, block.ls2):
            if not isinstance(scale, nn.Identity):
                scale.gamma = nn.Parameter(scale.gamma.detach()[keep])
        _columns(block.attn.qkv, keep)
        _columns(block.mlp.fc1, keep)
        _rows(block.attn.proj, keep)
        _rows(block.mlp.fc2, keep)
    for norm in norms:
        if isinstance(norm, nn.LayerNorm):
            norm.weight = nn.Parameter(norm.weight.detach()[keep])
            norm.bias = nn.Parameter(norm.bias.detach()[keep])
            norm.normalized_shape = (len(keep),)
    for head in _heads(vit):
        _columns(head, keep)
    vit.embed_dim = vit.num_features = vit.head_hidden_size = len(keep)


def keep_attention(attn: Attention, keep: torch.Tensor) -> None:
    """Stage 2, h -> s h: keep the same dimensions of q, k and v. A head keeps its size, so its scale stays right."""
    attn.num_heads, attn.attn_dim, before = len(keep) // attn.head_dim, len(keep), attn.attn_dim
    _rows(attn.qkv, torch.cat([keep + offset * before for offset in range(3)]))
    _columns(attn.proj, keep)


def keep_ffn(mlp: Mlp, keep: torch.Tensor) -> None:
    """Stage 3, c -> s c: keep these neurons."""
    _rows(mlp.fc1, keep)
    _columns(mlp.fc2, keep)


def new_head(vit: VisionTransformer, own: Sequence[int]) -> None:
    """Replace the head by one for "none of them" (label 0) and the classes ``own`` (labels 1 ... k).

    Its rows are those of the old head. Label 0 starts from the mean of the other classes, or from 0 if there are none.
    """
    for head in _heads(vit):
        others = [c for c in range(head.out_features) if c not in own]
        for name in ("weight", "bias"):
            old = getattr(head, name).detach()
            rest = old[others].mean(0) if others else torch.zeros_like(old[0])
            setattr(head, name, nn.Parameter(torch.cat([rest[None], old[list(own)]])))
        head.out_features = len(own) + 1
    vit.num_classes = len(own) + 1


def _heads(vit: VisionTransformer) -> list[nn.Linear]:
    return [head for head in (vit.head, getattr(vit, "head_dist", None)) if isinstance(head, nn.Linear)]


def _rows(layer: nn.Linear | nn.Conv2d, keep: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[keep])
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[keep])
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(keep))


def _columns(layer: nn.Linear, keep: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[:, keep])
    layer.in_features = len(keep)

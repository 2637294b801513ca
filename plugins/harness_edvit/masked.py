"""A timm ViT computed with units left out by masks: what a pruned model computes, without building it.

A mask has one row per sample, so one batch holds differently pruned models. A mask of 1s and 0s gives exactly what
physical removal gives (pruning.py):

- residual channel: LayerNorms take their statistics over the kept channels only, and give 0 for the others.
  Nothing else reads the residual stream, so the value of a removed channel does not matter;
- joint dimension of q, k and v: the attention's scale stays the original one;
- FFN neuron: its activation is 0.

Shapes: images [B, C, H, W]; tokens x [B, T, D]; q, k, v [B, h, T, D_h] with A = h D_h; hidden [B, T, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

__all__ = ["Masks", "Unit", "check_prunable", "masked_blocks", "masked_logits", "tokens"]

Unit = str | tuple[str, int]
"""``"residual"``, ``("attention", l)`` or ``("ffn", l)`` of block l."""

Masks = Mapping[Unit, torch.Tensor]
"""``"residual"`` -> [B, D]; ``("attention", l)`` -> [B, A]; ``("ffn", l)`` -> [B, F]. Without a mask all units are kept."""


def check_prunable(vit: VisionTransformer) -> None:
    """Check that ``vit`` has plain pre-norm blocks, a last LayerNorm, and class-token or average pooling.

    Raises:
        ValueError: it has not; the message names what it has.
    """
    from timm.layers import Mlp
    from timm.layers.attention import Attention

    for block in vit.blocks:
        attn: Any = getattr(block, "attn", None)
        mlp: Any = getattr(block, "mlp", None)
        plain = type(attn) is Attention and type(mlp) is Mlp and getattr(attn, "gate", None) is None
        if not plain or not all(isinstance(x, nn.Identity) for x in (attn.q_norm, attn.norm, mlp.norm)):
            raise ValueError(
                f"edvit prunes plain ViT blocks, not {type(block).__name__} with {attn} and {mlp}"
            )
    last = isinstance(vit.norm, nn.LayerNorm) or isinstance(vit.fc_norm, nn.LayerNorm)
    if not last or vit.attn_pool is not None or vit.pos_embed is None:
        raise ValueError(
            "edvit needs a ViT with learned positions, a last LayerNorm and class-token or mean pooling"
        )


def tokens(vit: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Return the tokens [B, T, D] that the first block reads, before any LayerNorm there."""
    return vit._pos_embed(vit.patch_embed(images))


def masked_blocks(vit: VisionTransformer, x: torch.Tensor, masks: Masks, start: int = 0) -> torch.Tensor:
    """Run blocks ``start`` and later, and before block 0 the norm that CLIP-like models have: [B, T, D] -> the same."""
    residual = masks.get("residual")
    if start == 0:
        x = _norm(vit.norm_pre, x, residual)
    for i, block in enumerate(vit.blocks[start:], start=start):
        x = _block(block, x, residual, masks.get(("attention", i)), masks.get(("ffn", i)))
    return x


def masked_logits(vit: VisionTransformer, x: torch.Tensor, masks: Masks, start: int = 0) -> torch.Tensor:
    """Return the logits [B, classes] of the tokens ``x`` [B, T, D] before block ``start``."""
    residual = masks.get("residual")
    x = masked_blocks(vit, x, masks, start)
    if isinstance(vit.fc_norm, nn.Identity):
        return vit.forward_head(_norm(vit.norm, x, residual))
    return vit.head(_norm(vit.fc_norm, vit.pool(_norm(vit.norm, x, residual)), residual))


def _block(
    block: Block,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    attention: torch.Tensor | None,
    ffn: torch.Tensor | None,
) -> torch.Tensor:
    attn, mlp = block.attn, block.mlp
    n, t, _ = x.shape
    qkv = attn.qkv(_norm(block.norm1, x, residual))  # [B, T, 3 A]
    q, k, v = qkv.reshape(n, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    if attention is not None:
        kept = attention.view(n, attn.num_heads, 1, attn.head_dim)
        q, v = q * kept, v * kept  # without q_j the product q k^T is without k_j too
    out = functional.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    x = x + block.ls1(attn.proj(out.transpose(1, 2).reshape(n, t, attn.attn_dim)))
    hidden = mlp.act(mlp.fc1(_norm(block.norm2, x, residual)))  # [B, T, F]
    if ffn is not None:
        hidden = hidden * ffn[:, None]
    return x + block.ls2(mlp.fc2(hidden))


def _norm(norm: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Apply ``norm`` over the kept channels; x [B, T, D] or [B, D], mask [B, D]."""
    if mask is None or isinstance(norm, nn.Identity):
        return norm(x)
    if x.ndim == 3:
        mask = mask[:, None]
    kept = mask.sum(-1, keepdim=True)
    mean = (x * mask).sum(-1, keepdim=True) / kept
    centred = (x - mean) * mask
    variance = centred.square().sum(-1, keepdim=True) / kept
    return (centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias) * mask

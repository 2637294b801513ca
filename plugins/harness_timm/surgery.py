"""Operations on timm Vision Transformers: truncate them, slice them, remove the head. All return copies.

Shapes: images [n, C, H, W]; tokens [n, T, D] with T tokens (class token first) of D channels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.types import ModuleSpec

__all__ = [
    "ViTSlice",
    "embed",
    "feature_model",
    "require_vit",
    "slice_blocks",
    "sliced",
    "truncate",
    "truncated",
]

_EMBEDDING = ("cls_token", "reg_token", "dist_token", "pos_embed")


def require_vit(model: nn.Module, who: str) -> VisionTransformer:
    """Return ``model`` itself if it is of timm's VisionTransformer family, such as vit_*, deit_* and ``vit``.

    Raises:
        ValueError: it is of another family. The message begins with ``who``.
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{who} needs a timm VisionTransformer (build: vit, or a vit_* or deit_* of timm), "
            f"not {type(model).__name__}"
        )
    return model


def embed(vit: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Return the tokens [n, T, D] of ``images`` at the input of the first block."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def truncate(model: nn.Module, blocks: int, classes: int | None = None) -> VisionTransformer:
    """Return a copy with the first ``blocks`` blocks.

    If ``classes`` is given, the head is new, with weights N(0, 0.02) and bias 0.

    Raises:
        ValueError: the model is not a timm VisionTransformer, or ``blocks`` is beyond its depth.
    """
    vit = require_vit(model, "truncation")
    if not 1 <= blocks <= len(vit.blocks):
        raise ValueError(f"blocks: {blocks} is beyond the model's depth of {len(vit.blocks)}")
    short = copy.deepcopy(vit)
    short.blocks = short.blocks[:blocks]
    short.feature_info = short.feature_info[:blocks]
    if classes is not None:
        short.reset_classifier(classes)
        for head in (short.head, getattr(short, "head_dist", None)):
            if isinstance(head, nn.Linear):  # as timm initialises the heads of ViTs
                nn.init.trunc_normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)
    return short


class ViTSlice(nn.Module):
    """Blocks [start, stop) of a ViT, with the embedding before block 0, and norm and head after the last block.

    The input is images if ``start`` is 0, else tokens. The output is logits if ``stop`` is the depth, else tokens.
    Slices in sequence compute exactly what the whole model computes.
    """

    def __init__(self, vit: VisionTransformer, start: int, stop: int) -> None:
        super().__init__()
        if not 0 <= start < stop <= len(vit.blocks):
            raise ValueError(
                f"blocks {start} to {stop} are not within the model's depth of {len(vit.blocks)}"
            )
        self.first, self.last = start == 0, stop == len(vit.blocks)
        self.vit = copy.deepcopy(vit)
        self.vit.blocks = self.vit.blocks[start:stop]
        if not self.first:
            self.vit.patch_embed = self.vit.norm_pre = nn.Identity()
            for name in _EMBEDDING:
                if hasattr(self.vit, name):
                    setattr(self.vit, name, None)
        if not self.last:
            self.vit.norm = self.vit.fc_norm = nn.Identity()
            self.vit.attn_pool = None
            self.vit.reset_classifier(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens [n, T, D] or, from the last block, the logits [n, classes]."""
        if self.first:
            x = embed(self.vit, x)
        x = self.vit.blocks(x)
        return self.vit.forward_head(self.vit.norm(x)) if self.last else x


def slice_blocks(model: nn.Module, start: int, stop: int) -> ViTSlice:
    """Return a copy of blocks [start, stop) of ``model``.

    Raises:
        ValueError: the model is not a timm VisionTransformer, or the range is not within its depth.
    """
    return ViTSlice(require_vit(model, "slicing"), start, stop)


def feature_model(model: nn.Module) -> VisionTransformer:
    """Return a copy without the head: images -> features [n, D] (class token or mean, normalised)."""
    bare = copy.deepcopy(require_vit(model, "a feature model"))
    bare.reset_classifier(0)
    return bare


def truncated(*, base: Mapping[str, Any], blocks: int, classes: int) -> nn.Module:
    """Build the module of the spec ``base`` and apply :func:`truncate` to it."""
    return truncate(ModuleSpec(**base).build(), blocks, classes)


def sliced(*, base: Mapping[str, Any], start: int, stop: int) -> nn.Module:
    """Build the module of the spec ``base`` and apply :func:`slice_blocks` to it."""
    return slice_blocks(ModuleSpec(**base).build(), start, stop)

"""CCT, the third family of ViTs that DeViT decomposes.

"Escaping the Big Data Paradigm with Compact Transformers", A. Hassani, S. Walton, N. Shah, A. Abuduweili, J. Li,
H. Shi, 2021.

A CCT is a Vision Transformer whose patch embedding is a small CNN, and which pools the sequence instead of reading a
class token. So the class here is timm's with these two replaced, and code that reads blocks, heads and neurons of a ViT
also reads those of a CCT.

Readings taken:

- The encoder is that of ViT, pre-norm: the paper changes what is before and after it. q, k and v have no bias, as the
  published parameter counts show.
- CCT-L/kxn has n convolutions of kernel k without bias, with padding k // 2. The stride is 1 for kernels of 3 and 2 for
  7. The convolutions before the last have ``conv_dim`` channels: 64 in the published counts.

Shapes: images [n, C, H, W]; tokens [n, T, D]; pooled [n, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness_devit.cct_sketch import CCTShape

__all__ = ["CCT", "ConvTokenizer", "SequencePool", "cct", "sinusoids"]


class ConvTokenizer(nn.Module):
    """x_0 = MaxPool(ReLU(Conv2d(x))), repeated: images [n, C, H, W] -> tokens [n, T, D], one per remaining pixel.

    ``proj`` is the last convolution, whose outputs are the D channels.
    """

    def __init__(self, shape: CCTShape) -> None:
        super().__init__()
        widths = shape.widths
        convs = [
            nn.Conv2d(a, b, shape.kernel, shape.stride, shape.kernel // 2, bias=False)
            for a, b in pairwise(widths)
        ]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)
        self.stem, self.proj = nn.ModuleList(convs[:-1]), convs[-1]
        self.num_patches = shape.tokens  # timm's name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens [n, T, D] of images [n, C, H, W]."""
        for conv in (*self.stem, self.proj):
            x = functional.max_pool2d(functional.relu(conv(x)), 3, stride=2, padding=1)
        return x.flatten(2).transpose(1, 2)  # [n, D, H', W'] -> [n, T, D]


class SequencePool(nn.Module):
    """z = softmax(g(x_L)^T) x_L with a linear g: the weighted mean of the tokens, [n, T, D] -> [n, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled tokens [n, D] of [n, T, D]."""
        weights = self.score(x).softmax(dim=1).transpose(1, 2)  # [n, 1, T]
        return (weights @ x)[:, 0]


def sinusoids(tokens: int, dim: int) -> torch.Tensor:
    """Return the position embedding [1, T, D] of Vaswani et al. 2017: sines in even channels, cosines in odd ones."""
    channel = torch.arange(dim)
    angle = torch.arange(tokens)[:, None] / 10000 ** ((channel - channel % 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[None]


class CCT(VisionTransformer):
    """Images [n, C, H, W] -> logits [n, classes], or without classes the pooled token [n, D]."""

    def __init__(self, shape: CCTShape) -> None:
        super().__init__(
            img_size=shape.image_size,
            patch_size=(2 * shape.stride) ** shape.convs,  # pixels between tokens
            in_chans=shape.channels,
            num_classes=shape.classes,
            class_token=False,
            global_pool="avg",  # of timm's own; attn_pool goes before it
            fc_norm=False,
            pos_embed="learn" if shape.position == "learnable" else "none",
            embed_dim=shape.dim,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=shape.mlp_ratio,
            qkv_bias=False,
            drop_path_rate=shape.drop_path_rate,
            embed_layer=lambda **_: ConvTokenizer(shape),
        )
        self.attn_pool = SequencePool(shape.dim)
        if shape.position == "sinusoidal":
            del self.pos_embed
            self.register_buffer("pos_embed", sinusoids(shape.tokens, shape.dim))


def cct(*, image_size: Sequence[int], **shape: Any) -> nn.Module:
    """Build a :class:`CCT` with random weights; the keywords are the fields of :class:`CCTShape`."""
    height, width = image_size
    return CCT(CCTShape(image_size=(height, width), **shape))

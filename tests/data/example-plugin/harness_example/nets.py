"""The heavy half: imported by a factory, a builder or a compressor, never by plugin.py at its top."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from harness.types import ModuleSpec


class Block(nn.Module):
    """Tokens [n, T, D] -> [n, T, D]: a layer over tokens, then one over channels."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.over_tokens = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.over_channels = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    """Images [n, C, H, W] -> logits [n, classes]."""

    def __init__(self, shape: Sequence[int], classes: int, patch_size: int, dim: int, depth: int) -> None:
        super().__init__()
        channels, height, width = shape
        tokens = (height // patch_size) * (width // patch_size)
        self.embed = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(*(Block(tokens, dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def mixer(*, shape: Sequence[int], classes: int, patch_size: int, dim: int, depth: int) -> nn.Module:
    """The factory that the model's ModuleSpec names."""
    return Mixer(shape, classes, patch_size, dim, depth)


def low_rank(*, base: Mapping[str, Any], rank: int) -> nn.Module:
    """The factory that the compressed model's ModuleSpec names: the right shapes, any weights."""
    return factorise(ModuleSpec(**base).build(), rank)[0]


def factorise(module: nn.Module, rank: int) -> tuple[nn.Module, int]:
    """A copy whose linear layers are cut to ``rank`` where that saves weights, and how many were.

    Raises:
        ValueError: no layer gets smaller.
    """
    small = copy.deepcopy(module)
    cut = 0
    for parent in list(small.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and rank * sum(layer.weight.shape) < layer.weight.numel():
                setattr(parent, name, _two(layer, rank))
                cut += 1
    if not cut:
        raise ValueError(f"rank: {rank} makes no linear layer smaller")
    return small, cut


@torch.no_grad()
def _two(layer: nn.Linear, rank: int) -> nn.Sequential:
    """W x + b  ->  A (B x) + b, with A B the best approximation of W of this rank."""
    u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    first.weight.copy_(s[:rank, None] * v[:rank])
    second.weight.copy_(u[:, :rank])
    if layer.bias is not None:
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)

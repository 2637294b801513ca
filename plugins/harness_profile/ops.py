"""The operations that a profile is measured with, as modules that any process rebuilds."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["attention", "conv", "matmul", "mlp"]


def matmul(*, dim: int, out: int) -> nn.Module:
    """Tokens [n, T, dim] times a matrix [dim, out]."""
    return nn.Linear(dim, out, bias=False)


def mlp(*, dim: int, hidden: int) -> nn.Module:
    """A block's MLP on tokens [n, T, dim]."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Attention(nn.Module):
    """A block's attention on tokens [n, T, dim], its projections included."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [n, heads, T, dim / heads]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))


def attention(*, dim: int, heads: int) -> nn.Module:
    return Attention(dim, heads)


def conv(*, channels: int, filters: int, kernel: int, stride: int) -> nn.Module:
    """Images [n, channels, H, W] -> [n, filters, H / stride, W / stride]."""
    return nn.Conv2d(
        channels, filters, kernel, stride, padding=(kernel - stride + 1) // 2 if stride == 1 else 0
    )

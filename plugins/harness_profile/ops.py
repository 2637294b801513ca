"""The operations of a profile, as modules that any process can rebuild."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["attention", "conv", "matmul", "mlp"]


def matmul(*, dim: int, out: int) -> nn.Module:
    """Return a product with a matrix [dim, out], for tokens [n, T, dim]."""
    return nn.Linear(dim, out, bias=False)


def mlp(*, dim: int, hidden: int) -> nn.Module:
    """Return a block's MLP, for tokens [n, T, dim]."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Attention(nn.Module):
    """A block's attention with its projections, for tokens [n, T, dim]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens [n, T, dim] after attention and projection."""
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [n, heads, T, dim / heads]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))


def attention(*, dim: int, heads: int) -> nn.Module:
    """Return a new :class:`Attention`, for tokens [n, T, dim]."""
    return Attention(dim, heads)


def conv(*, channels: int, filters: int, kernel: int, stride: int) -> nn.Module:
    """Return a convolution: images [n, channels, H, W] -> [n, filters, H / stride, W / stride]."""
    return nn.Conv2d(
        channels, filters, kernel, stride, padding=(kernel - stride + 1) // 2 if stride == 1 else 0
    )

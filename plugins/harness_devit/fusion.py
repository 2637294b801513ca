"""Feature aggregation FA (section III-B, Eq. 2 and 3, Table IX): the features of N sub-models -> logits.

This file imports no training code, since the process that is measured builds the fusion too.

Shapes: features Z_1 ... Z_N [n, D], or [n, 2, D] from a distilled DeiT; fused [n, F]; logits [n, classes].

Readings taken:

- ``fa: code`` is Linear(N D, D_t) before the head, and the fused feature is compared with the teacher's token directly.
  The published parameter counts are of this one. ``fa: paper`` is Eq. 3, with the head after W_2.
- A distilled DeiT has a branch for each of its tokens, and their logits are averaged (authors' code).
- ``concat`` is Eq. 2 alone: the head reads the features side by side. The paper describes one FA for all, but the
  published 18.3 M of DeCCTs are those of four sub-models and Linear(N D, 100), which leaves no room for an MLP. The
  token loss then goes through G [N D, D_t] of Eq. 15, in training only.
- Of the others in Table IX the paper gives one sentence each. ``mlp`` is FA with the activation (GELU) that it removes.
  ``attention`` is a learned query over keys and values of the features. ``senet`` is squeeze (mean of a feature's
  channels) and excitation over the N features, then their weighted sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness_devit.sketch import FusionShape

__all__ = ["Branch", "Fusion", "fusion"]


class _Linear(nn.Module):
    """Eq. 2 and 3, with an activation between the layers if the shape's kind is ``mlp``."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        nd = shape.parts * shape.dim
        self.w1 = nn.Linear(nd, shape.width)
        self.act = nn.GELU() if shape.kind == "mlp" else nn.Identity()
        self.w2 = nn.Linear(shape.width, nd) if shape.fa == "paper" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(self.act(self.w1(x.flatten(1))))  # [n, N, D] -> [n, N D] -> [n, F]


class _Attention(nn.Module):
    """A learned query over keys and values of the features."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(shape.dim, 1) * 0.02)
        self.key, self.value = nn.Linear(shape.dim, shape.dim), nn.Linear(shape.dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.key(x) @ self.query * x.shape[2] ** -0.5  # [n, N, 1]
        return (scores.softmax(dim=1).transpose(1, 2) @ self.value(x))[:, 0]  # [n, D]


class _SENet(nn.Module):
    """Squeeze and excitation over the N features, then their weighted sum."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        n = shape.parts
        self.excite = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.excite(x.mean(dim=2))  # [n, N]
        return (weights[:, None] @ x)[:, 0]  # [n, D]


class _Concat(nn.Module):
    """Eq. 2 alone."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)  # [n, N, D] -> [n, N D]


_KINDS: dict[str, type[nn.Module]] = {
    "linear": _Linear,
    "mlp": _Linear,
    "concat": _Concat,
    "attention": _Attention,
    "senet": _SENet,
}


class Branch(nn.Module):
    """Features [n, N, D] of one token -> FA -> [n, F] -> head -> logits."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.fa = _KINDS[shape.kind](shape)
        self.head = nn.Linear(shape.fused, shape.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes]."""
        return self.head(self.fa(x))


class Fusion(nn.Module):
    """Features of each sub-model -> logits, on the central device."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(shape) for _ in range(shape.tokens))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] of N ``features`` [n, D], or [n, 2, D] from a distilled DeiT."""
        x = torch.stack(features, dim=1)  # [n, N, D] or [n, N, R, D]
        if len(self.branches) == 1:
            return self.branches[0](x)
        return torch.stack([branch(x[:, :, r]) for r, branch in enumerate(self.branches)]).mean(dim=0)


def fusion(**shape: Any) -> nn.Module:
    """Build a :class:`Fusion` with random weights; the keywords are the fields of :class:`FusionShape`."""
    return Fusion(FusionShape(**shape))

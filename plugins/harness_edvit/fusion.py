"""Model fusion (section 4.5 and Table 3): the networks that make one answer of the sub-models' outputs.

This file imports no training code, since the process that is measured builds these networks too.

Shapes: B images, C classes, N sub-models; sub-model i has k_i classes and features of d_i channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Average", "FusionMLP", "Whole", "average", "fusion_mlp"]


class FusionMLP(nn.Module):
    """Features [B, d_i] of each sub-model -> logits [B, C], by two layers: sum d_i -> lambda sum d_i -> C.

    The paper does not give the activation. ReLU is taken.
    """

    def __init__(self, dims: Sequence[int], hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sum(dims), hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, C]."""
        return self.fc2(functional.relu(self.fc1(torch.cat(features, dim=-1))))


class Average(nn.Module):
    """Logits [B, k_i + 1] of each sub-model -> log of the softmax outputs [B, C], each class from its own sub-model.

    An average over N sub-models, with 0 where a class is foreign, divides every output by N, since a class belongs to
    one sub-model. So the order of the classes is that of the outputs themselves. Label 0 ("none of them") is no class.
    """

    order: torch.Tensor

    def __init__(self, owned: Sequence[Sequence[int]]) -> None:
        super().__init__()
        classes = [c for own in owned for c in own]
        self.register_buffer("order", torch.tensor(classes).argsort(), persistent=False)

    def forward(self, *logits: torch.Tensor) -> torch.Tensor:
        """Return the log of the softmax outputs [B, C]."""
        own = [functional.log_softmax(z, dim=-1)[:, 1:] for z in logits]
        return torch.cat(own, dim=-1)[:, self.order]


class Whole(nn.Module):
    """Sub-models and MLP as one model: images -> logits [B, C], for the entire retraining of Table 3."""

    def __init__(self, subs: Sequence[nn.Module], mlp: FusionMLP) -> None:
        super().__init__()
        self.subs, self.mlp = nn.ModuleList(subs), mlp

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, C]."""
        return self.mlp(*(sub(images) for sub in self.subs))


def fusion_mlp(*, dims: Sequence[int], hidden: int, classes: int) -> nn.Module:
    """Build a :class:`FusionMLP` with random weights; ``dims`` are the channels d_i of the features."""
    return FusionMLP(dims, hidden, classes)


def average(*, owned: Sequence[Sequence[int]]) -> nn.Module:
    """Build an :class:`Average`; ``owned`` are the classes of each sub-model."""
    return Average(owned)

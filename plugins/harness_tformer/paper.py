"""TFormer: "TFormer: A Transmission-Friendly ViT Model for IoT Devices", Lu et al., IEEE TPDS 2023.

The code follows the paper's equations. Interpretations, where the paper leaves a choice:

- Some channels, operators and kernel sizes do not divide evenly. Channels are split over operators first, then over
  kernel sizes, each as evenly as possible, larger shares first. Average pooling comes before max pooling.
- Padding does not count in an average (as in PoolFormer): at the last stage most of an 11 x 11 window is padding.
- The input is not subtracted from the pooled features. PoolFormer subtracts it; Eq. 8 does not.
- Norm, LayerScale and stem padding are those of PoolFormer-S12, S24 and S36, whose depths and dimensions the paper
  uses: GroupNorm of one group, LayerScale 1e-5 (S36 has 1e-6), no norm after the patch embeddings. The paper's
  parameter counts do not show these choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, trunc_normal_
from torch import nn

from harness.methods import even_shares
from harness_tformer.sketch import TFormerShape

__all__ = ["Block", "GhostFFN", "HybridLayer", "PCSFFN", "StandardFFN", "TFormer", "tformer"]


class HybridLayer(nn.Module):
    """The hybrid layer (section 3.3, Fig. 3): pooling of several types and scales, each on a share of the channels.

    A 1 x 1 convolution then mixes the channels, with D² weights (Eq. 7).
    """

    def __init__(self, dim: int, operators: Sequence[str], kernels: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [
            size
            for channels in even_shares(dim, len(operators))
            for size in even_shares(channels, len(kernels))
        ]
        self.pools = nn.ModuleList(
            nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
            if operator == "avg"
            else nn.MaxPool2d(kernel, 1, kernel // 2)
            for operator in operators
            for kernel in kernels
        )
        self.mix = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mixed map, of the same shape [n, D, H, W]."""
        parts = torch.split(x, self.sizes, dim=1)
        return self.mix(torch.cat([pool(part) for pool, part in zip(self.pools, parts, strict=True)], dim=1))


class PCSFFN(nn.Module):
    """The PCS-FFN (section 3.4, Fig. 5c): two 1 x 1 convolutions in ``groups`` groups.

    The channels are shuffled between the two, so that every output depends on every group. It has 2 r D² / g weights.
    """

    def __init__(self, dim: int, expansion: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.fc1 = nn.Conv2d(dim, expansion * dim, 1, groups=groups)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(expansion * dim, dim, 1, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map [n, D, H, W]; the hidden map is [n, r D, H, W]."""
        x = self.act(self.fc1(x))  # [n, rD, H, W]
        # channel c of group g becomes channel c * groups + g (ShuffleNet)
        x = x.unflatten(1, (self.groups, x.shape[1] // self.groups)).transpose(1, 2).flatten(1, 2)
        return self.fc2(x)


class StandardFFN(nn.Sequential):
    """The standard FFN (Fig. 5a): all channels are connected, with 2 r D² weights."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__(nn.Conv2d(dim, expansion * dim, 1), nn.GELU(), nn.Conv2d(expansion * dim, dim, 1))


class GhostFFN(nn.Sequential):
    """The FFN of two Ghost modules, for the comparison in Table 3.

    The ``r`` of the table is GhostNet's ratio, not the expansion.
    """

    def __init__(self, dim: int, expansion: int, ratio: int) -> None:
        super().__init__(_Ghost(dim, expansion * dim, ratio), nn.GELU(), _Ghost(expansion * dim, dim, ratio))


class _Ghost(nn.Module):
    """A Ghost module (Han et al., "GhostNet", CVPR 2020, section 3.1).

    A 1 x 1 convolution gives 1/ratio of the outputs. A depthwise 3 x 3 convolution makes the others from these.
    """

    def __init__(self, inputs: int, outputs: int, ratio: int) -> None:
        super().__init__()
        first = -(-outputs // ratio)
        self.outputs = outputs
        self.primary = nn.Sequential(nn.Conv2d(inputs, first, 1, bias=False), nn.BatchNorm2d(first))
        cheap = first * (ratio - 1)
        self.cheap = nn.Sequential(
            nn.Conv2d(first, cheap, 3, padding=1, groups=first, bias=False), nn.BatchNorm2d(cheap)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)[:, : self.outputs]


class Block(nn.Module):
    """A block (Fig. 2): x + Hybrid(norm(x)), then x + FFN(norm(x)). Both branches are scaled per channel."""

    def __init__(self, shape: TFormerShape, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.mixer = HybridLayer(dim, shape.operators, shape.kernels)
        self.norm2 = nn.GroupNorm(1, dim)
        self.ffn = _ffn(shape, dim)
        self.scale1 = _LayerScale(dim, shape.layer_scale) if shape.layer_scale else nn.Identity()
        self.scale2 = _LayerScale(dim, shape.layer_scale) if shape.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map, of the same shape [n, D, H, W]."""
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))


def _ffn(shape: TFormerShape, dim: int) -> nn.Module:
    """Return the FFN of Fig. 5 that ``shape`` names."""
    if shape.ffn == "pcs":
        return PCSFFN(dim, shape.expansion, shape.groups)
    if shape.ffn == "ghost":
        return GhostFFN(dim, shape.expansion, shape.ghost_ratio)
    return StandardFFN(dim, shape.expansion)


class _LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim, 1, 1), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class TFormer(nn.Module):
    """A TFormer: stages of blocks, each after a strided convolution; then norm, mean over the map, linear head.

    ``forward``: images [n, channels, H, W] -> logits [n, classes]. Stage features have the interface of timm's
    models: ``feature_info`` (channels, reduction, module) and :meth:`forward_intermediates`.
    """

    def __init__(self, shape: TFormerShape) -> None:
        super().__init__()
        self.num_classes, self.num_features = shape.classes, shape.dims[-1]
        total = sum(shape.depths)
        rates = [shape.drop_path_rate * index / max(total - 1, 1) for index in range(total)]
        stages, self.feature_info = [], []
        before, reduction = shape.channels, 1
        for index, (dim, depth) in enumerate(zip(shape.dims, shape.depths, strict=True)):
            first = index == 0
            kernel, stride = (
                (shape.stem_kernel, shape.stem_stride) if first else (shape.down_kernel, shape.down_stride)
            )
            embed = nn.Conv2d(before, dim, kernel, stride, padding=(kernel - stride + 1) // 2)
            done = sum(shape.depths[:index])
            blocks = [Block(shape, dim, rate) for rate in rates[done : done + depth]]
            stages.append(nn.Sequential(embed, *blocks))
            before, reduction = dim, reduction * stride
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{index}"})
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(1, before)
        self.head = nn.Linear(before, shape.classes)
        self.apply(_initialise)

    def forward_intermediates(
        self, x: torch.Tensor, indices: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the last stage's map, and the maps of the stages ``indices`` (all if None).

        A map is [n, dim, H / reduction, W / reduction].
        """
        wanted = range(len(self.stages)) if indices is None else [i % len(self.stages) for i in indices]
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return x, [maps[index] for index in wanted]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised last map [n, D, H / reduction, W / reduction] of images [n, channels, H, W]."""
        return self.norm(self.stages(x))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] of the last map."""
        return self.head(x.mean(dim=(2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] of images [n, channels, H, W]."""
        return self.forward_head(self.forward_features(x))


def _initialise(module: nn.Module) -> None:
    """Draw the weights of one layer as PoolFormer does."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def tformer(**shape: Any) -> TFormer:
    """Return a new :class:`TFormer`. The keywords are the parameters of :meth:`TFormerShape.spec`."""
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in shape.items()
    }
    return TFormer(TFormerShape(**tuples))

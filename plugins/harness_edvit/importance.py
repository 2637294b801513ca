"""How much each unit of a ViT matters: D_KL(P || Q) of section 4.3, P with all units, Q without one.

All scores come from the original model, before anything is pruned (no re-scoring between stages), and P and Q
are over the original's C classes. KL is measured once per image of a proxy set that all sub-models share;
a sub-model sums it over its own resampled data, of which the proxy is a sample stratified by class.

The exact KL takes D + L (A + F) passes per image. They run many masks to a batch, and a unit of block l needs
blocks l and later only, about half of them. The first derivative of the KL vanishes where nothing is pruned;
its second order with one mask from 1 to 0 is the Fisher diagonal, 1/2 E_q[(d log q / d mask)^2]: C backward
passes for all units together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness_edvit.masked import check_prunable, masked_logits, tokens

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["Importance", "kl_exact", "kl_fisher", "random_importance"]

_ROWS = 1024  # images of a batch: so many that matrices are large, so few that they stay in the cache

Tell = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """``residual`` [D, n], ``attention`` per block [A, n], ``ffn`` per block [F, n]: n images, or 1 for all."""

    residual: torch.Tensor
    attention: tuple[torch.Tensor, ...]
    ffn: tuple[torch.Tensor, ...]

    def summed(self, weights: torch.Tensor) -> Importance:
        """Over images with ``weights`` [n]."""
        return Importance(
            residual=self.residual @ weights[:, None],
            attention=tuple(scores @ weights[:, None] for scores in self.attention),
            ffn=tuple(scores @ weights[:, None] for scores in self.ffn),
        )


def kl_exact(vit: VisionTransformer, images: torch.Tensor, tell: Tell = lambda done: None) -> Importance:
    """The KL per unit and image, by leaving each unit out in turn; images [n, C, H, W]."""
    check_prunable(vit)
    n = len(images)
    per_batch = max(1, _ROWS // n)
    scores: dict[object, torch.Tensor] = {}
    units = _units(vit)
    passes, done = sum(count for _, count in units), 0
    with torch.inference_mode():
        x = tokens(vit, images)  # [n, T, D]
        inputs = [x, *_block_inputs(vit, x)]  # of each block; the first before norm_pre
        log_p = masked_logits(vit, x, {}).log_softmax(-1)  # [n, C]
        for key, count in units:
            start = key[1] if isinstance(key, tuple) else 0
            found = []
            for first in range(0, count, per_batch):
                m = min(per_batch, count - first)
                mask = torch.ones(m, count, device=images.device)
                mask[torch.arange(m), first + torch.arange(m)] = 0
                batch = inputs[start].repeat(m, 1, 1)  # [m n, T, D]
                logits = masked_logits(vit, batch, {key: mask.repeat_interleave(n, 0)}, start)
                log_q = logits.log_softmax(-1).view(m, n, -1)
                found.append((log_p.exp() * (log_p - log_q)).sum(-1))  # [m, n]
                done += m
                tell(done / passes)
            scores[key] = torch.cat(found)
    return _gather(vit, scores)


def kl_fisher(vit: VisionTransformer, images: torch.Tensor, tell: Tell = lambda done: None) -> Importance:
    """The second-order term of the KL per unit and image: 1/2 sum_y q_y (d log q_y / d mask)^2."""
    check_prunable(vit)
    n = len(images)
    masks = {
        key: torch.ones(n, count, device=images.device, requires_grad=True) for key, count in _units(vit)
    }
    with torch.enable_grad():
        log_q = masked_logits(vit, tokens(vit, images).detach(), masks).log_softmax(-1)  # [n, C]
        scores: dict[object, torch.Tensor] = {
            key: torch.zeros(mask.shape[::-1], device=images.device) for key, mask in masks.items()
        }
        classes = log_q.shape[1]
        for y in range(classes):
            grads = torch.autograd.grad(log_q[:, y].sum(), list(masks.values()), retain_graph=y < classes - 1)
            for key, grad in zip(masks, grads, strict=True):  # a row of a mask acts on its own image: [n, U]
                scores[key] += 0.5 * (log_q[:, y].detach().exp()[:, None] * grad.square()).T
            tell((y + 1) / classes)
    return _gather(vit, scores)


def random_importance(vit: VisionTransformer, seed: int) -> Importance:
    """Chance, the same for every image."""
    check_prunable(vit)
    generator = torch.Generator().manual_seed(seed)
    return _gather(vit, {key: torch.rand(count, 1, generator=generator) for key, count in _units(vit)})


def _units(vit: VisionTransformer) -> list[tuple[str | tuple[str, int], int]]:
    units: list[tuple[str | tuple[str, int], int]] = [("residual", vit.embed_dim)]
    units += [(("attention", i), block.attn.attn_dim) for i, block in enumerate(vit.blocks)]
    return units + [(("ffn", i), block.mlp.fc1.out_features) for i, block in enumerate(vit.blocks)]


def _block_inputs(vit: VisionTransformer, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """What blocks 1 and later read."""
    x = vit.norm_pre(x)
    for block in vit.blocks[:-1]:
        x = block(x)
        yield x


def _gather(vit: VisionTransformer, scores: dict) -> Importance:
    blocks = range(len(vit.blocks))
    return Importance(
        residual=scores["residual"],
        attention=tuple(scores["attention", i] for i in blocks),
        ffn=tuple(scores["ffn", i] for i in blocks),
    )

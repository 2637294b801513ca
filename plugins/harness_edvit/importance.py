"""How much each unit of a ViT matters: D_KL(P || Q) of section 4.3, P with all units, Q without one.

All scores come from the original model, before anything is pruned: nothing is scored again between the stages. P and Q
are over the original's C classes. KL is measured once per image of a proxy set that all sub-models share. A sub-model
sums it over its own resampled data, of which the proxy is a sample stratified by class.

The exact KL takes D + L (A + F) passes per image. Many masks run in one batch, and a unit of block l needs block l and
later ones only, about half of them. The first derivative of the KL vanishes where nothing is pruned. Its second order
with one mask from 1 to 0 is the Fisher diagonal, 1/2 E_q[(d log q / d mask)^2]: C backward passes for all units
together.

Units: D channels of the residual stream; per block A joint dimensions of q, k and v, and F neurons of the FFN.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from harness.methods import evaluating, on_device
from harness.types import Context
from harness_edvit.masked import Unit, check_prunable, masked_logits, tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["Importance", "Proxy", "kl_exact", "kl_fisher", "measure_importance", "random_importance"]

_ROWS = 1024  # images of a batch: so many that matrices are large, so few that they stay in the cache

Tell = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """``residual`` [D, n], ``attention`` per block [A, n], ``ffn`` per block [F, n]: n images, or 1 for all."""

    residual: torch.Tensor
    attention: tuple[torch.Tensor, ...]
    ffn: tuple[torch.Tensor, ...]

    def summed(self, weights: torch.Tensor) -> Importance:
        """Return the sum over images with ``weights`` [n]."""
        return Importance(
            residual=self.residual @ weights[:, None],
            attention=tuple(scores @ weights[:, None] for scores in self.attention),
            ffn=tuple(scores @ weights[:, None] for scores in self.ffn),
        )


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """What was measured once for all sub-models.

    ``scores`` are of n proxy images, ``labels`` int64 [n] theirs, ``seconds`` what it took. Where scores are drawn they
    are of no image, and ``labels`` is ``None``.
    """

    scores: Importance
    labels: NDArray[np.int64] | None
    seconds: float

    def scores_of(self, counts: NDArray[np.int64]) -> Importance:
        """Return the scores summed over data with ``counts`` [C] images of each class."""
        if self.labels is None:
            return self.scores
        stands_for = counts / np.bincount(
            self.labels, minlength=len(counts)
        )  # images per proxy image of the class
        return self.scores.summed(torch.tensor(stands_for, dtype=torch.float32)[self.labels])


def measure_importance(
    ctx: Context, vit: VisionTransformer, kind: Literal["kl-exact", "kl-fisher", "random"], per_class: int
) -> Proxy:
    """Score all units of ``vit`` on ``per_class`` training images of each class.

    Raises:
        ValueError: a class has no training image.
    """
    start, train_labels = time.perf_counter(), np.asarray(ctx.data.train.labels)
    rng = np.random.default_rng([ctx.seed, 3])
    chosen = []
    for label, class_name in enumerate(ctx.data.info.class_names):
        members = np.flatnonzero(train_labels == label)
        if not len(members):
            raise ValueError(f"edvit, importance: class {class_name!r} has no sample in the proxy slice")
        chosen.append(rng.permutation(members)[:per_class])
    indices = np.concatenate(chosen)
    if kind == "random":
        scores = random_importance(vit, ctx.seed)
        return Proxy(scores=scores, labels=None, seconds=time.perf_counter() - start)
    measure, device = kl_exact if kind == "kl-exact" else kl_fisher, torch.device(ctx.device)
    images = torch.from_numpy(np.asarray(ctx.data.train.batch(indices))).to(device)
    with on_device(vit, device), evaluating(vit):
        batches = [
            measure(vit, batch, lambda done: ctx.progress(f"importance ({kind})", done))
            for batch in images.split(256)
        ]
    scores = Importance(
        residual=torch.cat([batch.residual for batch in batches], 1).cpu(),
        attention=tuple(
            torch.cat(blocks, 1).cpu() for blocks in zip(*(b.attention for b in batches), strict=True)
        ),
        ffn=tuple(torch.cat(blocks, 1).cpu() for blocks in zip(*(b.ffn for b in batches), strict=True)),
    )
    return Proxy(scores=scores, labels=train_labels[indices], seconds=time.perf_counter() - start)


def kl_exact(vit: VisionTransformer, images: torch.Tensor, tell: Tell = lambda done: None) -> Importance:
    """Return the KL per unit and image of ``images`` [n, C, H, W], by leaving each unit out in turn."""
    check_prunable(vit)
    n = len(images)
    per_batch = max(1, _ROWS // n)
    scores: dict[Unit, torch.Tensor] = {}
    units = _units(vit)
    passes, done = sum(count for _, count in units), 0
    with torch.inference_mode():
        x = tokens(vit, images)  # [n, T, D]
        inputs = [x, *_block_inputs(vit, x)]  # of each block; the first before norm_pre
        log_p = masked_logits(vit, x, {}).log_softmax(-1)  # [n, C]
        for key, count in units:
            start = key[1] if isinstance(key, tuple) else 0
            parts = []
            for first in range(0, count, per_batch):
                m = min(per_batch, count - first)
                mask = torch.ones(m, count, device=images.device)
                mask[torch.arange(m), first + torch.arange(m)] = 0
                batch = inputs[start].repeat(m, 1, 1)  # [m n, T, D]
                logits = masked_logits(vit, batch, {key: mask.repeat_interleave(n, 0)}, start)
                log_q = logits.log_softmax(-1).view(m, n, -1)
                parts.append((log_p.exp() * (log_p - log_q)).sum(-1))  # [m, n]
                done += m
                tell(done / passes)
            scores[key] = torch.cat(parts)
    return _gather(vit, scores)


def kl_fisher(vit: VisionTransformer, images: torch.Tensor, tell: Tell = lambda done: None) -> Importance:
    """Return the KL's second-order term per unit and image: 1/2 sum_y q_y (d log q_y / d mask)^2."""
    check_prunable(vit)
    n = len(images)
    masks = {
        key: torch.ones(n, count, device=images.device, requires_grad=True) for key, count in _units(vit)
    }
    with torch.enable_grad():
        log_q = masked_logits(vit, tokens(vit, images).detach(), masks).log_softmax(-1)  # [n, C]
        scores: dict[Unit, torch.Tensor] = {
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
    """Return scores drawn at random, the same for every image."""
    check_prunable(vit)
    generator = torch.Generator().manual_seed(seed)
    return _gather(vit, {key: torch.rand(count, 1, generator=generator) for key, count in _units(vit)})


def _units(vit: VisionTransformer) -> list[tuple[Unit, int]]:
    """Return the kinds of units, and how many there are of each."""
    units: list[tuple[Unit, int]] = [("residual", vit.embed_dim)]
    units += [(("attention", i), block.attn.attn_dim) for i, block in enumerate(vit.blocks)]
    return units + [(("ffn", i), block.mlp.fc1.out_features) for i, block in enumerate(vit.blocks)]


def _block_inputs(vit: VisionTransformer, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tokens that blocks 1, 2 ... read."""
    x = vit.norm_pre(x)
    for block in vit.blocks[:-1]:
        x = block(x)
        yield x


def _gather(vit: VisionTransformer, scores: Mapping[Unit, torch.Tensor]) -> Importance:
    blocks = range(len(vit.blocks))
    return Importance(
        residual=scores["residual"],
        attention=tuple(scores["attention", i] for i in blocks),
        ffn=tuple(scores["ffn", i] for i in blocks),
    )

"""Importance of a unit (section 4.3 and Appendix B): D_KL(P || Q), P with all units and Q without that one.

All scores come from the original model, before anything is pruned. Nothing is scored again between the stages. P and Q
are over the original's C classes. KL is measured once per image of a proxy set that all sub-models share. A sub-model
sums it over its own resampled data, of which the proxy set is a sample stratified by class.

Units are left out by masks: this gives what a pruned model computes, without building it. A mask has one row per image,
so one batch holds differently pruned models. A mask of 1s and 0s gives exactly what removal gives (pruning.py):

- a channel of the residual stream: LayerNorms take their statistics over the kept channels only, and what reads their
  outputs gets 0 for the others. Nothing else reads the residual stream, so the value of a removed channel does not
  matter;
- a joint dimension of q, k and v: the attention's scale stays the original one;
- a neuron of the FFN: its activation is 0.

The exact KL takes D + L (A + F) passes per image. Many masks run in one batch, and a unit of block l needs block l and
later ones only, about half of them. The first derivative of the KL vanishes where nothing is pruned. Its second order
with one mask from 1 to 0 is the Fisher diagonal, 1/2 E_q[(d log q / d mask)^2]. This takes C backward passes for all
units together. It is an approximation of the removal only if a mask is a factor of the first degree wherever it acts:
the statistics of a LayerNorm are those of channels with the masks as weights, and a value that is read is masked once.

Shapes: n images in a proxy set, B in a batch [B, C, H, W]; tokens x [B, T, D] of D channels; L blocks, in each of them
q, k, v [B, h, T, D_h] with A = h D_h joint dimensions, and hidden [B, T, F] with F neurons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.methods import evaluating, on_device
from harness.types import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from timm.models.vision_transformer import Block, VisionTransformer

__all__ = [
    "Importance",
    "Masks",
    "Proxy",
    "Unit",
    "check_prunable",
    "kl_exact",
    "kl_fisher",
    "masked_logits",
    "measure_importance",
    "random_importance",
    "tokens",
]

_ROWS = 1024  # images of a batch: so many that matrices are large, so few that they stay in the cache

Report: TypeAlias = Callable[[float], None]
"""Reports which share of the work is done, 0 to 1."""

Unit: TypeAlias = str | tuple[str, int]
"""``"residual"``, ``("attention", l)`` or ``("ffn", l)`` of block l."""

Masks: TypeAlias = Mapping[Unit, torch.Tensor]
"""``"residual"`` -> [B, D]; ``("attention", l)`` -> [B, A]; ``("ffn", l)`` -> [B, F]. Without a mask all units are kept."""


# --- the proxy set, measured once for all sub-models ----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The scores of all units: ``residual`` [D, n], ``attention`` [A, n] and ``ffn`` [F, n] per block.

    There is a column for each of n images, or one for all.
    """

    residual: torch.Tensor
    attention: tuple[torch.Tensor, ...]
    ffn: tuple[torch.Tensor, ...]

    def summed(self, weights: torch.Tensor) -> Importance:
        """Return the scores summed over images with ``weights`` [n]: one column for all."""
        return Importance(
            residual=self.residual @ weights[:, None],
            attention=tuple(scores @ weights[:, None] for scores in self.attention),
            ffn=tuple(scores @ weights[:, None] for scores in self.ffn),
        )


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The scores that were measured once for all sub-models.

    ``scores`` have a column for each of n proxy images, whose classes are ``labels`` int64 [n]. ``seconds`` is how long
    it took. Scores that are drawn at random belong to no image, and ``labels`` is ``None``.
    """

    scores: Importance
    labels: NDArray[np.int64] | None
    seconds: float

    def scores_of(self, counts: NDArray[np.int64]) -> Importance:
        """Return the scores summed over data that has ``counts`` [C] images of each class."""
        if self.labels is None:
            return self.scores
        stands_for = counts / np.bincount(
            self.labels, minlength=len(counts)
        )  # images per proxy image of the class
        return self.scores.summed(torch.tensor(stands_for, dtype=torch.float32)[self.labels])


def measure_importance(
    ctx: Context, vit: VisionTransformer, kind: Literal["kl-exact", "kl-fisher", "random"], per_class: int
) -> Proxy:
    """Score all units of ``vit`` on ``per_class`` training images of each class, drawn by the seed of ``ctx``.

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


# --- three ways to score --------------------------------------------------------------------------


def kl_exact(vit: VisionTransformer, images: torch.Tensor, report: Report = lambda done: None) -> Importance:
    """Return D_KL per unit and image of ``images`` [n, C, H, W], by leaving each unit out in turn."""
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
                report(done / passes)
            scores[key] = torch.cat(parts)
    return _gather(vit, scores)


def kl_fisher(vit: VisionTransformer, images: torch.Tensor, report: Report = lambda done: None) -> Importance:
    """Return the second-order term of D_KL per unit and image: 1/2 sum_y q_y (d log q_y / d mask)^2."""
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
            report((y + 1) / classes)
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
    """Yield the tokens [n, T, D] that blocks 1, 2 ... read."""
    x = vit.norm_pre(x)
    for block in vit.blocks[:-1]:
        x = block(x)
        yield x


def _gather(vit: VisionTransformer, scores: Mapping[Unit, torch.Tensor]) -> Importance:
    """Return ``scores``, which are by unit, block by block."""
    blocks = range(len(vit.blocks))
    return Importance(
        residual=scores["residual"],
        attention=tuple(scores["attention", i] for i in blocks),
        ffn=tuple(scores["ffn", i] for i in blocks),
    )


# --- a ViT with units left out --------------------------------------------------------------------


def check_prunable(vit: VisionTransformer) -> None:
    """Check that ``vit`` has plain pre-norm blocks, a last LayerNorm, and class-token or average pooling.

    Raises:
        ValueError: something of this is not so; the message names what the model has.
    """
    from timm.layers import Mlp
    from timm.layers.attention import Attention

    for block in vit.blocks:
        attn: Any = getattr(block, "attn", None)
        mlp: Any = getattr(block, "mlp", None)
        plain = type(attn) is Attention and type(mlp) is Mlp and getattr(attn, "gate", None) is None
        if not plain or not all(isinstance(x, nn.Identity) for x in (attn.q_norm, attn.norm, mlp.norm)):
            raise ValueError(
                f"edvit prunes plain ViT blocks, not {type(block).__name__} with {attn} and {mlp}"
            )
    last = isinstance(vit.norm, nn.LayerNorm) or isinstance(vit.fc_norm, nn.LayerNorm)
    if not last or vit.attn_pool is not None or vit.pos_embed is None:
        raise ValueError(
            "edvit needs a ViT with learned positions, a last LayerNorm and class-token or mean pooling"
        )


def tokens(vit: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Return the tokens [B, T, D] that the first block reads, before any LayerNorm there."""
    return vit._pos_embed(vit.patch_embed(images))


def _masked_blocks(vit: VisionTransformer, x: torch.Tensor, masks: Masks, start: int = 0) -> torch.Tensor:
    """Run blocks ``start`` and later on ``x`` [B, T, D]; before block 0 also the norm that CLIP-like models have."""
    residual = masks.get("residual")
    if start == 0:
        x = _norm(vit.norm_pre, x, residual)
    for i, block in enumerate(vit.blocks[start:], start=start):
        x = _block(block, x, residual, masks.get(("attention", i)), masks.get(("ffn", i)))
    return x


def masked_logits(vit: VisionTransformer, x: torch.Tensor, masks: Masks, start: int = 0) -> torch.Tensor:
    """Return the logits [B, classes] of the tokens ``x`` [B, T, D] before block ``start``."""
    residual = masks.get("residual")
    x = _masked_blocks(vit, x, masks, start)
    if isinstance(vit.fc_norm, nn.Identity):
        return vit.forward_head(_read(vit.norm, x, residual))
    return vit.head(_read(vit.fc_norm, vit.pool(_norm(vit.norm, x, residual)), residual))


def _block(
    block: Block,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    attention: torch.Tensor | None,
    ffn: torch.Tensor | None,
) -> torch.Tensor:
    """Run one block on ``x`` [B, T, D] with masks [B, D], [B, A] and [B, F]."""
    attn, mlp = block.attn, block.mlp
    n, t, _ = x.shape
    qkv = attn.qkv(_read(block.norm1, x, residual))  # [B, T, 3 A]
    q, k, v = qkv.reshape(n, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    if attention is not None:
        kept = attention.view(n, attn.num_heads, 1, attn.head_dim)
        q, v = q * kept, v * kept  # without q_j the product q k^T is without k_j too
    out = functional.scaled_dot_product_attention(q, k, v, scale=attn.scale)
    x = x + block.ls1(attn.proj(out.transpose(1, 2).reshape(n, t, attn.attn_dim)))
    hidden = mlp.act(mlp.fc1(_read(block.norm2, x, residual)))  # [B, T, F]
    if ffn is not None:
        hidden = hidden * ffn[:, None]
    return x + block.ls2(mlp.fc2(hidden))


def _read(norm: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return ``norm`` over the kept channels, and 0 for the others; x [B, T, D] or [B, D], mask [B, D]."""
    y = _norm(norm, x, mask)
    return y if mask is None else y * _of_tokens(mask, x)


def _norm(norm: nn.Module, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return ``norm`` with the statistics of the kept channels; x [B, T, D] or [B, D], mask [B, D]."""
    if mask is None or isinstance(norm, nn.Identity):
        return norm(x)
    weights = _of_tokens(mask, x)
    kept = weights.sum(-1, keepdim=True)
    centred = x - (x * weights).sum(-1, keepdim=True) / kept
    variance = (centred.square() * weights).sum(-1, keepdim=True) / kept
    return centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


def _of_tokens(mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return ``mask`` [B, D] in a shape that applies to x [B, T, D] or [B, D]."""
    return mask[:, None] if x.ndim == 3 else mask

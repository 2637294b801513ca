"""Model pruning (section 4.3, Algorithm 2): Model_0 -> a sub-model of some classes, pruned in three stages.

Each stage removes units in place and is followed by fine-tuning. After all three the model is a plain ViT of fewer
heads, whose weights fit timm's ``VisionTransformer``.

Shapes: before removal there are D channels of the residual stream, and in each block A joint dimensions of q, k and v
and F neurons; U units of any kind. ``keep`` are ascending indices of units.

Readings taken:

- Resampling (line 1) is not defined. It is done as in EC-SNN, by one of the authors: own classes -> labels 1 ... k, all
  others -> 0, with |D| / (10 C) - k images of each foreign class (at least one). So a sub-model of one class has
  something to tell it from, which N = 10 needs.
- The joint dimensions of q, k and v are merged into s h heads as in UP-ViT's code (:func:`best_merged`).
- The new head starts from the old one's rows (:func:`new_head`), in the first stage.
- The number of epochs of fine-tuning is not given: ``epochs`` after each stage, with the suite's recipe but no warm-up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from harness.methods import FINE_TUNING, resampled, resumable
from harness.types import Context, FitResult, Lineage, Model, Split
from harness_edvit.importance import Proxy
from harness_edvit.sketch import sub_spec
from harness_timm.surgery import require_vit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from timm.layers import Mlp
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import VisionTransformer

__all__ = [
    "Pruning",
    "Share",
    "best",
    "best_merged",
    "keep_attention",
    "keep_ffn",
    "keep_residual",
    "new_head",
    "prune",
    "prune_once",
    "resample",
]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How sub-models are pruned.

    ``importance`` is measured on ``proxy`` images per class. ``negatives`` are the images of each foreign class; if it
    is ``None``, as many as in EC-SNN. Fine-tuning takes ``epochs`` after each stage, with learning rate ``lr`` or that of
    the recipe.
    """

    importance: Literal["kl-exact", "kl-fisher", "random"]
    proxy: int
    negatives: int | None
    epochs: int
    lr: float | None


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one sub-model is made for: its name, its classes C_i in ascending order, and the heads h - hp_i it keeps."""

    name: str
    classes: tuple[int, ...]
    heads: int


# --- Algorithm 2 ----------------------------------------------------------------------------------


def prune(ctx: Context, model: Model, how: Pruning, share: Share, proxy: Callable[[], Proxy]) -> Model:
    """Return the sub-model of ``share``, pruned from ``model``, Model_0, and fine-tuned (Algorithm 2)."""
    measured = proxy()
    own, classes = share.classes, len(share.classes) + 1  # "none of them" is one more
    data, counts = resample(ctx.data.train, own, model.classes, how.negatives, ctx.seed)  # line 1: X_i, y_i
    scores = measured.scores_of(counts)

    vit = copy.deepcopy(require_vit(model.module, "edvit"))
    attn = vit.blocks[0].attn
    head_dim, dim = attn.head_dim, vit.embed_dim * share.heads // attn.num_heads
    spec = sub_spec(model.spec, dim, share.heads, classes)
    plain = spec.build()
    neurons = plain.blocks[0].mlp.fc1.out_features
    tune = partial(fine_tune, ctx, how, share.name, vit, data)

    keep_residual(vit, best(scores.residual, dim))  # line 2: d -> s d
    new_head(vit, own)
    fits = {"residual": tune("residual")}
    for block, score in zip(vit.blocks, scores.attention, strict=True):  # line 3: h -> s h
        keep_attention(block.attn, best_merged(score, share.heads, head_dim))
    fits["attention"] = tune("attention")
    for block, score in zip(vit.blocks, scores.ffn, strict=True):  # line 4: c -> s c
        keep_ffn(block.mlp, best(score, neurons))
    fits["ffn"] = tune("ffn")  # line 5

    plain.load_state_dict(vit.state_dict())  # what is left is a plain ViT of fewer heads
    notes = {"importance_of_all": measured.seconds, **{stage: fit.train_s for stage, fit in fits.items()}}
    step = Lineage.of("partition", share.name, {}, list(fits.values()), notes)
    return replace(model, module=plain.eval(), spec=spec, classes=classes, lineage=(step,))  # line 6


def prune_once(ctx: Context, model: Model, how: Pruning, share: Share, proxy: Callable[[], Proxy]) -> Model:
    """Return :func:`prune`'s sub-model, made once for all fusions of Table 3."""
    make = partial(prune, ctx, model, how, share, proxy)
    own, heads = list(share.classes), share.heads
    return resumable(ctx, share.name, make, source=model, own=own, heads=heads, **vars(how))


def resample(
    data: Split, own: Sequence[int], classes: int, negatives: int | None, seed: int
) -> tuple[Split, NDArray[np.int64]]:
    """Return (X_i, y_i) for the classes ``own``, and how many images of each class it has, int64 [C] (line 1)."""
    return resampled(data, own, classes, negatives, np.random.default_rng([seed, 2, *own]))


def fine_tune(
    ctx: Context, how: Pruning, name: str, vit: VisionTransformer, data: Split, stage: str
) -> FitResult:
    """Train on (X_i, y_i) after a pruning stage (line 5 after the last)."""
    ctx.progress(f"{name}: fine-tuning after {stage}")
    rate: dict[str, Any] = {} if how.lr is None else {"lr": how.lr, "min_lr": min(1e-5, how.lr)}
    return ctx.fit(vit, data=data, name=f"{name}-{stage}", epochs=how.epochs, **FINE_TUNING, **rate)


# --- which units are kept -------------------------------------------------------------------------


def best(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the indices of the ``k`` highest ``scores`` [U, 1], ascending. Of equal scores the first ones are taken."""
    return scores.flatten().argsort(descending=True, stable=True)[:k].sort().values


def best_merged(scores: torch.Tensor, heads: int, head_dim: int) -> torch.Tensor:
    """Return which joint dimensions ``heads`` new heads keep, ascending; ``scores`` [A, 1] are those of the old ones.

    The A dimensions are cut into ``heads`` groups of consecutive ones, and each group keeps its ``head_dim`` best.
    """
    groups = torch.arange(len(scores)).tensor_split(heads)
    return torch.cat([group[best(scores[group], head_dim)] for group in groups])


# --- the three stages: physical removal -----------------------------------------------------------


def keep_residual(vit: VisionTransformer, keep: torch.Tensor) -> None:
    """Cut all that writes to or reads from the residual stream to the channels ``keep`` (stage 1, d -> s d)."""
    for name in ("cls_token", "reg_token", "dist_token", "pos_embed"):
        token = getattr(vit, name, None)
        if token is not None:
            setattr(vit, name, nn.Parameter(token.detach()[..., keep]))
    _rows(vit.patch_embed.proj, keep)
    norms = [vit.patch_embed.norm, vit.norm_pre, vit.norm, vit.fc_norm]
    for block in vit.blocks:
        norms += [block.norm1, block.norm2]
        for scale in (block.ls1, block.ls2):
            if not isinstance(scale, nn.Identity):
                scale.gamma = nn.Parameter(scale.gamma.detach()[keep])
        _columns(block.attn.qkv, keep)
        _columns(block.mlp.fc1, keep)
        _rows(block.attn.proj, keep)
        _rows(block.mlp.fc2, keep)
    for norm in norms:
        if isinstance(norm, nn.LayerNorm):
            norm.weight = nn.Parameter(norm.weight.detach()[keep])
            norm.bias = nn.Parameter(norm.bias.detach()[keep])
            norm.normalized_shape = (len(keep),)
    for head in _heads(vit):
        _columns(head, keep)
    vit.embed_dim = vit.num_features = vit.head_hidden_size = len(keep)


def keep_attention(attn: Attention, keep: torch.Tensor) -> None:
    """Keep the same dimensions ``keep`` of q, k and v (stage 2, h -> s h). A head keeps its size, and so its scale."""
    attn.num_heads, attn.attn_dim, before = len(keep) // attn.head_dim, len(keep), attn.attn_dim
    _rows(attn.qkv, torch.cat([keep + offset * before for offset in range(3)]))
    _columns(attn.proj, keep)


def keep_ffn(mlp: Mlp, keep: torch.Tensor) -> None:
    """Keep the neurons ``keep`` (stage 3, c -> s c)."""
    _rows(mlp.fc1, keep)
    _columns(mlp.fc2, keep)


def new_head(vit: VisionTransformer, own: Sequence[int]) -> None:
    """Replace the head by one for "none of them" (label 0) and the classes ``own`` (labels 1 ... k).

    Its rows are those of the old head. Label 0 starts from the mean of the other classes, or from 0 if there are none.
    """
    for head in _heads(vit):
        others = [c for c in range(head.out_features) if c not in own]
        for name in ("weight", "bias"):
            old = getattr(head, name).detach()
            rest = old[others].mean(0) if others else torch.zeros_like(old[0])
            setattr(head, name, nn.Parameter(torch.cat([rest[None], old[list(own)]])))
        head.out_features = len(own) + 1
    vit.num_classes = len(own) + 1


def _heads(vit: VisionTransformer) -> list[nn.Linear]:
    """Return the linear heads of ``vit``: two in a distilled DeiT."""
    return [head for head in (vit.head, getattr(vit, "head_dist", None)) if isinstance(head, nn.Linear)]


def _rows(layer: nn.Linear | nn.Conv2d, keep: torch.Tensor) -> None:
    """Keep these outputs of ``layer``."""
    layer.weight = nn.Parameter(layer.weight.detach()[keep])
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[keep])
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(keep))


def _columns(layer: nn.Linear, keep: torch.Tensor) -> None:
    """Keep these inputs of ``layer``."""
    layer.weight = nn.Parameter(layer.weight.detach()[:, keep])
    layer.in_features = len(keep)

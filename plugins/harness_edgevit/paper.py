"""EdgeViT: "ViT lightweight training at IoT edge based on transfer learning", Z. Li, Y. Long, J. Miao, 2024.

This is not the architecture EdgeViTs of ECCV 2022 (Pan et al.). Here a large ViT trained in the cloud (CloudViT)
gives its embedding W_IE and its first k blocks W_poE (section 2.2). A LayerNorm W_L and a classification head W_H are
added and trained on the edge's data (Algorithm 1, Eq. 2).

Interpretations, where the paper leaves a choice:

- The LAST blocks are removed (section 2.2). The conclusion's "bottom EncoderBlocks" is a slip.
- LayerNorm "initialised randomly" is gamma = 1, beta = 0, the usual and only sensible start.
- "-T", "trained from scratch" in Table 3, trains all parameters from the transferred weights:
  Table 3 says "initialized with CloudViT assistance".
- Eq. 2 is the mean cross-entropy over the target data. Label smoothing is the recipe's.
- The head is always trained, in Table 2 too. Its initial weights (not given) are N(0, 0.02), as in timm.
- The frozen part runs without dropout and stochastic depth, so its features are fixed.
- Optimiser and epochs come from the suite's recipe. The paper's are SGD, momentum (value not given, 0.9 is usual),
  learning rate 1e-3 (schedule not given), batches of 4, 10 epochs.

Shapes: images x [n, C, H, W]; tokens [n, T, D]; features z, which the head reads: [n, R, D] for R tokens, or [n, D]
for their mean; logits [n, classes].
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from harness.methods import NO_AUGMENTATION, ArraySplit, count, extract_features, seeded
from harness.types import Context, FitResult, Lineage, Model, Split, TensorSpec
from harness_edgevit.sketch import check_images
from harness_timm.surgery import embed, require_vit
from harness_timm.vit import truncated_spec

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["Arm", "Frozen", "edgevit", "features", "logits", "part_of"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A variant of the paper: the tensors that are transferred and trained, with k ``blocks``.

    It is an arm of Table 2 (``train: head``) or of Table 3.
    """

    blocks: int
    layer_norm: Literal["reinit", "transfer"]
    train: Literal["head", "all", "scratch"]
    train_layer_norm: bool

    @property
    def name(self) -> str:
        """Return the paper's name for the variant: that of Table 2 for ``train: head``, else that of Table 3."""
        if self.train == "scratch":
            return f"ViT-n{self.blocks}"
        if self.train == "all":
            return f"ViT-f{self.blocks}-T"
        numbers = {("transfer", True): 1, ("transfer", False): 2, ("reinit", False): 3, ("reinit", True): 4}
        return f"ViT-f{self.blocks}-{numbers[self.layer_norm, self.train_layer_norm]}"


def edgevit(ctx: Context, cloud: Model, arm: Arm, *, cache: bool, recorded: Mapping[str, Any]) -> Model:
    """Make the EdgeViT of ``cloud``, CloudViT, and train it on the edge's data (Algorithm 1).

    With ``cache``, features of the frozen part are computed once per image. ``recorded`` are the parameters as the
    record states them.

    Raises:
        ValueError: the source is no timm ViT with a last LayerNorm, has too few blocks, or has other images.
    """
    source = require_vit(cloud.module, "edgevit")
    check_images(cloud.input.shape, ctx.data.info)
    if arm.blocks > len(source.blocks):
        raise ValueError(f"blocks: {arm.blocks} is beyond the model's depth of {len(source.blocks)}")

    # an EdgeViT of random weights: W_IE, k blocks, W_L (gamma = 1, beta = 0), W_H for the target's classes
    spec = truncated_spec(cloud.spec, arm.blocks, ctx.data.info.classes)
    edge = require_vit(seeded(spec.build, ctx.seed), "edgevit")
    if source.attn_pool is not None or not any(part_of(name) == "layer_norm" for name in edge.state_dict()):
        raise ValueError("edgevit needs a ViT with a last LayerNorm and class-token or average pooling")

    # steps 1 and 2: transfer W_IE and W_poE, and W_L in arms 1 and 2 of Table 2
    if arm.train != "scratch":
        wanted = {"trunk"} | ({"layer_norm"} if arm.layer_norm == "transfer" else set())
        sent, own = source.state_dict(), edge.state_dict()
        edge.load_state_dict({name: sent[name] if part_of(name) in wanted else own[name] for name in own})

    # step 3: minimise Eq. 2 over W_(L+H), or over all weights
    fit = train_head(ctx, edge, arm, cache) if arm.train == "head" else ctx.fit(edge, name="edgevit")

    # step 4: W_IE, W_poE and W_(L+H) are the EdgeViT
    notes = {
        "arm": arm.name,
        "features_cached": arm.train == "head" and cache,
        "history": list(fit.history),  # Fig. 3
    }
    step = Lineage.of("compress", "edgevit", recorded, [fit], notes)
    before = cloud.lineage if arm.train != "scratch" else ()  # ViT-n uses no weights of the cloud
    return replace(cloud, module=edge, spec=spec, classes=ctx.data.info.classes, lineage=(*before, step))


def part_of(name: str) -> str:
    """Return the paper's name for a tensor or module: trunk (W_IE and W_E), layer_norm (W_L) or head (W_H)."""
    top = name.split(".", maxsplit=1)[0]
    if top in ("norm", "fc_norm"):
        return "layer_norm"
    return "head" if top in ("head", "head_dist", "head_drop") else "trunk"


# --- training W_(L+H), the rest frozen ------------------------------------------------------------


def features(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """Return the features z of images x, computed by W_IE and W_poE: the tokens that :func:`logits` reads."""
    tokens = vit.blocks(embed(vit, x))  # [n, T, D]
    if _pools_first(vit):
        return vit.pool(tokens)  # [n, D]
    if vit.global_pool == "token":  # LayerNorm works on single tokens, so the patches are not needed
        return tokens[:, : vit.num_prefix_tokens]  # [n, R, D]: class token (and DeiT's distillation token)
    return tokens  # [n, T, D]


def logits(vit: VisionTransformer, z: torch.Tensor) -> torch.Tensor:
    """Return the logits of features z, computed by W_L and W_H: f(x, W_(L+H)) of Eq. 2."""
    if _pools_first(vit):
        return vit.head(vit.head_drop(vit.fc_norm(z)))
    return vit.forward_head(vit.norm(z))


def _pools_first(vit: VisionTransformer) -> bool:
    """Return whether the LayerNorm comes after pooling, as in ViTs whose head reads the mean of the tokens."""
    return not isinstance(vit.fc_norm, nn.Identity)


class Frozen(nn.Module):
    """A ViT whose trunk stays in evaluation mode: features z if ``cached``, else images x -> logits."""

    def __init__(self, vit: VisionTransformer, *, cached: bool) -> None:
        super().__init__()
        self.vit, self.cached = vit, cached

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] of features z or images x."""
        return logits(self.vit, x if self.cached else features(self.vit, x))

    def train(self, mode: bool = True) -> Frozen:
        """Set the mode of W_L and W_H only."""
        super().train(mode)
        for name, child in self.vit.named_children():
            if part_of(name) == "trunk":
                child.eval()
        return self


def train_head(ctx: Context, edge: VisionTransformer, arm: Arm, cache: bool) -> FitResult:
    """Minimise Eq. 2 over W_H, and over W_L unless it is frozen. Return the cost."""
    trained = {"head", "layer_norm"} if arm.train_layer_norm else {"head"}
    for name, parameter in edge.named_parameters():
        parameter.requires_grad_(part_of(name) in trained)
    if cache:
        fit = fit_cached(ctx, edge)
    else:
        fit = ctx.fit(Frozen(edge, cached=False), name="edgevit-head")
    edge.requires_grad_(True)  # a compressor after this one may train all of it
    return fit


def fit_cached(ctx: Context, edge: VisionTransformer) -> FitResult:
    """Minimise Eq. 2 on features that are computed once per image: the same loss with fewer passes through the trunk.

    Features of augmented images would differ in each epoch, so augmentation is off, whatever the recipe says. Passes
    over validation images are not counted, as in every training.
    """

    def cached(split: Split) -> ArraySplit:
        return ArraySplit(extract_features(ctx, edge, split, lambda x: features(edge, x)), split.labels)

    start = time.perf_counter()
    train = cached(ctx.data.train)
    validation = cached(ctx.data.validation) if len(ctx.data.validation) else None
    seconds = time.perf_counter() - start
    tail = Frozen(edge, cached=True)
    fit = ctx.fit(tail, data=train, validation=validation, name="edgevit-head", **NO_AUGMENTATION)
    image, z = TensorSpec(shape=ctx.data.info.shape), TensorSpec(shape=train.batch([0]).shape[1:])
    trunk_macs = count(edge, [image]).macs - count(tail, [z]).macs
    return replace(
        fit,
        image_passes=fit.image_passes + len(train),
        train_macs=fit.train_macs + len(train) * trunk_macs,
        train_s=fit.train_s + seconds,
    )

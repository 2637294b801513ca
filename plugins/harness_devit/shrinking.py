"""Model shrinking (section IV-C): what matters of a sub-teacher to its classes, and a small ViT made of that.

Shapes: L blocks, h heads of e channels each, D = h e channels of a token, d neurons; s marks the sub-model's.

Readings taken:

- Eq. 6 and 7 are taken of the mean loss over the held-out images, so the sum over images and tokens is inside the
  absolute value. A neuron's output O_w is its activation: the sum of w dL/dw over its weights in W_2 is just that.
- The paper names no criterion for embedding reduction: channels of the residual stream are ranked by the same
  measure, taken of each block's output and summed over the blocks. Where a head gets narrower too (the paper keeps
  64 channels), its channels are ranked by theirs, and q is scaled so that attention's softmax sees the same scale.
- A CCT's tokenizer is reduced where it makes the embedding: outputs of its last convolution go with their channels.
  What is inside stays the teacher's, as in the published counts (64 channels in CCT-14 and in DeCCT).
- Encoder reduction keeps block g(j) for the j-th of L_s: the linear map that feature distillation uses (Eq. 12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional

from harness.methods import Batches, evaluating
from harness.types import Split
from harness_devit.sketch import Shape
from harness_devit.submodel import block_taps, embedding_axis

__all__ = [
    "Importance",
    "Kept",
    "choose",
    "layer_map",
    "random_importance",
    "slice_teacher",
    "taylor_importance",
]


@dataclass(frozen=True)
class Importance:
    """The signed first-order change of the loss by what would be removed. Its absolute value is the importance.

    ``heads`` [L, h, e] are of each channel of each head, ``neurons`` [L, d], and ``embedding`` [D], which is not signed.
    ``whole_heads`` [L, h] rank the heads, the greatest first, if that is not the sum over a head's channels.
    """

    heads: torch.Tensor
    neurons: torch.Tensor
    embedding: torch.Tensor
    whole_heads: torch.Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """Indices into the teacher, ascending: ``blocks`` [L_s]; ``channels`` [D_s]; ``heads`` [L_s, D_s] and
    ``neurons`` [L_s, d_s] of each kept block, heads as channels of all heads side by side."""

    blocks: list[int]
    channels: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor


def layer_map(small: int, large: int) -> list[int]:
    """Return g: for each of ``small`` layers the layer of ``large`` that it follows. The last follows the last."""
    return [(j + 1) * large // small - 1 for j in range(small)]


def taylor_importance(vit: VisionTransformer, split: Split, device: str, batch: int = 128) -> Importance:
    """Return Eq. 5 to 7 on the held-out images of ``split``, by one backward pass over them."""
    taps = [tap for kind in block_taps(vit) for tap in kind]
    samples = Batches(split, torch.device(device))
    sums: list[torch.Tensor] = []
    vit.to(device)
    with evaluating(vit), torch.enable_grad():
        for start in range(0, len(split), batch):
            rows = samples.take(np.arange(start, min(start + batch, len(split))))
            loss = functional.cross_entropy(vit(rows.inputs), rows.labels, reduction="sum") / len(split)
            outputs = [tap.value for tap in taps]
            # dL/dO . O, summed over images and tokens; a block's output may not reach the head (its patches)
            slopes = torch.autograd.grad(loss, outputs)
            parts = [
                (slope * out).sum(dim=(0, 1)).detach().cpu()
                for slope, out in zip(slopes, outputs, strict=True)
            ]
            sums = parts if not sums else [total + part for total, part in zip(sums, parts, strict=True)]
    for tap in taps:
        tap.close()
    depth, h = len(vit.blocks), vit.blocks[0].attn.num_heads
    return Importance(
        heads=torch.stack(sums[:depth]).unflatten(1, (h, -1)),
        neurons=torch.stack(sums[depth : 2 * depth]),
        embedding=torch.stack(sums[2 * depth :]).abs().sum(dim=0),
    )


def random_importance(teacher: Shape, seed: int) -> Importance:
    """Return importance drawn at random: the control that says whether importance matters."""
    generator = torch.Generator().manual_seed(seed)
    h, e = teacher.heads, teacher.dim // teacher.heads
    return Importance(
        heads=torch.rand(teacher.depth, h, e, generator=generator),
        neurons=torch.rand(teacher.depth, teacher.hidden, generator=generator),
        embedding=torch.rand(teacher.dim, generator=generator),
    )


def choose(importance: Importance, small: Shape) -> Kept:
    """Algorithm 1, lines 8 and 9: return what remains of each kind for the shape ``small``, the most important."""
    depth, _, e = importance.heads.shape
    blocks = layer_map(small.depth, depth)
    heads = []
    for block in blocks:
        slopes = importance.heads[block]  # [h, e]
        whole = slopes.sum(dim=1).abs() if importance.whole_heads is None else importance.whole_heads[block]
        kept = _top(whole, small.heads)  # Eq. 6
        inner = [_top(slopes[i].abs(), small.dim // small.heads) for i in kept]
        heads.append(torch.cat([i * e + dims for i, dims in zip(kept, inner, strict=True)]))
    return Kept(
        blocks=blocks,
        channels=_top(importance.embedding, small.dim),
        heads=torch.stack(heads),
        neurons=torch.stack(
            [_top(importance.neurons[block].abs(), small.hidden) for block in blocks]
        ),  # Eq. 7
    )


def _top(values: torch.Tensor, n: int) -> torch.Tensor:
    """Return the indices of the ``n`` greatest values, ascending. Of equal values the first ones are taken."""
    return torch.sort(values, descending=True, stable=True).indices[:n].sort().values


def slice_teacher(teacher: VisionTransformer, small: VisionTransformer, kept: Kept) -> None:
    """Algorithm 1, line 10: copy the kept weights of the teacher into ``small``, a ViT of the smaller shape.

    Raises:
        ValueError: a tensor does not fit.
    """
    source, own = teacher.state_dict(), small.state_dict()
    c = kept.channels
    ratio = (small.blocks[0].attn.head_dim / teacher.blocks[0].attn.head_dim) ** 0.5
    for name, target in own.items():
        top, *rest = name.split(".")
        if top != "blocks":
            axis = embedding_axis(name)
            own[name] = source[name] if axis is None else source[name].index_select(axis, c)
        else:
            j, part = int(rest[0]), ".".join(rest[1:])
            tensor = source[f"blocks.{kept.blocks[j]}.{part}"]
            own[name] = _block_slice(part, tensor, c, kept.heads[j], kept.neurons[j], ratio)
        if own[name].shape != target.shape:
            raise ValueError(f"devit cannot cut {name} {tuple(own[name].shape)} to {tuple(target.shape)}")
    small.load_state_dict(own)


def _block_slice(
    part: str, source: torch.Tensor, c: torch.Tensor, heads: torch.Tensor, neurons: torch.Tensor, ratio: float
) -> torch.Tensor:
    """Return what ``c``, ``heads`` and ``neurons`` keep of a block's tensor ``part``; q is scaled by ``ratio``."""
    if part.startswith("attn.qkv"):
        q, k, v = (rows[heads] for rows in source.chunk(3))  # [D_s, D] or [D_s]
        joint = torch.cat([q * ratio, k, v])
        return joint[:, c] if part.endswith("weight") else joint
    if part == "attn.proj.weight":
        return source[c][:, heads]
    if part == "mlp.fc1.weight":
        return source[neurons][:, c]
    if part == "mlp.fc1.bias":
        return source[neurons]
    if part == "mlp.fc2.weight":
        return source[c][:, neurons]
    return source[c]  # norms, and the biases of attn.proj and mlp.fc2

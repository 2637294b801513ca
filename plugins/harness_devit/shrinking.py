"""Model shrinking (section IV-C, Eq. 5 to 7): rank what matters in a sub-teacher to its classes, and cut a small ViT.

Shapes: n images, T tokens, C classes; L blocks, h heads of e channels each, D = h e channels of a token, d neurons of an
MLP; u units of any of these kinds. The index s marks the sub-model's.

Readings taken:

- Eq. 6 and 7 are taken of the mean loss over the held-out images, so the sum over images and tokens is inside the
  absolute value. A neuron's output O_w is its activation, so its importance is the sum of w dL/dw over its D weights
  in W_2. Eq. 7 sums over its 2 D weights in W_1 and W_2; the ranks are nearly the same.
- The paper names no criterion for embedding reduction. Channels of the residual stream are ranked by the same measure,
  taken of each block's output and summed over the blocks. Where a head gets narrower too (the paper keeps 64 channels),
  its channels are ranked by theirs, and q is scaled so that attention's softmax sees the same scale.
- A CCT's tokenizer is reduced where it makes the embedding: outputs of its last convolution go with their channels.
  Its other convolutions stay the teacher's, as in the published counts (64 channels in CCT-14 and in DeCCT).
- Encoder reduction keeps block g(j) for the j-th of L_s. The map g is the linear one of feature distillation (Eq. 12).

``importance: hsic`` is what the authors' code does in place of Eq. 5 to 7. HSIC, the Hilbert-Schmidt independence
criterion (Gretton et al. 2005), is tr(K H L H) with the kernels K and L of two variables on n images and
H = I - 1 1^T / n. It is not normalised here. P is the softmax of the logits of one batch of at most 256 images.

- A head, with its output averaged over its channels: HSIC with P, less 0.1 times its mean HSIC with the other heads.
- A neuron: 0.1 HSIC with P + 0.9 times the sum of its activation's absolute value, each scaled to [0, 1] in its block.
- The kernel of P is linear. That of an output is the mean of Gaussians of widths 1, 2, 4, 8 and 16 over an image's
  tokens. The code also shifts both variables, which changes neither kernel once it is centred.
- The code reduces neither the embedding nor a head's width. Here these channels are ranked as neurons are.
- The code searches at random for a ratio per layer, scored on test images. Here every layer keeps as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from harness.methods import Batches, evaluating
from harness.types import Split
from harness_devit.sketch import Criterion, Shape

__all__ = [
    "Importance",
    "Kept",
    "Tap",
    "choose",
    "hsic_importance",
    "layer_map",
    "measure_importance",
    "random_importance",
    "slice_teacher",
    "taylor_importance",
]

_BATCH = 256  # images on which HSIC is taken
_UNITS = 64  # at a time: their kernels are [u, n, n]

# tensors outside the blocks whose first, or last, axis is the embedding's channels
_FIRST = ("patch_embed.proj.", "norm.", "fc_norm.")
_LAST = ("cls_token", "dist_token", "pos_embed", "head.weight", "head_dist.weight", "attn_pool.score.weight")


# --- (i) rank by importance: lines 6 to 8 ---------------------------------------------------------


@dataclass(frozen=True)
class Importance:
    """How much each unit matters: its absolute value ranks the units of one kind.

    ``heads`` [L, h, e] are of each channel of each head, ``neurons`` [L, d], and ``embedding`` [D], which is not
    negative. With Taylor importance, heads and neurons are signed: the first-order change of the loss.
    ``whole_heads`` [L, h] rank the heads, the greatest first, if that is not the sum over a head's channels.
    """

    heads: torch.Tensor
    neurons: torch.Tensor
    embedding: torch.Tensor
    whole_heads: torch.Tensor | None = None


class Tap:
    """Keep as ``value`` the last output of a module, or with ``inputs`` its last first input."""

    def __init__(self, module: nn.Module, *, inputs: bool = False) -> None:
        self.value = torch.empty(0)
        if inputs:
            self._handle = module.register_forward_pre_hook(self._keep_input)
        else:
            self._handle = module.register_forward_hook(self._keep_output)

    def close(self) -> None:
        """Remove the hook from the module."""
        self._handle.remove()

    def _keep_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.value = inputs[0]

    def _keep_output(self, module: nn.Module, inputs: object, out: torch.Tensor) -> None:
        self.value = out


def _block_taps(vit: VisionTransformer) -> tuple[list[Tap], list[Tap], list[Tap]]:
    """Return taps of each block: O_h, heads side by side [n, T, D]; O_w [n, T, d]; and the block's output [n, T, D]."""
    return (
        [Tap(block.attn.proj, inputs=True) for block in vit.blocks],
        [Tap(block.mlp.fc2, inputs=True) for block in vit.blocks],
        [Tap(block) for block in vit.blocks],
    )


def measure_importance(
    criterion: Criterion, vit: VisionTransformer, split: Split, device: str, seed: int
) -> Importance:
    """Return the importance of all units of ``vit`` to the images of ``split`` (lines 6 and 7)."""
    if criterion == "taylor":
        return taylor_importance(vit, split, device)
    if criterion == "hsic":
        return hsic_importance(vit, split, device, seed)
    return random_importance(vit, seed)


def taylor_importance(vit: VisionTransformer, split: Split, device: str, batch: int = 128) -> Importance:
    """Return Eq. 5 to 7 on the images of ``split``, by one backward pass over batches of ``batch`` images."""
    taps = [tap for kind in _block_taps(vit) for tap in kind]
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


def hsic_importance(vit: VisionTransformer, split: Split, device: str, seed: int) -> Importance:
    """Return the importance by HSIC on one batch of ``split``, which ``seed`` draws."""
    heads, neurons, streams = taps = _block_taps(vit)
    rows = np.random.RandomState(seed).permutation(len(split))[:_BATCH]
    images = Batches(split, torch.device(device)).take(rows).inputs
    with evaluating(vit.to(device)), torch.no_grad():
        p = vit(images).softmax(dim=1)  # [n, C]
        prediction = _centred(p @ p.T)
        h = vit.blocks[0].attn.num_heads
        importance = Importance(
            whole_heads=torch.stack(
                [_hsic_of_heads(tap.value.unflatten(2, (h, -1)), prediction) for tap in heads]
            ).cpu(),
            heads=torch.stack(
                [_hsic_of_units(tap.value, prediction).unflatten(0, (h, -1)) for tap in heads]
            ).cpu(),
            neurons=torch.stack([_hsic_of_units(tap.value, prediction) for tap in neurons]).cpu(),
            embedding=torch.stack([_hsic_of_units(tap.value, prediction) for tap in streams])
            .sum(dim=0)
            .cpu(),
        )
    for tap in (tap for kind in taps for tap in kind):
        tap.close()
    return importance


def _hsic_of_heads(outputs: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the importance [h] of heads with outputs O_h [n, T, h, e]; ``prediction`` [n, n] is the kernel of P."""
    kernels = _centred(_gaussian(outputs.mean(dim=3).permute(2, 0, 1)))  # [h, n, n]
    relevance = (kernels * prediction).sum(dim=(1, 2))  # a trace, as both are symmetric
    pairs = torch.einsum("amn,bmn->ab", kernels, kernels)
    redundancy = (pairs.sum(dim=1) - pairs.diagonal()) / max(len(pairs) - 1, 1)
    return relevance - 0.1 * redundancy


def _hsic_of_units(outputs: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the importance [u] of units with outputs [n, T, u]; ``prediction`` [n, n] is the kernel of P."""
    each = outputs.permute(2, 0, 1).split(_UNITS)
    relevance = torch.cat([(_centred(_gaussian(x)) * prediction).sum(dim=(1, 2)) for x in each])
    return 0.1 * _scaled(relevance) + 0.9 * _scaled(outputs.abs().sum(dim=(0, 1)))


def _gaussian(x: torch.Tensor) -> torch.Tensor:
    """Return the kernels [u, n, n] between images of ``x`` [u, n, T]."""
    squares = torch.cdist(x, x).square()
    widths = (1, 2, 4, 8, 16)
    return sum((torch.exp(squares / (-2 * width**2)) for width in widths), torch.zeros_like(squares)) / len(
        widths
    )


def _centred(kernel: torch.Tensor) -> torch.Tensor:
    """Return H K H of the kernels K [..., n, n]."""
    rows, columns = kernel.mean(dim=-1, keepdim=True), kernel.mean(dim=-2, keepdim=True)
    return kernel - rows - columns + rows.mean(dim=-2, keepdim=True)


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Return ``values`` scaled to [0, 1]."""
    least, most = values.aminmax()
    return (values - least) / (most - least).clamp_min(torch.finfo(values.dtype).tiny)


def random_importance(vit: VisionTransformer, seed: int) -> Importance:
    """Return importance drawn at random: the control that shows whether importance matters."""
    generator = torch.Generator().manual_seed(seed)
    depth, block = len(vit.blocks), vit.blocks[0]
    h, neurons = block.attn.num_heads, block.mlp.fc1.out_features
    return Importance(
        heads=torch.rand(depth, h, vit.embed_dim // h, generator=generator),
        neurons=torch.rand(depth, neurons, generator=generator),
        embedding=torch.rand(vit.embed_dim, generator=generator),
    )


# --- (ii) remove unimportant parts: lines 9 and 10 ------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What a sub-model keeps: ascending indices into the teacher.

    ``blocks`` [L_s]; ``channels`` [D_s]; ``heads`` [L_s, D_s] and ``neurons`` [L_s, d_s] of each kept block, heads as
    channels of all heads side by side.
    """

    blocks: list[int]
    channels: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor


def layer_map(small: int, large: int) -> list[int]:
    """Return g: for each of ``small`` layers the layer of ``large`` that it follows. The last follows the last."""
    return [(j + 1) * large // small - 1 for j in range(small)]


def choose(importance: Importance, small: Shape) -> Kept:
    """Return the most important units of each kind, as many as the shape ``small`` has (lines 8 and 9)."""
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
    """Copy the kept weights of the teacher into ``small``, a ViT of the smaller shape (line 10).

    Raises:
        ValueError: a tensor does not fit.
    """
    source, own = teacher.state_dict(), small.state_dict()
    c = kept.channels
    ratio = (small.blocks[0].attn.head_dim / teacher.blocks[0].attn.head_dim) ** 0.5
    for name, target in own.items():
        top, *rest = name.split(".")
        if top != "blocks":
            axis = _embedding_axis(name)
            own[name] = source[name] if axis is None else source[name].index_select(axis, c)
        else:
            j, part = int(rest[0]), ".".join(rest[1:])
            tensor = source[f"blocks.{kept.blocks[j]}.{part}"]
            own[name] = _block_slice(part, tensor, c, kept.heads[j], kept.neurons[j], ratio)
        if own[name].shape != target.shape:
            raise ValueError(f"devit cannot cut {name} {tuple(own[name].shape)} to {tuple(target.shape)}")
    small.load_state_dict(own)


def _embedding_axis(name: str) -> int | None:
    """Return which axis of the tensor ``name`` outside the blocks is the embedding's D channels, or ``None``.

    A CCT's first convolutions have none, so a sub-model has them whole: only the last one's outputs are tokens.
    """
    if name.startswith(_FIRST):
        return 0
    return -1 if name in _LAST else None


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

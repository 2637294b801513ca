"""Importance by the authors' code, in place of the paper's Eq. 5 to 7: how much a part tells of the prediction.

HSIC, the Hilbert-Schmidt independence criterion (Gretton et al. 2005), is tr(K H L H) with the kernels K and L of two
variables on n images and H = I - 1 1^T / n; unnormalised here. Of the outputs of one batch, with predictions P
(softmax of the logits):

- a head, its output averaged over its channels: HSIC with P, less 0.1 times its mean HSIC with the other heads;
- a neuron: 0.1 HSIC with P + 0.9 times the sum of its activation's absolute value, each scaled to [0, 1] in its block.

Kernels: linear of P; of outputs the mean of Gaussians of widths 1, 2, 4, 8 and 16 over an image's tokens. (The code
also shifts both variables, which changes neither kernel once it is centred.)

Readings taken: the code reduces neither the embedding nor a head's width, so those channels are ranked as neurons are,
of each block's output summed over the blocks. Its random search for a ratio per layer, scored on test images, has
no part here: every layer keeps as many. The batch is of held-out images, at most 256.

Shapes: T tokens, h heads of e channels, D channels of a token, d neurons; u of any such units.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.methods import Batches, evaluating
from harness.types import Split
from harness_devit.shrinking import Importance
from harness_devit.submodel import block_taps

__all__ = ["hsic_importance"]

_BATCH = 256
_UNITS = 64  # at a time: their kernels are [u, n, n]


def hsic_importance(vit: VisionTransformer, split: Split, device: str, seed: int) -> Importance:
    """Return the importance of heads, neurons and channels on one batch of ``split``, which ``seed`` draws."""
    heads, neurons, streams = taps = block_taps(vit)
    rows = np.random.RandomState(seed).permutation(len(split))[:_BATCH]
    images = Batches(split, torch.device(device)).take(rows).inputs
    with evaluating(vit.to(device)), torch.no_grad():
        p = vit(images).softmax(dim=1)  # [n, C]
        prediction = _centred(p @ p.T)
        h = vit.blocks[0].attn.num_heads
        importance = Importance(
            whole_heads=torch.stack(
                [_heads(tap.value.unflatten(2, (h, -1)), prediction) for tap in heads]
            ).cpu(),
            heads=torch.stack([_units(tap.value, prediction).unflatten(0, (h, -1)) for tap in heads]).cpu(),
            neurons=torch.stack([_units(tap.value, prediction) for tap in neurons]).cpu(),
            embedding=torch.stack([_units(tap.value, prediction) for tap in streams]).sum(dim=0).cpu(),
        )
    for tap in (tap for kind in taps for tap in kind):
        tap.close()
    return importance


def _heads(outputs: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the importance [h] of heads with outputs O_h [n, T, h, e]."""
    kernels = _centred(_gaussian(outputs.mean(dim=3).permute(2, 0, 1)))  # [h, n, n]
    relevance = (kernels * prediction).sum(dim=(1, 2))  # a trace, as both are symmetric
    pairs = torch.einsum("amn,bmn->ab", kernels, kernels)
    redundancy = (pairs.sum(dim=1) - pairs.diagonal()) / max(len(pairs) - 1, 1)
    return relevance - 0.1 * redundancy


def _units(outputs: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Return the importance [u] of units with outputs [n, T, u]."""
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
    """Return H K H."""
    rows, columns = kernel.mean(dim=-1, keepdim=True), kernel.mean(dim=-2, keepdim=True)
    return kernel - rows - columns + rows.mean(dim=-2, keepdim=True)


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Return ``values`` scaled to [0, 1]."""
    least, most = values.aminmax()
    return (values - least) / (most - least).clamp_min(torch.finfo(values.dtype).tiny)

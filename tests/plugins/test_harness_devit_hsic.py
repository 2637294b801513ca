"""Tests of DeViT's ``importance: hsic`` against its definition in float64, one head or neuron at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.testing import check_partitioner
from harness_devit.plugin import harness_partitioners
from harness_devit.shrinking import Importance, choose, hsic_importance
from harness_devit.sketch import TokenShape

(ENTRY,) = harness_partitioners()
SHAPE = TokenShape(image_size=(8, 8), patch_size=4, channels=1, classes=3, dim=12, depth=2, heads=3)
N = 9


class Images:
    def __init__(self, n: int = N) -> None:
        rng = np.random.default_rng(3)
        self.labels = rng.integers(0, 3, n)
        self.images = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)

    def batch(self, indices: Any) -> Any:
        return self.images[indices]

    def __len__(self) -> int:
        return len(self.labels)


def vit(heads: int = 3) -> Any:
    torch.manual_seed(0)
    module = TokenShape(**{**vars(SHAPE), "heads": heads}).spec().build().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def gaussian(x: np.ndarray) -> np.ndarray:
    """[n, T] -> [n, n]."""
    return np.array(
        [
            [np.mean([np.exp(-((a - b) ** 2).sum() / (2 * s**2)) for s in (1, 2, 4, 8, 16)]) for b in x]
            for a in x
        ]
    )


def hsic(k: np.ndarray, kernel: np.ndarray) -> float:
    h = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ h @ kernel @ h))


def scaled(values: list[float]) -> np.ndarray:
    return (np.array(values) - min(values)) / (max(values) - min(values))


def outputs(
    model: Any, data: Images
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """P, and of each block the heads' outputs [n, T, D], the activations [n, T, d] and the block's own, in float64."""
    x = torch.from_numpy(data.images).double()
    model.double()
    heads, neurons, blocks = [], [], []
    with torch.no_grad():
        p = model(x).softmax(dim=1).numpy()
        x = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            n, t, d = x.shape
            qkv = (
                block.attn.qkv(block.norm1(x))
                .reshape(n, t, 3, block.attn.num_heads, -1)
                .permute(2, 0, 3, 1, 4)
            )
            q, k, v = qkv
            mixed = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(dim=3) @ v
            heads.append(mixed.transpose(1, 2).reshape(n, t, d))
            x = x + block.attn.proj(heads[-1])
            neurons.append(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
            x = x + block.mlp.fc2(neurons[-1])
            blocks.append(x)
    return p, *([tensor.numpy() for tensor in kind] for kind in (heads, neurons, blocks))


def measure(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the importance of each unit of [n, T, u]."""
    relevance = scaled([hsic(gaussian(x[..., i]), p @ p.T) for i in range(x.shape[2])])
    return 0.1 * relevance + 0.9 * scaled([float(np.abs(x[..., i]).sum()) for i in range(x.shape[2])])


def test_it_is_its_definition() -> None:
    model, data = vit(), Images()
    found = hsic_importance(model, data, "cpu", seed=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    p, heads, neurons, blocks = outputs(model, data)
    assert found.whole_heads is not None
    for i in range(SHAPE.depth):
        kernels = [gaussian(heads[i][..., 4 * j : 4 * j + 4].mean(axis=2)) for j in range(3)]
        for j, kernel in enumerate(kernels):
            others = [hsic(kernel, other) for m, other in enumerate(kernels) if m != j]
            want = hsic(kernel, p @ p.T) - 0.1 * sum(others) / 2
            assert float(found.whole_heads[i, j]) == pytest.approx(want, rel=1e-3)
        np.testing.assert_allclose(found.neurons[i], measure(neurons[i], p), atol=2e-4)
        np.testing.assert_allclose(found.heads[i].flatten(), measure(heads[i], p), atol=2e-4)
    np.testing.assert_allclose(found.embedding, sum(measure(x, p) for x in blocks), atol=5e-4)


def test_one_batch_is_drawn_by_the_seed() -> None:
    data = Images(300)
    one, two, other = (hsic_importance(vit(), data, "cpu", seed).neurons for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_single_head_has_nothing_to_be_redundant_with() -> None:
    found = hsic_importance(vit(heads=1), Images(), "cpu", seed=0)
    assert found.whole_heads is not None
    assert bool(found.whole_heads.gt(0).all())  # HSIC of two kernels is not negative


def test_heads_are_ranked_whole_and_may_be_below_zero() -> None:
    importance = Importance(
        heads=torch.tensor([[[0.9, 0.8], [0.1, 0.2], [0.3, 0.0]]]),
        neurons=torch.rand(1, 4),
        embedding=torch.rand(6),
        whole_heads=torch.tensor([[-3.0, 0.5, -1.0]]),
    )
    small = TokenShape(**{**vars(SHAPE), "dim": 2, "depth": 1, "heads": 2, "mlp_ratio": 1.0})
    assert choose(importance, small).heads.tolist() == [[3, 4]]  # second channel of head 1, first of head 2


def test_the_entry_keeps_the_contracts() -> None:
    stages = {name: {"epochs": 0} for name in ("teacher_stage", "sub_stage", "ensemble_stage")}
    check_partitioner(ENTRY, {"parts": 2, "dim": 8, "heads": 1, "importance": "hsic", **stages}, classes=4)

"""Tests of CCT against the papers' counts and plain loops, and as a teacher that DeViT splits."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from harness.methods import count
from harness.testing import check_model, check_partitioner, make_context, make_model
from harness.types import DataInfo, Fleet, Model, Part, Partition, SessionOptions, TensorSpec
from harness_devit.cct import sinusoids
from harness_devit.cct_sketch import CCTShape
from harness_devit.fusion import fusion
from harness_devit.plugin import CCTParams, DeViTParams, describe_cct, harness_models, harness_partitioners
from harness_devit.shrinking import Kept, slice_teacher, taylor_importance
from harness_runtimes.plugin import OnnxParams, export_onnx, load_onnx

(ENTRY,) = harness_models()
(DEVIT,) = harness_partitioners()
FLEET = Fleet(devices=())
TINY: dict[str, Any] = {"dim": 12, "depth": 3, "heads": 3, "mlp_ratio": 2.0}
CCT14: dict[str, Any] = {"kernel": 7, "convs": 2, "dim": 384, "depth": 14, "heads": 6, "mlp_ratio": 3}
CCT7: dict[str, Any] = {"kernel": 7, "convs": 2, "dim": 256, "depth": 7, "heads": 4, "mlp_ratio": 2}
DECCT: dict[str, Any] = {"parts": 2, "dim": 8, "heads": 2, "depth": 2, "mlp_ratio": 2.0}


def info(size: tuple[int, int, int] = (1, 8, 8), classes: int = 4) -> DataInfo:
    names = tuple(f"class {i}" for i in range(classes))
    return DataInfo(name="x", shape=size, class_names=names, sizes={}, mean=(0.0,), std=(1.0,))


def shape(size: tuple[int, int, int] = (1, 8, 8), classes: int = 4, **params: Any) -> CCTShape:
    dimensions = CCTShape.from_spec(describe_cct(CCTParams(**{**TINY, **params}), info(size, classes)))
    assert dimensions is not None
    return dimensions


def built(seed: int = 0, **params: Any) -> Any:
    torch.manual_seed(seed)
    module = shape(**params).spec().build().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "classes", "millions"), [(CCT14, 1000, 22.37), (CCT7, 1000, 4.80), (CCT7, 0, 4.55)]
)
def test_published_parameter_counts(params: dict[str, Any], classes: int, millions: float) -> None:
    """DeViT's Table IV prints 22.4 M for CCT-14/7x2."""
    assert shape((3, 224, 224), classes, **params).params() / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("params", "printed", "fvcores"), [(CCT14, 11.04, 5.53), (CCT7, 3.21, 1.61)])
def test_published_operations(params: dict[str, Any], printed: float, fvcores: float) -> None:
    """DeViT's Table III prints 11.1 G, twice the MACs, for CCT-14/7x2; fvcore counts LayerNorm too."""
    model = shape((3, 224, 224), 1000, **params)
    assert 2 * model.macs() / 1e9 == pytest.approx(printed, abs=0.006)
    module = model.spec().build().eval()
    for block in module.blocks:
        block.attn.fused_attn = False  # fvcore takes the fused operator as zero
    analysis = FlopCountAnalysis(module, torch.zeros(1, 3, 224, 224))
    macs = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    assert macs / 1e9 == pytest.approx(fvcores, abs=0.006)


def test_deccts_have_the_published_count() -> None:
    """Tables III to V publish 18.3 M: four sub-models of 4.548 M and Linear(1024, 100)."""
    teacher = describe_cct(CCTParams(**CCT14), info((3, 224, 224), 100))
    params = DeViTParams(parts=4, dim=256, heads=4, depth=7, mlp_ratio=2, fusion="concat")
    *subs, last = DEVIT.sketch(teacher, params, FLEET).parts
    assert [round(sub.params / 1e6, 3) for sub in subs] == [4.548] * 4
    assert last.params == 1024 * 100 + 100
    assert round((sum(sub.params for sub in subs) + last.params) / 1e6, 3) == 18.293
    assert [sub.output_bytes for sub in subs] == [1024] * 4


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"convs": 2, "kernel": 7, "size": (3, 33, 18)},
        {"convs": 3, "conv_dim": 5, "stride": 2, "size": (2, 19, 64)},
        {"position": "sinusoidal"},
        {"position": "none", "classes": 0, "mlp_ratio": 0.4},
    ],
    ids=str,
)
def test_the_shape_tells_what_is_built(params: dict[str, Any]) -> None:
    dimensions = shape(**params)
    module = dimensions.spec().build().eval()
    image = torch.randn(1, dimensions.channels, *dimensions.image_size)
    assert tuple(module.patch_embed(image).shape) == (1, dimensions.tokens, dimensions.dim)
    counts = count(module, [TensorSpec(shape=image.shape[1:])])
    assert (dimensions.params(), dimensions.macs(), dimensions.weight_bytes()) == (
        counts.params,
        counts.macs,
        counts.weight_bytes,
    )


# --- the model ------------------------------------------------------------------------------------


def by_hand(state: dict[str, np.ndarray], image: np.ndarray, heads: int) -> np.ndarray:
    """Return the logits of one image [C, H, W], by loops over pixels, heads and tokens (kernel 3, stride 1)."""
    x = np.maximum(windows(image, lambda w: np.einsum("ocij,cij->o", state["patch_embed.proj.weight"], w)), 0)
    x = windows(x, lambda w: w.max(axis=(1, 2)), fill=-np.inf)[:, ::2, ::2]
    x = x.reshape(len(x), -1).T + state["pos_embed"][0]  # [T, D]
    for i in range(len({name.split(".")[1] for name in state if name.startswith("blocks.")})):
        block = {name[9:]: value for name, value in state.items() if name.startswith(f"blocks.{i}.")}
        q, k, v = np.split(normed(x, block, "norm1") @ block["attn.qkv.weight"].T, 3, axis=1)
        outs = []
        for q_h, k_h, v_h in zip(*(np.split(part, heads, axis=1) for part in (q, k, v)), strict=True):
            outs.append(softmax(q_h @ k_h.T / math.sqrt(q_h.shape[1])) @ v_h)
        x = x + np.concatenate(outs, axis=1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        inner = normed(x, block, "norm2") @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
        gelu = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
        x = x + gelu @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
    x = normed(x, state, "norm")
    weights = softmax((x @ state["attn_pool.score.weight"].T + state["attn_pool.score.bias"]).T)  # [1, T]
    pooled = sum(weight * token for weight, token in zip(weights[0], x, strict=True))
    return state["head.weight"] @ pooled + state["head.bias"]


def windows(x: np.ndarray, of: Any, fill: float = 0.0) -> np.ndarray:
    """Return the values of ``of`` at each 3 x 3 window of [C, H, W], padded by one."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
    rows = [[of(padded[:, i : i + 3, j : j + 3]) for j in range(x.shape[2])] for i in range(x.shape[1])]
    return np.array(rows).transpose(2, 0, 1)


def normed(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("position", ["learnable", "sinusoidal"])
def test_it_computes_the_papers_equations(position: str) -> None:
    model = built(position=position, size=(2, 7, 8)).double()
    images = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        got = model(images).numpy()
    for image, logits in zip(images.numpy(), got, strict=True):
        np.testing.assert_allclose(by_hand(state, image, heads=3), logits, rtol=1e-9)


def test_sinusoids_are_those_of_vaswani() -> None:
    got = sinusoids(5, 7)[0]
    for p in range(5):
        for c in range(7):
            angle = p / 10000 ** (2 * (c // 2) / 7)
            want = math.cos(angle) if c % 2 else math.sin(angle)
            assert float(got[p, c]) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (7, 2)])
def test_the_default_stride_is_that_of_the_published_sizes(kernel: int, stride: int) -> None:
    assert shape(kernel=kernel).stride == stride


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"heads": 5}, "dim: 12 is not a multiple of heads: 5"),
        ({"kernel": 4}, "kernel: 4 is even"),
        ({"convs": 0}, "convs"),
        ({"position": "rotary"}, "position"),
        ({"patch_size": 4}, "patch_size"),
    ],
)
def test_what_cannot_be_is_refused_when_planning(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape(**params)


@pytest.mark.parametrize("params", [{}, {"convs": 2, "kernel": 5, "position": "sinusoidal"}], ids=str)
def test_the_entry_keeps_the_contracts(params: dict[str, Any]) -> None:
    check_model(ENTRY, {**TINY, **params}, shape=(1, 8, 8))


# --- a sub-model cut from a CCT -------------------------------------------------------------------


def test_fewer_blocks_and_neurons_are_exactly_a_masked_teacher() -> None:
    teacher, small = built(1), built(2, depth=2, mlp_ratio=1.0)
    neurons = torch.stack([torch.randperm(24)[:12].sort().values for _ in range(2)])
    every = torch.arange(12)
    slice_teacher(teacher, small, Kept([0, 2], every, torch.stack([every, every]), neurons))
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        for j, block in enumerate((0, 2)):
            mask = torch.zeros(24)
            mask[neurons[j]] = 1
            teacher.blocks[block].mlp.fc2.weight.mul_(mask)
        teacher.blocks[1] = nn.Identity()
        torch.testing.assert_close(small(images), teacher(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["learnable", "sinusoidal", "none"])
def test_fewer_channels_are_those_of_the_last_convolution(position: str) -> None:
    """The layers before and after the blocks must be exact. The convolutions before the last keep all channels."""
    sizes: dict[str, Any] = {"convs": 2, "conv_dim": 5, "position": position, "size": (1, 16, 16)}
    teacher, small = built(1, **sizes), built(2, dim=8, heads=2, **sizes)
    channels, heads = torch.tensor([0, 1, 3, 4, 6, 7, 9, 11]), torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    kept = Kept([0, 1, 2], channels, torch.stack([heads] * 3), torch.arange(16).expand(3, 16))
    slice_teacher(teacher, small, kept)
    images, x = torch.randn(3, 1, 16, 16), torch.randn(3, 4, 12)
    x[..., [2, 5, 8, 10]] = 0
    with torch.no_grad():
        first = [model._pos_embed(model.patch_embed(images)) for model in (small, teacher)]
        torch.testing.assert_close(first[0], first[1][..., channels])
        torch.testing.assert_close(small.pool(x[..., channels]), teacher.pool(x)[..., channels])
        torch.testing.assert_close(small.forward_head(x[..., channels]), teacher.forward_head(x))


class Images:
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def batch(self, indices: Any) -> np.ndarray:
        return self.images[indices]

    def __len__(self) -> int:
        return len(self.labels)


def test_taylor_importance_is_the_slope_of_the_loss_by_a_gate() -> None:
    model = built()
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(5, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 5)
    importance = taylor_importance(model, Images(images, labels), "cpu", batch=2)
    model.double()
    losses = []
    for t in (1e-4, -1e-4):
        gate = torch.ones(12, dtype=torch.float64)
        gate[4:8] += t  # the second head of block 1
        handle = model.blocks[1].attn.proj.register_forward_pre_hook(
            lambda _, given, gate=gate: (given[0] * gate,)
        )
        with torch.no_grad():
            logits = model(torch.from_numpy(images).double())
        losses.append(float(nn.functional.cross_entropy(logits, torch.from_numpy(labels))))
        handle.remove()
    want = (losses[0] - losses[1]) / 2e-4
    assert float(importance.heads[1, 1].sum()) == pytest.approx(want, rel=1e-3, abs=1e-6)


# --- DeViT of a CCT -------------------------------------------------------------------------------


def dekd(tmp_path: Path, teacher: dict[str, Any], **params: Any) -> tuple[Model, Partition, Any]:
    ctx = make_context(tmp_path, classes=4, shape=(1, 8, 8), train=40, test=12)
    spec = describe_cct(CCTParams(**{**TINY, **teacher}), ctx.data.info)
    torch.manual_seed(0)
    source = Model(module=spec.build().eval(), spec=spec, input=TensorSpec(shape=(1, 8, 8)), classes=4)
    stages = {name: {"epochs": 1} for name in ("teacher_stage", "sub_stage", "ensemble_stage")}
    given = DeViTParams(**{**DECCT, **stages, **params})
    sketch = DEVIT.sketch(spec, given, FLEET)
    return source, DEVIT.partition(ctx, source, given, sketch), sketch


@pytest.mark.parametrize(
    ("teacher", "params"),
    [
        ({}, {"fusion": "concat"}),
        ({"convs": 2, "kernel": 5, "position": "sinusoidal"}, {"fm": "paper", "fusion": "concat"}),
        ({"position": "none"}, {"init": "random"}),
    ],
    ids=str,
)
def test_a_cct_is_decomposed_into_ccts_that_run_exported(
    teacher: dict[str, Any], params: dict[str, Any], tmp_path: Path
) -> None:
    _, made, sketch = dekd(tmp_path, teacher, **params)
    images = torch.randn(2, 1, 8, 8)
    values = {"image": images}
    for planned, part in zip(sketch.parts, made.parts, strict=True):
        inputs = [values[edge.source] for edge in part.inputs]
        with torch.no_grad():
            values[part.name] = part.module.eval()(*inputs)
        counts = count(part.module, [edge.tensor for edge in part.inputs])
        sketched = (planned.params, planned.macs, planned.weight_bytes)
        assert sketched == (counts.params, counts.macs, counts.weight_bytes)
        assert planned.output_bytes == values[part.name].nbytes // 2
        if part.name in ("sub1", "fusion"):
            onnx = exported(part, tmp_path / part.name, inputs)
            np.testing.assert_allclose(onnx, values[part.name], rtol=1e-4, atol=1e-5)
    assert values["fusion"].shape == (2, 4)


def exported(part: Part, folder: Path, inputs: list[torch.Tensor]) -> np.ndarray:
    folder.mkdir()
    ctx: Any = SimpleNamespace(workdir=folder)
    session = load_onnx(export_onnx(ctx, part, OnnxParams()), SessionOptions())
    return session.run([x.numpy() for x in inputs])


def test_concat_reads_the_features_side_by_side() -> None:
    module = fusion(kind="concat", fa="code", parts=2, dim=2, width=3, classes=2).eval()
    with torch.no_grad():
        module.branches[0].head.weight.copy_(torch.tensor([[1.0, 10, 100, 1000], [0, 0, 0, -1]]))
        module.branches[0].head.bias.copy_(torch.tensor([0.5, 0]))
    assert module(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [[4321.5, -4.0]]


def test_the_token_loss_of_concat_goes_through_the_map_of_eq_15(tmp_path: Path) -> None:
    """16 channels side by side against the teacher's 12: sub-models learn from it, and G is not deployed."""
    _, with_token, _ = dekd(tmp_path / "a", {}, fusion="concat")
    _, without, _ = dekd(tmp_path / "b", {}, fusion="concat", gamma=0.0)
    assert set(with_token.parts[-1].module.state_dict()) == {"branches.0.head.weight", "branches.0.head.bias"}
    one, two = (
        made.parts[0].module.state_dict()["patch_embed.proj.weight"] for made in (with_token, without)
    )
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"parts": 3}, "parts: 3 of 4 classes leaves a part with one"),
        ({"dim": 16}, "dim: 16 is more than the teacher's 12"),
        ({"heads": 1}, "dim / heads: 8 is more than the teacher's 4"),
        ({"depth": 4}, "depth: 4 is more than the teacher's 3"),
    ],
)
def test_sub_models_that_do_not_fit_are_refused_when_planning(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DEVIT.sketch(shape().spec(), DeViTParams(**{**DECCT, **params}), FLEET)


def test_the_partitioner_keeps_the_contracts_with_a_cct(tmp_path: Path) -> None:
    source = make_model(make_context(tmp_path, classes=4, shape=(1, 8, 8)), "cct", TINY)
    stages = {name: {"epochs": 1} for name in ("teacher_stage", "sub_stage")}
    check_partitioner(DEVIT, {**DECCT, **stages, "fusion": "concat"}, source, classes=4, shape=(1, 8, 8))

"""Tests of TFormer against its paper's counts and against plain loops, of its errors at planning, and of its export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from harness.methods import even_shares
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.suite.loading import load_suite
from harness.suite.shipped import find_suite
from harness.testing import make_context
from harness.types import DataInfo, Edge, Part, SessionOptions, TensorSpec
from harness.types.plan import PrepareHost, StepTask
from harness_runtimes.plugin import OnnxParams, export_onnx, load_onnx
from harness_tformer.paper import PCSFFN, HybridLayer, TFormer
from harness_tformer.plugin import TFormerParams, describe

TINY = {"dims": [10, 20], "depths": [1, 2], "stem_kernel": 3, "stem_stride": 2}


def data(size: int = 224, classes: int = 1000, channels: int = 3) -> DataInfo:
    names = tuple(f"class {i}" for i in range(classes))
    return DataInfo(
        name="x", shape=(channels, size, size), class_names=names, sizes={}, mean=(0.0,), std=(1.0,)
    )


def built(size: int = 32, classes: int = 7, **params: object) -> TFormer:
    torch.manual_seed(0)
    model = describe(TFormerParams(**{**TINY, **params}), data(size, classes)).build()
    assert isinstance(model, TFormer)
    return model.eval()


# --- the paper's counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "millions", "giga_macs", "printed"),
    [
        ({"size": "S"}, 8.380, 1.220, ("8.4", "1.2")),  # Table 5
        ({"size": "M"}, 14.318, 2.207, ("14", "2.2")),  # Table 1
        ({"size": "L"}, 20.256, 3.195, ("20", "3.2")),
        ({"size": "S", "ffn": "standard", "expansion": 1}, 6.010, 0.825, ("6.0", "0.8")),  # Table 3
        ({"size": "S", "groups": 4}, 6.020, 0.825, ("6.0", "0.8")),
        ({"size": "S", "ffn": "standard", "expansion": 2}, 8.373, 1.220, ("8.4", "1.2")),
        ({"size": "S", "ffn": "standard"}, 13.098, 2.010, ("13", "2.0")),
        ({"size": "S", "ffn": "ghost", "ghost_ratio": 4}, 6.149, 0.860, None),  # 6.2 M with other norms
        ({"size": "S", "ffn": "ghost", "ghost_ratio": 2}, 8.471, 1.243, ("8.5", "1.2")),
    ],
    ids=str,
)
def test_counts_are_the_papers(
    params: dict[str, object], millions: float, giga_macs: float, printed: tuple[str, str] | None
) -> None:
    with torch.device("meta"):
        model = describe(TFormerParams(**params), data()).build().eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224))
    found = sum(weight.numel() for weight in model.parameters()) / 1e6
    macs = counter.get_total_flops() / 2e9
    assert found == pytest.approx(millions, abs=5e-4)
    assert macs == pytest.approx(giga_macs, abs=1e-3)
    if printed:
        digits = [len(text.partition(".")[2]) for text in printed]
        assert (f"{found:.{digits[0]}f}", f"{macs:.{digits[1]}f}") == printed


# --- layers against plain loops ------------------------------------------------------------------


def pooled(x: np.ndarray, operator: str, kernel: int) -> np.ndarray:
    """[C, H, W]: mean or maximum of what of the window lies in the map."""
    channels, height, width = x.shape
    out, half = np.empty_like(x), kernel // 2
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                window = x[c, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
                out[c, i, j] = window.mean() if operator == "avg" else window.max()
    return out


@pytest.mark.parametrize("operators", [("avg",), ("max",), ("avg", "max")])
@pytest.mark.parametrize(
    ("dim", "kernels"), [(10, (3, 5, 7, 9, 11)), (13, (3, 5, 7, 9, 11)), (4, (3,)), (7, (3, 5))]
)
def test_the_hybrid_layer_pools_shares_of_the_channels(
    operators: tuple[str, ...], dim: int, kernels: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    layer = HybridLayer(dim, operators, kernels)
    x = torch.randn(1, dim, 6, 5)
    expected, start = [], 0
    for operator, channels in zip(operators, even_shares(dim, len(operators)), strict=True):
        for kernel, size in zip(kernels, even_shares(channels, len(kernels)), strict=True):
            expected.append(pooled(x[0, start : start + size].numpy(), operator, kernel))
            start += size
    mixed = np.einsum("oc,chw->ohw", layer.mix.weight[:, :, 0, 0].detach().numpy(), np.concatenate(expected))
    mixed += layer.mix.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), mixed, atol=1e-5)
    assert sum(weight.numel() for weight in layer.parameters()) == dim**2 + dim  # Eq. 7, and a bias


@pytest.mark.parametrize(("dim", "expansion", "groups"), [(4, 2, 2), (6, 4, 3), (4, 1, 4), (4, 3, 1)])
def test_the_pcs_ffn_connects_groups_and_shuffles(dim: int, expansion: int, groups: int) -> None:
    torch.manual_seed(2)
    layer = PCSFFN(dim, expansion, groups)
    x = torch.randn(dim)
    first, second = layer.fc1, layer.fc2
    inside, size = expansion * dim, expansion * dim // groups
    hidden = torch.stack(
        [
            first.weight[o, :, 0, 0] @ x[o // size * (dim // groups) :][: dim // groups] + first.bias[o]
            for o in range(inside)
        ]
    )
    hidden = torch.nn.functional.gelu(hidden)
    shuffled = torch.stack([hidden[c % groups * size + c // groups] for c in range(inside)])
    expected = torch.stack(
        [
            second.weight[o, :, 0, 0] @ shuffled[o // (dim // groups) * size :][:size] + second.bias[o]
            for o in range(dim)
        ]
    )
    torch.testing.assert_close(layer(x[None, :, None, None])[0, :, 0, 0], expected)
    weights = first.weight.numel() + second.weight.numel()
    assert weights == 2 * expansion * dim**2 // groups


def test_with_two_groups_every_output_sees_every_input() -> None:
    torch.manual_seed(3)
    layer = PCSFFN(8, 4, 2)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: layer(x[None, :, None, None]).flatten(), torch.randn(8)
    )
    assert (jacobian != 0).all()


@given(st.integers(1, 600), st.integers(1, 12))
def test_shares_are_whole_and_even(total: int, n: int) -> None:
    found = even_shares(total, n)
    assert sum(found) == total
    assert max(found) - min(found) <= 1
    assert found == [len(part) for part in np.array_split(np.arange(total), n)]


# --- the model -----------------------------------------------------------------------------------


def test_stage_features_are_as_feature_info_says() -> None:
    model = built(dims=[10, 20, 30], depths=[1, 1, 1])
    x = torch.randn(2, 3, 32, 32)
    last, maps = model.forward_intermediates(x)
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8]
    for info, found in zip(model.feature_info, maps, strict=True):
        assert found.shape == (2, info["num_chs"], 32 // info["reduction"], 32 // info["reduction"])
        assert isinstance(model.get_submodule(info["module"]), torch.nn.Module)
    torch.testing.assert_close(model.forward_head(model.norm(last)), model(x))
    _, chosen = model.forward_intermediates(x, [-1, 0])
    torch.testing.assert_close(chosen, [maps[2], maps[0]])


def test_stochastic_depth_rises_to_the_last_block_and_rests_in_evaluation() -> None:
    model = built(dims=[10], depths=[3], drop_path_rate=0.5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in list(model.stages[0])[1:]]
    assert rates == pytest.approx([0.0, 0.25, 0.5])
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(x), model(x))


@pytest.mark.parametrize("ffn", ["pcs", "standard", "ghost"])
def test_an_export_answers_as_built_at_any_batch(ffn: str, tmp_path: Path) -> None:
    model = built(ffn=ffn, layer_scale=1.0)
    part = Part(
        name="model",
        module=model,
        spec=describe(TFormerParams(**TINY, ffn=ffn, layer_scale=1.0), data(32, 7)),
        inputs=(Edge(source="image", tensor=TensorSpec(shape=(3, 32, 32))),),
        output=TensorSpec(shape=(7,)),
    )
    artifact = export_onnx(SimpleNamespace(workdir=tmp_path), part, OnnxParams())
    session = load_onnx(artifact, SessionOptions())
    for n in (1, 3):
        x = np.random.default_rng(n).standard_normal((n, 3, 32, 32), dtype=np.float32)
        expected = model(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(session.run([x]), expected, rtol=1e-4, atol=1e-5)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give size"),
        ({"size": "S", "dims": [64]}, "give size"),
        ({"dims": [64]}, "give size"),
        ({"dims": [64], "depths": []}, "depths"),
        ({"dims": [0], "depths": [1]}, "dims"),
        ({"size": "XL"}, "size"),
        ({"size": "S", "operators": ["min"]}, "operators"),
        ({"size": "S", "ffn": "shuffled"}, "ffn"),
        ({"size": "S", "heads": 3}, "heads"),
    ],
    ids=str,
)
def test_ill_typed_parameters_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TFormerParams(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dims": [20, 40], "depths": [1]}, "2 stages and 1"),
        ({"dims": [21], "depths": [1]}, "21 is not a multiple of groups: 2"),
        ({"dims": [8], "depths": [1]}, "8 channels are too few for 10 pooling branches"),
        ({"size": "S", "kernels": [3, 4]}, "4 is even"),
        ({"size": "S", "kernels": [3, 3]}, "one twice"),
        ({"size": "S", "stem_kernel": 2}, "stem_kernel: 2 is below stem_stride: 4"),
        ({"size": "S", "stem_stride": 5}, "an image of 32 x 32 pixels is smaller than .* 40"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_before_it_is(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        describe(TFormerParams(**params), data(32))
    assert "\n" not in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 24), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from(["pcs", "standard", "ghost"]),
    st.integers(4, 20),
)
def test_what_is_described_can_be_built(
    dims: list[int], groups: int, stem_stride: int, stem_kernel: int, down_stride: int, ffn: str, size: int
) -> None:
    params = TFormerParams(
        dims=tuple(dims),
        depths=(1,) * len(dims),
        groups=groups,
        kernels=(3, 5),
        ffn=ffn,
        expansion=2,
        stem_kernel=stem_kernel,
        stem_stride=stem_stride,
        down_stride=down_stride,
    )
    try:
        spec = describe(params, data(size, 3))
    except ValueError:
        return
    assert spec.build().eval()(torch.randn(2, 3, size, size)).shape == (2, 3)


# --- the paper's suite ------------------------------------------------------------------------------


def tasks(method):
    """Return the training recipe and the data choice of a method of papers/tformer, as planned."""
    planned = make_plan(
        load_suite(find_suite("papers/tformer")), load_plugins(), PrepareHost(), [method]
    ).plan
    (step,) = [node.task for node in planned.nodes.values() if isinstance(node.task, StepTask)]
    return step


def test_a_tformer_trains_on_all_images_as_section_4_1_4_says():
    step = tasks("tformer-S")
    choice, recipe = step.data.choice, step.train
    assert (choice.validation, choice.image_size, choice.interpolation, choice.crop_pct) == (
        0,
        224,
        "bicubic",
        0.875,
    )
    assert step.data.params["crop"] == "none"
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", 1e-3, 0.05)
    assert (recipe.epochs, recipe.batch_size, recipe.repeats) == (300, 1024, 3)
    assert (recipe.mixup, recipe.cutmix, recipe.random_erasing) == (0.8, 1.0, 0.25)
    assert (recipe.augment, recipe.rand_augment) == ("resized-crop-flip", "rand-m9-mstd0.5-inc1")
    assert step.params["drop_path_rate"] == 0.1


def test_a_resnet_has_the_recipe_a2_of_resnet_strikes_back():
    """The values are those of table 2 of Wightman, Touvron, Jegou (2021), the threshold that of timm's recipe."""
    step = tasks("resnet50")
    recipe = step.train
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size) == ("lamb", 5e-3, 0.02, 2048)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.schedule) == (300, 5, "cosine")
    assert (recipe.loss, recipe.bce_threshold, recipe.label_smoothing) == ("bce", 0.2, 0)
    assert (recipe.repeats, recipe.rand_augment) == (3, "rand-m7-mstd0.5-inc1")
    assert (recipe.mixup, recipe.cutmix, recipe.random_erasing) == (0.1, 1.0, 0)
    assert step.params["drop_path_rate"] == 0.05
    assert step.data.choice.crop_pct == 0.95


@pytest.mark.parametrize("method", ["tformer-S", "resnet18"])
def test_the_suites_recipe_trains(method, tmp_path):
    """The recipe of the suite but for its length, batch and mixed precision, on made pictures."""
    step = tasks(method)
    short = {"epochs": 2, "warmup_epochs": 0, "batch_size": 16, "amp": "none"}
    ctx = make_context(
        tmp_path, classes=2, shape=(3, 32, 32), train=48, recipe={**step.train.model_dump(), **short}
    )
    entry = load_plugins().models.get(step.entry).entry
    small = {"size": None, "dims": (20, 40), "depths": (1, 1), "stem_kernel": 5}
    params = {**step.params, **small} if method == "tformer-S" else step.params
    module = entry.build(ctx, entry.params(**params)).module
    before = [tensor.clone() for tensor in module.parameters()]
    fit = ctx.fit(module)
    assert fit.image_passes == 2 * len(ctx.data.train)
    assert np.isfinite([entry["loss"] for entry in fit.history]).all()
    assert all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))

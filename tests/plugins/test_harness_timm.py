"""Tests of the builders over timm, of shapes without torch, and of the operations on ViTs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel  # products, of which every torch knows the FLOPs
from torch.utils.flop_counter import FlopCounterMode

from harness.testing import check_model, check_plugin
from harness.types import DataInfo, Model, ModuleSpec
from harness_timm import plugin
from harness_timm.surgery import feature_model, slice_blocks, truncate
from harness_timm.vit import ViTShape, truncated_spec

SHAPE = ViTShape(image_size=(16, 16), patch_size=4, channels=1, classes=5, dim=24, depth=4, heads=3)
ENTRIES = {entry.name: entry for entry in plugin.harness_models()}


def info(shape: tuple[int, int, int] = (1, 16, 16), classes: int = 5) -> DataInfo:
    return DataInfo(
        name="toy",
        shape=shape,
        class_names=tuple("abcdefghijkl"[:classes]),
        sizes={},
        mean=(0.5,),
        std=(0.5,),
    )


def build(entry: str, data: DataInfo, seed: int = 0, **params: Any) -> Model:
    ctx: Any = SimpleNamespace(data=SimpleNamespace(info=data), seed=seed)
    model = ENTRIES[entry].build(ctx, ENTRIES[entry].params(**params))
    model.module.eval()
    return model


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, *shape: int, device: str = "cpu") -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device=device))
    return counter.get_total_flops() // 2


def timm_spec(name: str, classes: int = 37, size: int = 224, **args: Any) -> ModuleSpec:
    params = plugin.TimmParams(name=name, args=args)
    data = DataInfo(
        name="toy",
        shape=(3, size, size),
        class_names=("x",) * classes,
        sizes={},
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    return plugin.describe_timm(params, data)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# --- shapes -------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    patch=st.sampled_from([2, 4, 8]),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    classes=st.integers(2, 11),
    heads=st.integers(1, 3),
    per_head=st.integers(1, 9),
    depth=st.integers(1, 4),
    ratio=st.sampled_from([1.0, 2.5, 4.0]),
    class_token=st.booleans(),
    cut=st.integers(0, 3),
)
def test_counts_are_those_of_the_built_module(
    patch: int,
    rows: int,
    columns: int,
    channels: int,
    classes: int,
    heads: int,
    per_head: int,
    depth: int,
    ratio: float,
    class_token: bool,
    cut: int,
) -> None:
    shape = ViTShape(
        image_size=(rows * patch, columns * patch),
        patch_size=patch,
        channels=channels,
        classes=classes,
        dim=heads * per_head,
        depth=depth,
        heads=heads,
        mlp_ratio=ratio,
        class_token=class_token,
    )
    module = shape.spec().build()
    assert shape.params() == size(module)
    assert shape.weight_bytes() == sum(t.nbytes for t in module.state_dict().values())
    assert shape.macs() == macs(module, channels, *shape.image_size)
    if 1 <= cut < depth:
        front, back = slice_blocks(module, 0, cut), slice_blocks(module, cut, depth)
        assert (shape.params(0, cut), shape.params(cut)) == (size(front), size(back))
        assert shape.macs(0, cut) == macs(front, channels, *shape.image_size)
        assert shape.macs(cut) == macs(back, shape.tokens, shape.dim)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_small_patch16_224",
        "vit_base_patch32_224",
        "vit_large_patch16_224.augreg_in21k",
    ],
)
def test_standard_names_have_the_shape_that_timm_builds(name: str) -> None:
    spec = timm_spec(name)
    with torch.device("meta"):
        module = spec.build()
    shape = ViTShape.from_spec(spec)
    assert shape is not None
    assert shape.params() == size(module)
    assert shape.macs() == pytest.approx(macs(module, 3, 224, 224, device="meta"), rel=0.005)


@pytest.mark.parametrize("name", ["resnet18", "deit3_small_patch16_224", "vit_base_patch16_gap_224"])
def test_other_names_have_no_shape(name: str) -> None:
    assert ViTShape.from_spec(timm_spec(name)) is None


def test_a_standard_name_with_arguments_has_no_shape() -> None:
    assert ViTShape.from_spec(timm_spec("vit_tiny_patch16_224", depth=3)) is None
    assert ViTShape.from_spec(None) is None


def test_spec_is_json_and_gives_the_shape_back() -> None:
    spec = SHAPE.spec()
    again = ModuleSpec(factory=spec.factory, params=json.loads(json.dumps(spec.params)))
    assert ViTShape.from_spec(again) == SHAPE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "dim: 24 is not a multiple of heads: 5"),
        ({"patch_size": 5}, "patch_size: 5 does not divide"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(wrong: dict[str, int], message: str) -> None:
    given = {"patch_size": 4, "dim": 24, "depth": 2, "heads": 3, **wrong}
    with pytest.raises(ValueError, match=message):
        plugin.describe_vit(plugin.ViTParams(**given), info())


@pytest.mark.parametrize("start_stop", [(2, 2), (3, 1), (0, 5), (-1, 2)])
def test_a_range_outside_the_depth_is_refused(start_stop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="depth of 4"):
        SHAPE.params(*start_stop)
    with pytest.raises(ValueError, match="depth of 4"):
        slice_blocks(SHAPE.spec().build(), *start_stop)


# --- surgery ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "millions"), [(12, 85.83), (4, 29.12), (6, 43.30), (8, 57.48)])
def test_truncated_vit_base_has_the_published_sizes(blocks: int, millions: float) -> None:
    """EdgeViT paper, Table 5, for 37 classes."""
    spec = timm_spec("vit_base_patch16_224")
    with torch.device("meta"):
        short = truncate(spec.build(), blocks)
    assert round(size(short) / 1e6, 2) == millions
    shape = ViTShape.from_spec(truncated_spec(spec, blocks, 37))
    assert shape is not None
    assert shape.params() == size(short)


def test_truncation_keeps_the_first_blocks_and_leaves_the_source_alone() -> None:
    source = SHAPE.spec().build()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    short = truncate(source, 2, classes=3)
    assert len(source.blocks) == 4
    assert short(torch.zeros(2, 1, 16, 16)).shape == (2, 3)
    for name, tensor in short.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, before[name])
    nn.init.zeros_(short.cls_token)
    assert torch.equal(source.cls_token, before["cls_token"])


@pytest.mark.parametrize(
    "spec",
    [
        SHAPE.spec(),
        timm_spec("deit_tiny_distilled_patch16_224", size=32),
        truncated_spec(timm_spec("vit_tiny_patch16_224", size=32), 3, 37),
    ],
)
def test_a_truncation_is_rebuilt_from_its_spec(spec: ModuleSpec) -> None:
    source = spec.build()
    short_spec = truncated_spec(spec, 2, 7)
    short = truncate(source, 2, 7)
    short_spec.build().load_state_dict(short.state_dict())
    assert json.loads(json.dumps(short_spec.params)) == short_spec.params


def test_each_block_of_a_truncation_keeps_its_drop_path() -> None:
    shape = ViTShape.from_spec(timm_spec("vit_tiny_patch16_224", size=32))
    assert shape is not None
    whole = ViTShape(**{**vars(shape), "drop_path_rate": 0.3}).spec()
    kept = truncate(whole.build(), 5)
    rebuilt = truncated_spec(whole, 5, 37).build()
    rates = [[getattr(b.drop_path1, "drop_prob", 0.0) for b in m.blocks] for m in (kept, rebuilt)]
    assert rates[0][-1] > 0
    assert rates[1] == pytest.approx(rates[0])


@pytest.mark.parametrize("blocks", [0, 5])
def test_truncation_beyond_the_depth_is_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"blocks: {blocks} is beyond the model's depth of 4"):
        truncate(SHAPE.spec().build(), blocks)
    with pytest.raises(ValueError, match=f"blocks: {blocks} is beyond the model's depth of 4"):
        truncated_spec(SHAPE.spec(), blocks, 5)


def test_surgery_on_another_family_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"needs a timm VisionTransformer .*, not Linear"):
        truncate(nn.Linear(2, 2), 1)


@pytest.mark.parametrize(
    "spec",
    [
        SHAPE.spec(),
        ViTShape(**{**vars(SHAPE), "class_token": False}).spec(),
        timm_spec("deit_tiny_distilled_patch16_224", size=32, depth=4),
        timm_spec("vit_small_patch14_reg4_dinov2", size=28, depth=4),
    ],
)
def test_slices_in_a_row_compute_what_the_whole_does(spec: ModuleSpec) -> None:
    torch.manual_seed(0)
    whole = spec.build().eval()
    channels = spec.params["channels"]
    images = torch.randn(3, channels, *spec.params["image_size"])
    x = images
    with torch.no_grad():
        for start, stop in ((0, 1), (1, 3), (3, 4)):
            x = slice_blocks(whole, start, stop)(x)
        assert torch.equal(x, whole(images))
    pieces = [slice_blocks(whole, a, b) for a, b in ((0, 1), (1, 3), (3, 4))]
    assert sum(map(size, pieces)) == size(whole)


def test_features_are_what_the_head_reads() -> None:
    whole = SHAPE.spec().build().eval()
    images = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        features = feature_model(whole)(images)
        assert features.shape == (3, 24)
        assert torch.equal(whole.head(features), whole(images))


# --- builders -----------------------------------------------------------------------------------


def test_vit_takes_classes_and_images_from_the_data_and_its_weights_from_the_seed() -> None:
    given = {"patch_size": 4, "dim": 24, "depth": 2, "heads": 3}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two = build("vit", info((3, 16, 24), 7), **given), build("vit", info((3, 16, 24), 7), **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.module(torch.zeros(2, *one.input.shape)).shape == (2, one.classes) == (2, 7)
    assert same_state(one.module, two.module)
    assert not same_state(one.module, build("vit", info((3, 16, 24), 7), seed=1, **given).module)
    one.spec.build().load_state_dict(one.module.state_dict())


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("vit_tiny_patch16_224", (1, 32, 32), {"depth": 2}),
        ("resnet10t", (3, 40, 48), {}),
        ("mobilenetv3_small_050", (1, 33, 33), {}),
        (
            "swin_tiny_patch4_window7_224",
            (3, 56, 56),
            {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 16},
        ),
    ],
)
def test_timm_models_adapt_to_the_data(name: str, shape: tuple[int, int, int], args: dict[str, Any]) -> None:
    model = build("timm", info(shape, 4), name=name, args=args)
    rebuilt = ModuleSpec(factory=model.spec.factory, params=json.loads(json.dumps(model.spec.params)))
    other = rebuilt.build().eval()
    other.load_state_dict(model.module.state_dict())
    images = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(other(images), model.module(images))


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        ({"name": "vit_bse_patch16_224"}, (3, 32, 32), "'vit_bse_patch16_224': did you mean vit_base_"),
        ({"name": "resnet18.nope"}, (3, 32, 32), "'resnet18.nope': did you mean resnet18.tv"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, (3, 32, 32), "timm cannot give 'vgg11': .*drop_path_rate"),
        ({"name": "inception_v3"}, (3, 32, 32), "'inception_v3' does not take images of shape"),
        ({"name": "vit_tiny_patch16_224"}, (3, 30, 30), "patch_size: 16 does not divide"),
        (
            {"name": "vit_small_patch14_dinov2", "args": {"depth": 1}},
            (3, 32, 32),
            "'vit_small_patch14_dinov2' does not take the image: its patches of 14 pixels do not divide 32 x 32",
        ),
        (
            {"name": "vit_tiny_patch16_224", "args": {"depth": 1, "patch_size": 5}},
            (3, 32, 32),
            "32 pixels are no multiple of its patches' 5",
        ),
        ({"name": "resnet18", "weights": "nowhere.safetensors"}, (3, 32, 32), "there is no file nowhere"),
    ],
)
def test_what_timm_cannot_build_is_one_clear_line(
    given: dict[str, Any], shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build("timm", info(shape), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "resnet18", "args": {"num_classes": 3}},
        {"name": "resnet18", "pretrained": True, "weights": "a.safetensors"},
        {"name": "resnet18", "drop_rate": 1.0},
        {"name": "resnet18", "typo": 1},
        {"name": ""},
    ],
)
def test_wrong_timm_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.TimmParams(**given)


# --- local weights ------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A 5-class checkpoint of a two-block ViT."""
    model = build("timm", info((3, 32, 32)), seed=9, name="vit_tiny_patch16_224", args={"depth": 2})
    save_file(model.module.state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_local_weights_are_loaded(weights: Path) -> None:
    given = {"name": "vit_tiny_patch16_224", "args": {"depth": 2}}
    original = build("timm", info((3, 32, 32)), seed=9, **given)
    loaded = build("timm", info((3, 32, 32)), seed=1, weights=str(weights), head="in-order", **given)
    assert same_state(loaded.module, original.module)
    loaded.spec.build().load_state_dict(loaded.module.state_dict())


def test_a_head_of_other_classes_is_new_and_seeded(weights: Path) -> None:
    given = {"name": "vit_tiny_patch16_224", "args": {"depth": 2}, "weights": str(weights)}
    five = build("timm", info((3, 32, 32)), **given).module
    seven, again = (build("timm", info((3, 32, 32), 7), **given).module for _ in range(2))
    assert seven.head.weight.shape[0] == 7
    assert torch.equal(seven.blocks[1].mlp.fc2.weight, five.blocks[1].mlp.fc2.weight)
    assert same_state(seven, again)


def test_weights_without_a_head_are_loaded(weights: Path, tmp_path: Path) -> None:
    given = {"name": "vit_tiny_patch16_224", "args": {"depth": 2}}
    full = build("timm", info((3, 32, 32)), weights=str(weights), **given).module
    bare = tmp_path / "bare.safetensors"
    save_file({n: t for n, t in full.state_dict().items() if not n.startswith("head.")}, bare)
    loaded = build("timm", info((3, 32, 32)), weights=str(bare), **given).module
    assert torch.equal(loaded.norm.weight, full.norm.weight)
    assert torch.equal(loaded.blocks[1].attn.qkv.weight, full.blocks[1].attn.qkv.weight)


def test_weights_of_another_model_or_no_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timm cannot give weights for 'vit_tiny_patch16_224'"):
        build(
            "timm", info((3, 32, 32), 7), name="vit_tiny_patch16_224", args={"depth": 3}, weights=str(weights)
        )
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"\x00\xff not a checkpoint")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        build("timm", info((3, 32, 32)), name="vit_tiny_patch16_224", weights=str(junk))


@pytest.mark.parametrize(
    ("entry", "params"),
    [
        ("vit", {"patch_size": 4, "dim": 24, "depth": 2, "heads": 3}),
        ("timm", {"name": "vit_tiny_patch16_224", "args": {"depth": 1}}),
        ("timm", {"name": "resnet10t"}),
    ],
)
def test_the_builders_keep_the_contracts(entry: str, params: dict[str, Any]) -> None:
    check_model(ENTRIES[entry], params, shape=(3, 32, 32))


def test_the_plugin_keeps_the_contracts() -> None:
    check_plugin("timm")

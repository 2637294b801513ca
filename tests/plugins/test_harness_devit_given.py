"""Tests of the weights that sub-models are given at their start, and of the weights of a CCT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from harness.testing import make_context
from harness.types import DataInfo, Fleet, Model, ModuleSpec, TensorSpec
from harness_devit.given import Given, start_from, take_weights
from harness_devit.plugin import CCTParams, DeViTParams, harness_models, harness_partitioners
from harness_devit.sketch import TokenShape
from harness_timm.vit import TIMM_FACTORY, ViTShape

(DEVIT,) = harness_partitioners()
(CCT,) = harness_models()
FLEET = Fleet(devices=())
TEACHER = ViTShape(image_size=(8, 8), patch_size=4, channels=1, classes=6, dim=16, depth=4, heads=4)
SMALL = TokenShape(image_size=(8, 8), patch_size=4, channels=1, classes=0, dim=8, depth=2, heads=2)
UNTRAINED = {name: {"epochs": 0} for name in ("teacher_stage", "sub_stage", "ensemble_stage")}
TINY = {"kernel": 3, "dim": 8, "depth": 2, "heads": 2, "conv_dim": 4}


def filed(path: Path, module: torch.nn.Module, **kept: Any) -> str:
    save_file(module.state_dict(), path, **kept)
    return str(path)


def small(classes: int = 5, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    return TokenShape(**{**vars(SMALL), "classes": classes, **changes}).spec().build()


def params(**more: Any) -> DeViTParams:
    return DeViTParams(parts=3, dim=8, heads=2, depth=2, init="given", **more)


def test_every_sub_model_starts_with_the_weights_of_the_file(tmp_path: Path) -> None:
    weights = small()
    given = params(weights=filed(tmp_path / "small.safetensors", weights), **UNTRAINED)
    ctx = make_context(tmp_path, classes=6, shape=(1, 8, 8), train=48, test=12)
    spec = TEACHER.spec()
    source = Model(module=spec.build().eval(), spec=spec, input=TensorSpec(shape=(1, 8, 8)), classes=6)
    made = DEVIT.partition(ctx, source, given, DEVIT.sketch(spec, given, FLEET))
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        want = weights.eval().forward_head(weights.forward_features(images), pre_logits=True)
        for part in made.parts[:3]:
            torch.testing.assert_close(part.module.eval()(images), want)
    notes = made.lineage[-1].notes
    assert notes["start"] == f"weights {tmp_path / 'small.safetensors'}"
    assert notes["data_used_for_importance"] is None
    assert DEVIT.files(given) == (tmp_path / "small.safetensors",)


def test_the_pretrained_deit_of_the_authors_code_has_the_shape_of_table_ii() -> None:
    """The tiny ViT and the tiny distilled DeiT of timm have 12 blocks, 192 channels and 3 heads."""
    sizes: dict[str, Any] = {"dim": 192, "heads": 3, "depth": 12, "init": "given"}
    for teacher, tiny in (
        ("vit_large_patch16_224", "vit_tiny_patch16_224"),
        ("deit_base_distilled_patch16_224", "deit_tiny_distilled_patch16_224"),
    ):
        spec = timm_spec(teacher)
        assert DEVIT.sketch(spec, DeViTParams(**sizes, pretrained=tiny), FLEET).parts
        for wrong in ("vit_small_patch16_224", "resnet18"):
            with pytest.raises(ValueError, match=r"dim 384, and the sub-models have 192|cannot tell the dim"):
                DEVIT.sketch(spec, DeViTParams(**sizes, pretrained=wrong), FLEET)
    with pytest.raises(ValueError, match="distilled False, and the sub-models have True"):
        DEVIT.sketch(spec, DeViTParams(**sizes, pretrained="vit_tiny_patch16_224"), FLEET)


def timm_spec(name: str) -> ModuleSpec:
    built = {"name": name, "classes": 100, "channels": 3, "image_size": [224, 224], "drop_rate": None}
    return ModuleSpec(factory=TIMM_FACTORY, params={**built, "drop_path_rate": 0.1, "args": {}})


@pytest.mark.parametrize("distilled", [False, True])
def test_weights_of_timm_are_taken_without_their_head(
    distilled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's file is one with random weights here, of 1,000 classes and images of 224 pixels."""
    import harness_timm.models

    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    spec = timm_spec(name)
    torch.manual_seed(5)
    weights = ModuleSpec(factory=spec.factory, params={**spec.params, "classes": 1000}).build()
    save_file(weights.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(harness_timm.models, "hub_file", lambda *_: tmp_path / "model.safetensors")
    sub = TokenShape(
        image_size=(224, 224),
        patch_size=16,
        channels=3,
        classes=25,
        dim=192,
        depth=12,
        heads=3,
        distilled=distilled,
        drop_path_rate=0.1,
    )
    small = sub.spec().build()
    head = small.head.weight.clone()
    start_from(Given(model=name), small, sub)
    assert torch.equal(small.head.weight, head)
    mine, theirs = small.state_dict(), weights.state_dict()
    for tensor in mine.keys() - {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}:
        assert torch.equal(mine[tensor], theirs[tensor]), tensor
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours, given = (model.eval().forward_features(images) for model in (small, weights))
    torch.testing.assert_close(ours, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "blocks.2.attn.proj.bias is 8, and the model has nothing"),
        ({"image_size": (12, 12)}, "pos_embed is 1x10x8, and the model has 1x5x8"),
        ({"mlp_ratio": 2.0}, "blocks.0.mlp.fc1.bias is 16, and the model has 32"),
    ],
    ids=str,
)
def test_weights_of_another_shape_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take_weights("weights x", small(), small(**changes).state_dict())


@pytest.mark.parametrize("changes", [{"dim": 16}, {"depth": 1}], ids=str)
def test_planning_refuses_a_file_of_another_shape(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = filed(tmp_path / "other.safetensors", small(**changes))
    with pytest.raises(ValueError, match="and the model has"):
        DEVIT.sketch(TEACHER.spec(), params(weights=file), FLEET)
    with pytest.raises(ValueError, match="there is no file"):
        DEVIT.sketch(TEACHER.spec(), params(weights=str(tmp_path / "none")), FLEET)


@pytest.mark.parametrize(
    "wrong",
    [
        {"init": "given"},
        {"init": "given", "pretrained": "a", "weights": "b"},
        {"pretrained": "vit_tiny_patch16_224"},
        {"init": "random", "weights": "b"},
        {"drop_path_rate": 1.0},
    ],
    ids=str,
)
def test_a_start_that_is_not_one_start_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeViTParams(dim=8, heads=2, **wrong)


def test_stochastic_depth_is_that_of_the_parameter_and_off_after_training() -> None:
    sketch = DEVIT.sketch(TEACHER.spec(), DeViTParams(parts=3, dim=8, heads=2, drop_path_rate=0.3), FLEET)
    assert sketch.parts[0].spec is not None
    sub = sketch.parts[0].spec.build()
    assert sub.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(sub.eval()(images), sub(images))


# --- weights of a CCT -----------------------------------------------------------------------------


def cct(**more: Any) -> CCTParams:
    return CCTParams(**{**TINY, **more})


def data(classes: int = 3, channels: int = 1) -> DataInfo:
    names = tuple("abcdefgh"[:classes])
    return DataInfo(
        name="made", shape=(channels, 16, 16), class_names=names, sizes={}, mean=(0.0,), std=(1.0,)
    )


def test_a_cct_starts_with_the_weights_of_a_file_and_the_rows_of_its_classes(tmp_path: Path) -> None:
    trained = CCT.build(context(tmp_path / "a", 5), cct()).module
    file = filed(tmp_path / "cct.safetensors", trained, metadata={"label_names": '["e", "a", "b", "c", "d"]'})
    ctx = context(tmp_path / "b", 3)
    built = CCT.build(ctx, cct(weights=file, head={"class 0": "a", "class 1": "b", "class 2": "c"})).module
    assert torch.equal(built.head.weight, trained.head.weight[[1, 2, 3]])
    assert torch.equal(built.patch_embed.proj.weight, trained.patch_embed.proj.weight)
    new = CCT.build(ctx, cct(weights=file, head="new")).module
    assert torch.equal(new.blocks[1].norm2.weight, trained.blocks[1].norm2.weight)
    assert not torch.equal(new.head.weight[:3], trained.head.weight[:3])
    start = CCT.weights(cct(weights=file), data())
    assert (start.new_head, start.head) == (False, "3 of the weights' 5 classes, by name")
    assert CCT.files(cct(weights=file)) == (Path(file),)
    assert CCT.weights(cct(), data()) is None


def test_planning_refuses_weights_of_another_cct(tmp_path: Path) -> None:
    file = filed(tmp_path / "cct.safetensors", CCT.build(context(tmp_path, 3), cct()).module)
    with pytest.raises(ValueError, match="made for images of 1 channels, made has 3"):
        CCT.weights(cct(weights=file), data(channels=3))
    with pytest.raises(ValueError, match=r"norm.weight is 8, and the model has 16"):
        CCT.describe(cct(weights=file, dim=16), data())
    with pytest.raises(ValueError, match="there is no file"):
        CCT.describe(cct(weights=str(tmp_path / "none")), data())
    with pytest.raises(ValidationError, match="head belongs to weights"):
        cct(head="new")


def context(path: Path, classes: int) -> Any:
    return make_context(path, classes=classes, shape=(1, 16, 16), train=12, test=6)

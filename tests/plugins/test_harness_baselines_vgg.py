"""Tests of the VGG and its split: counts, importance by a plain loop, and cuts against a masked original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from harness.methods import ArraySplit, subset
from harness.testing import check_model, check_partitioner, make_context, make_model
from harness.types import DataInfo, Fleet
from harness_baselines.nnfacet import cut, perceptron, resample, zero_shares
from harness_baselines.plugin import VGGParams, describe_vgg, harness_models, harness_partitioners
from harness_baselines.vgg import VGG
from harness_baselines.vgg_sketch import VGGShape
from harness_timm.vit import ViTShape

VGG_ENTRY = {entry.name: entry for entry in harness_models()}["vgg"]
NNFACET = {entry.name: entry for entry in harness_partitioners()}["nnfacet"]
STAGES = [[5, 6], [8]]
SPLIT: dict[str, Any] = {"parts": 2, "epochs": 1, "fusion_epochs": 1, "hidden": 7}
FLEET = Fleet(devices=())


def shape(classes: int = 4, stages: Any = ((5, 6), (8,)), size: tuple[int, int] = (16, 16)) -> VGGShape:
    return VGGShape(image_size=size, channels=1, classes=classes, stages=tuple(map(tuple, stages)))


def plain(vgg: VGG, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the activations [n, filters, H, W] of every layer, computed without the module's own forward."""
    found, x = [], images
    for block, last in zip(vgg.blocks, [False, True, True], strict=True):
        norm = block[1]
        x = functional.conv2d(x, block[0].weight, padding=1)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
        found.append(x)
        x = functional.max_pool2d(x, 2) if last else x
    return found


def lively(vgg: VGG) -> VGG:
    """Return the VGG in evaluation mode, with random statistics in its BatchNorms."""
    torch.manual_seed(1)
    for block in vgg.blocks:
        nn.init.normal_(block[1].weight, 1, 0.3)
        nn.init.normal_(block[1].bias, 0, 0.5)
        block[1].running_mean.normal_(0, 0.2)
        block[1].running_var.uniform_(0.5, 1.5)
    return vgg.eval()


# --- the model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "size", "classes"),
    [(STAGES, (16, 16), 4), ([[3]], (7, 5), 0), ([[4], [4], [6, 2]], (8, 12), 3)],
)
def test_a_shape_counts_what_is_built(stages: Any, size: tuple[int, int], classes: int) -> None:
    dimensions = shape(classes, stages, size)
    built = dimensions.spec().build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = built(torch.zeros(1, 1, *size))
    assert out.shape == (1, classes or dimensions.dim)
    assert dimensions.params() == sum(p.numel() for p in built.parameters())
    assert dimensions.macs() == counter.get_total_flops() // 2
    assert dimensions.weight_bytes() == sum(t.nbytes for t in built.state_dict().values())
    assert VGGShape.from_spec(dimensions.spec()) == dimensions


def test_sixteen_layers_are_vgg_16() -> None:
    stages = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]
    params = VGGParams(stages=stages)  # type: ignore[arg-type]
    info = DataInfo(
        name="d", shape=(3, 32, 32), class_names=("a", "b"), sizes={}, mean=(0,) * 3, std=(1,) * 3
    )
    with torch.device("meta"):
        ours, theirs = describe_vgg(params, info).build(), timm.create_model("vgg16_bn").features
    named = {name: p.shape for name, p in theirs.named_parameters()}
    convolutions = {name for name, size in named.items() if len(size) == 4}
    biases = {name.replace("weight", "bias") for name in convolutions}  # which BatchNorm makes idle
    want = [size for name, size in named.items() if name not in biases]
    assert [p.shape for name, p in ours.named_parameters() if "head" not in name] == want


def test_the_forward_pass_is_the_plain_one() -> None:
    vgg = lively(shape().spec().build())  # type: ignore[arg-type]
    images = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        last = functional.max_pool2d(plain(vgg, images)[-1], 2).mean(dim=(2, 3))
        torch.testing.assert_close(vgg(images), last @ vgg.head.weight.T + vgg.head.bias)


def test_the_builder_keeps_its_contract() -> None:
    check_model(VGG_ENTRY, {"stages": STAGES})


# --- importance and cutting ---------------------------------------------------------------------------


def test_importance_is_the_share_of_zeros_per_class(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, classes=3)
    vgg = lively(shape(3).spec().build())  # type: ignore[arg-type]
    found, counts, cost = zero_shares(ctx, vgg, 3, macs=11)
    labels = np.asarray(ctx.data.train.labels)
    assert counts.tolist() == np.bincount(labels).tolist()
    assert (cost.image_passes, cost.train_macs) == (len(labels), 11 * len(labels))
    with torch.no_grad():
        acts = plain(vgg, torch.from_numpy(ctx.data.train.batch(range(len(labels)))))
    for layer, act in zip(found, acts, strict=True):
        for label in range(3):
            for j in range(act.shape[1]):
                own = act[labels == label, j]
                assert layer[label, j] == pytest.approx(float((own == 0).sum()) / own.numel(), abs=1e-3)
    assert 0.05 < float(found[-1].mean()) < 0.95


def test_a_cut_model_is_the_original_with_the_other_filters_silenced() -> None:
    vgg = lively(shape(0).spec().build())  # type: ignore[arg-type]
    shares = [torch.tensor(s) for s in ([0.9, 0.1, 0.5, 0.2, 0.3], [0.5] * 6, [0.1, 0.9] * 4)]
    kept = [[1, 3], [0, 1, 2], [0, 2, 4, 6]]  # of equals, the first
    small = shape(0).narrowed(0.5, 0).spec().build().eval()
    cut(vgg, small, shares)
    images = torch.randn(4, 1, 16, 16)

    def silence(mask: list[int]) -> Any:
        return lambda _, __, out: (
            out * torch.isin(torch.arange(out.shape[1]), torch.tensor(mask))[:, None, None]
        )

    with torch.no_grad():
        got = small(images)
        for block, mask in zip(vgg.blocks, kept, strict=True):
            block.register_forward_hook(silence(mask))
        torch.testing.assert_close(got, vgg(images)[:, kept[-1]])


def test_everything_kept_changes_nothing() -> None:
    vgg = lively(shape(0).spec().build())  # type: ignore[arg-type]
    same = shape(0).narrowed(1.0, 0).spec().build().eval()
    cut(vgg, same, [torch.rand(n) for n in (5, 6, 8)])
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(same(images), vgg(images))


def test_resampling_keeps_own_images_and_a_few_of_others() -> None:
    labels = np.repeat([0, 1, 2, 3], [30, 40, 50, 60])
    data = ArraySplit(np.arange(180)[:, None], labels)
    seen = resample(data, (1, 3), 4, negatives=None, seed=0)  # 180 / 40 - 2 -> 2 of each
    assert np.bincount(seen.labels).tolist() == [2 + 2, 40, 60]
    rows = seen.batch(range(len(seen)))[:, 0].astype(int)
    assert [{1: 1, 3: 2}.get(label, 0) for label in labels[rows]] == seen.labels.tolist()
    assert np.bincount(resample(data, (2,), 4, negatives=7, seed=0).labels).tolist() == [21, 50]


def test_the_perceptron_by_hand() -> None:
    fusion = perceptron(features=2, hidden=2, classes=1)
    with torch.no_grad():
        fusion.fc1.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        fusion.fc1.bias.zero_()
        fusion.fc2.weight.copy_(torch.tensor([[2.0, 5.0]]))
        fusion.fc2.bias.fill_(0.5)
    got = fusion(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    assert got.item() == 2 * 4 + 5 * 0 + 0.5


@pytest.mark.parametrize(("parts", "classes"), [(2, 3), (3, 3)])
def test_the_partitioner_keeps_its_contract(parts: int, classes: int, tmp_path: Path) -> None:
    source = make_model(make_context(tmp_path, classes=classes), VGG_ENTRY, {"stages": STAGES})
    check_partitioner(NNFACET, {**SPLIT, "parts": parts}, source, classes=classes)
    sketch = NNFACET.sketch(source.spec, NNFACET.params(**SPLIT), FLEET)
    made = NNFACET.partition(make_context(tmp_path, classes=classes), source, NNFACET.params(**SPLIT), sketch)
    for sketched, part in zip(sketch.parts, made.parts, strict=True):
        assert sketched.weight_bytes == sum(t.nbytes for t in part.module.state_dict().values())
        assert sketched.spec == part.spec
    assert made.lineage[:-1] == source.lineage
    assert made.lineage[-1].train_macs > 0


# --- bad input ----------------------------------------------------------------------------------------


def test_what_cannot_be_split_is_refused_when_planning() -> None:
    vit = ViTShape(image_size=(8, 8), patch_size=4, channels=1, classes=4, dim=8, depth=1, heads=1)
    for spec in (None, vit.spec()):
        with pytest.raises(ValueError, match=r"nnfacet splits a CNN .* build: \{vgg: "):
            NNFACET.sketch(spec, NNFACET.params(parts=2), FLEET)
    with pytest.raises(
        ValueError, match="5 groups of one class at least need 5 classes, there are 4; allowed are 2 to 4"
    ):
        NNFACET.sketch(shape().spec(), NNFACET.params(parts=5), FLEET)
    info = DataInfo(name="d", shape=(1, 6, 9), class_names=("a", "b"), sizes={}, mean=(0,), std=(1,))
    with pytest.raises(ValueError, match="stages: 3 poolings by 2 leave nothing of 6 x 9 pixels"):
        describe_vgg(VGGParams(stages=[[2], [2], [2]]), info)  # type: ignore[arg-type]


def test_a_class_without_images_is_named_with_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path, classes=3)
    source = make_model(ctx, VGG_ENTRY, {"stages": STAGES})
    data, train = ctx.data, ctx.data.train
    kept = np.flatnonzero(np.asarray(train.labels) != 1)
    monkeypatch.setattr(type(ctx), "data", replace(data, train=subset(train, kept)))  # type: ignore[type-var]
    params = NNFACET.params(**SPLIT)
    with pytest.raises(ValueError, match="nnfacet, importance: class 1 has no training image"):
        NNFACET.partition(ctx, source, params, NNFACET.sketch(source.spec, params, FLEET))


@pytest.mark.parametrize("wrong", [{"parts": 1}, {"keep": 0}, {"keep": 1.1}, {"negatives": 0}, {"hidden": 0}])
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NNFACET.params(**{**SPLIT, **wrong})


@pytest.mark.parametrize("stages", [[], [[]], [[4], []], [[0]]])
def test_wrong_stages_are_refused(stages: Any) -> None:
    with pytest.raises(ValidationError):
        VGGParams(stages=stages)

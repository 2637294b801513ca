"""Tests of ED-ViT: masks against removal, importance against plain loops, published sizes, and the whole method."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from harness.methods import ArraySplit, subset
from harness.testing import check_partitioner, check_plugin, make_context, make_model
from harness.types import Fleet, ModuleSpec
from harness_edvit import plugin
from harness_edvit.fusion import Average
from harness_edvit.importance import kl_exact, kl_fisher, masked_logits, tokens
from harness_edvit.paper import class_partition
from harness_edvit.pruning import best_merged, keep_attention, keep_ffn, keep_residual, new_head, resample
from harness_edvit.sketch import part_classes, sub_shape, sub_spec
from harness_timm.vit import TIMM_FACTORY, ViTShape

(EDVIT,) = plugin.harness_partitioners()


def model(name: str = "token", seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    if name == "distilled":
        vit = timm.create_model(
            "deit_tiny_distilled_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=12,
            depth=2,
            num_heads=3,
            num_classes=5,
        )
    else:
        more = {"avg": {"class_token": False}, "clip": {"pre_norm": True, "init_values": 0.5}}.get(name, {})
        vit = VisionTransformer(
            img_size=16,
            patch_size=8,
            num_classes=5,
            embed_dim=12,
            depth=2,
            num_heads=3,
            global_pool="avg" if name == "avg" else "token",
            **more,
        )
    for weights in vit.parameters():  # far from the initial values, which hide errors
        weights.data.add_(0.3 * torch.randn_like(weights))
    return vit.eval()


KINDS = ("token", "avg", "clip", "distilled")
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def masked(vit: VisionTransformer, key: Any, keep: torch.Tensor, units: int) -> torch.Tensor:
    mask = torch.zeros(len(IMAGES), units)
    mask[:, keep] = 1
    return masked_logits(vit, tokens(vit, IMAGES), {key: mask})


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_masks_it_is_the_model_itself(kind: str) -> None:
    vit = model(kind)
    torch.testing.assert_close(masked_logits(vit, tokens(vit, IMAGES), {}), vit(IMAGES))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_removed_channels_give_what_masked_ones_do(kind: str) -> None:
    vit, keep = model(kind), torch.tensor([0, 2, 3, 7, 8, 11])
    narrow = copy.deepcopy(vit)
    keep_residual(narrow, keep)
    torch.testing.assert_close(masked(vit, "residual", keep, 12), narrow(IMAGES), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_channels_set_to_zero_are_not_removed_ones() -> None:
    """This is why LayerNorm computes its statistics over the kept channels."""
    vit, keep = model(), torch.tensor([0, 2, 3, 7, 8, 11])
    zeroed = copy.deepcopy(vit)
    gone = [c for c in range(12) if c not in keep]
    for weights in (zeroed.cls_token, zeroed.pos_embed):
        weights[..., gone] = 0
    for layer in (zeroed.patch_embed.proj, *(m for b in zeroed.blocks for m in (b.attn.proj, b.mlp.fc2))):
        layer.weight[gone] = 0
        layer.bias[gone] = 0
    assert (masked(vit, "residual", keep, 12) - zeroed(IMAGES)).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_removed_neurons_give_what_zeroed_weights_do(kind: str) -> None:
    vit, keep = model(kind), torch.arange(0, 48, 2)
    narrow, zeroed = copy.deepcopy(vit), copy.deepcopy(vit)
    keep_ffn(narrow.blocks[1].mlp, keep)
    zeroed.blocks[1].mlp.fc2.weight[:, 1::2] = 0
    torch.testing.assert_close(narrow(IMAGES), zeroed(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masked(vit, ("ffn", 1), keep, 48), narrow(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_whole_heads_removed_give_what_zeroed_weights_do(kind: str, fused: bool) -> None:
    vit, keep = model(kind), torch.arange(4, 12)
    narrow, zeroed = copy.deepcopy(vit), copy.deepcopy(vit)
    keep_attention(narrow.blocks[0].attn, keep)
    narrow.blocks[0].attn.fused_attn = fused
    zeroed.blocks[0].attn.proj.weight[:, :4] = 0
    torch.testing.assert_close(narrow(IMAGES), zeroed(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masked(vit, ("attention", 0), keep, 12), narrow(IMAGES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_joint_dimension_left_out_keeps_the_attentions_scale() -> None:
    vit, zeroed = model(), model()
    attn = zeroed.blocks[0].attn
    for row in (5, 17, 29):  # dimension 5 of q, k and v
        attn.qkv.weight[row] = 0
        attn.qkv.bias[row] = 0
    keep = torch.tensor([j for j in range(12) if j != 5])
    torch.testing.assert_close(masked(vit, ("attention", 0), keep, 12), zeroed(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_after_three_stages_the_weights_fit_a_stock_vit(kind: str) -> None:
    vit = model(kind)
    keep_residual(vit, torch.arange(8))
    new_head(vit, [1, 4])
    for block in vit.blocks:
        keep_attention(block.attn, torch.arange(3, 11))
        keep_ffn(block.mlp, torch.arange(32))
    made = type(vit)(
        img_size=16,
        patch_size=8,
        num_classes=3,
        embed_dim=8,
        depth=2,
        num_heads=2,
        **{
            "avg": {"global_pool": "avg", "class_token": False},
            "clip": {"pre_norm": True, "init_values": 0.5},
        }.get(kind, {}),
    ).eval()
    made.load_state_dict(vit.state_dict())
    torch.testing.assert_close(made(IMAGES), vit(IMAGES))


def test_heads_are_merged_from_consecutive_groups() -> None:
    scores = torch.tensor([9.0, 1, 2, 3, 8, 0, 0, 7, 6, 5, 4, 1])[:, None]  # 3 heads of 4 -> 2 of 4
    assert best_merged(scores, 2, 4).tolist() == [0, 2, 3, 4, 7, 8, 9, 10]


# --- importance -------------------------------------------------------------------------------------


@torch.no_grad()
def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    p, q = p.double().softmax(-1), q.double().softmax(-1)
    return (p * (p / q).log()).sum(-1).float()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_exact_importance_equals_a_plain_loop_over_rebuilt_models(kind: str) -> None:
    vit = model(kind)
    found, whole = kl_exact(vit, IMAGES), vit(IMAGES)
    for j in range(12):
        rest = torch.tensor([k for k in range(12) if k != j])
        narrow = copy.deepcopy(vit)
        keep_residual(narrow, rest)
        torch.testing.assert_close(found.residual[j], kl(whole, narrow(IMAGES)), rtol=1e-3, atol=1e-5)
        for i in range(2):
            zeroed = copy.deepcopy(vit)
            for row in (j, j + 12, j + 24):
                zeroed.blocks[i].attn.qkv.weight[row] = 0
                zeroed.blocks[i].attn.qkv.bias[row] = 0
            torch.testing.assert_close(found.attention[i][j], kl(whole, zeroed(IMAGES)), rtol=1e-3, atol=1e-5)
    for i in range(2):
        for j in range(48):
            narrow = copy.deepcopy(vit)
            keep_ffn(narrow.blocks[i].mlp, torch.tensor([k for k in range(48) if k != j]))
            torch.testing.assert_close(found.ffn[i][j], kl(whole, narrow(IMAGES)), rtol=1e-3, atol=1e-5)


def rank_agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    ranks = [np.argsort(np.argsort(x.numpy())) for x in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_fisher_is_half_of_the_second_derivative_by_finite_differences(kind: str) -> None:
    """KL(P || Q) of a mask of 1 - h is h^2 times the Fisher term, but for terms of a higher order."""
    vit, images, h = model(kind).double(), IMAGES.double(), 1e-4
    found, whole = kl_fisher(vit, images), tokens(vit, images)
    p = masked_logits(vit, whole, {}).log_softmax(-1)

    def divergence(key: Any, units: int, j: int, value: float) -> torch.Tensor:
        mask = torch.ones(len(images), units, dtype=torch.float64)
        mask[:, j] = value
        q = masked_logits(vit, whole, {key: mask}).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)

    for key, units, scores in (
        ("residual", 12, found.residual),
        (("attention", 1), 12, found.attention[1]),
        (("ffn", 0), 48, found.ffn[0]),
    ):
        for j in range(units):
            second = (divergence(key, units, j, 1 - h) + divergence(key, units, j, 1 + h)) / (2 * h**2)
            torch.testing.assert_close(scores[j].double(), second, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"pre_norm": True, "init_values": 0.5}])
def test_fisher_is_as_large_as_the_exact_kl_and_ranks_units_as_it_does(more: dict[str, Any]) -> None:
    torch.manual_seed(3)
    vit = VisionTransformer(
        img_size=16, patch_size=8, num_classes=5, embed_dim=48, depth=2, num_heads=3, **more
    ).eval()
    for weights in vit.parameters():
        weights.data.add_(0.05 * torch.randn_like(weights))
    images = torch.randn(32, 3, 16, 16)
    ones = torch.ones(32)
    exact, fisher = kl_exact(vit, images).summed(ones), kl_fisher(vit, images).summed(ones)
    kinds = [("residual", exact.residual, fisher.residual, 0.9)]
    kinds += [("attention", *pair, 0.85) for pair in zip(exact.attention, fisher.attention, strict=True)]
    kinds += [("ffn", *pair, 0.95) for pair in zip(exact.ffn, fisher.ffn, strict=True)]
    for kind, whole, approximate, agreement in kinds:
        assert rank_agreement(whole.flatten(), approximate.flatten()) > agreement, kind
        assert 0.8 < (approximate / whole).median() < 1.25, kind


# --- sizes of METHODS' table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "classes", "channels", "published"),
    [
        ([12], 10, 3, 327.38),
        ([12], 10, 1, 325.88),
        ([6], 10, 3, 82.71),
        ([4], 10, 3, 37.16),
        ([3], 10, 3, 21.13),
        ([2], 2, 3, 9.60),
        ([4, 4, 3], 10, 3, 95.45),
    ],
)
def test_published_sizes_in_mib_come_from_the_built_module(
    heads: list[int], classes: int, channels: int, published: float
) -> None:
    base = ViTShape(
        image_size=(224, 224), patch_size=16, channels=channels, classes=10, dim=768, depth=12, heads=12
    )
    total = 0
    for k in heads:
        with torch.device("meta"):
            module = sub_spec(base.spec(), 64 * k, k, classes).build()
        assert ViTShape.from_spec(sub_spec(base.spec(), 64 * k, k, classes)) == sub_shape(base, k, classes)
        total += sum(tensor.nbytes for tensor in module.state_dict().values())
    # a saved state dict has about 0.05 MiB of names and headers more
    assert 0 < published - total / 2**20 < 0.06 * len(heads)


# --- data -------------------------------------------------------------------------------------------


def test_classes_are_split_evenly_at_random() -> None:
    sizes = part_classes(10, 4)
    owned = class_partition(sizes, seed=0)
    assert sorted(c for own in owned for c in own) == list(range(10))
    assert sorted(map(len, owned)) == [2, 2, 3, 3]
    assert owned == class_partition(sizes, seed=0) != class_partition(sizes, seed=1)


def test_resampling_labels_own_classes_from_1_and_the_others_0() -> None:
    labels = np.repeat(np.arange(5), 40)
    data = ArraySplit(labels[:, None].astype(np.float32), labels)
    made, counts = resample(data, [1, 3], 5, None, seed=0)
    assert counts.tolist() == [2, 40, 2, 40, 2]  # 200 / (10 * 5) - 2
    truth = made.batch(range(len(made)))[:, 0]
    assert {(int(c), int(y)) for c, y in zip(truth, made.labels, strict=True)} == {
        (0, 0),
        (1, 1),
        (2, 0),
        (3, 2),
        (4, 0),
    }
    assert resample(data, [1, 3], 5, 7, seed=0)[1].tolist() == [7, 40, 7, 40, 7]


def test_averaged_softmax_takes_each_class_from_its_own_sub_model() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 2)
    out = Average([[0, 2], [1]])(a, b).exp()
    torch.testing.assert_close(out[:, 2], a.softmax(1)[:, 2])
    torch.testing.assert_close(out[:, 0], a.softmax(1)[:, 1])
    torch.testing.assert_close(out[:, 1], b.softmax(1)[:, 1])


# --- the whole method -------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["mlp", "average"])
def test_the_partitioner_keeps_its_contract(fusion: str) -> None:
    check_partitioner(EDVIT, {"parts": 2, "epochs": 1, "fusion_epochs": 1, "fusion": fusion, "proxy": 2})


def test_neurons_that_heads_do_not_divide_are_as_many_as_planned(tmp_path: Path) -> None:
    """139 neurons, of which 2 of 3 heads leave int(40 * 2.33) = 93 and not 92."""
    ctx = make_context(tmp_path, recipe={"epochs": 1})
    source = make_model(ctx, "vit", {"patch_size": 8, "dim": 60, "depth": 1, "heads": 3, "mlp_ratio": 2.33})
    params = plugin.EDViTParams(
        parts=1, epochs=0, fusion_epochs=0, importance="random", memory_budget_mb=0.07
    )
    sketch = EDVIT.sketch(source.spec, params, Fleet(devices=()))
    assert sketch.decisions["heads"] == [2]
    sub = EDVIT.partition(ctx, source, params, sketch).parts[0].module
    assert sub.blocks[0].mlp.fc1.out_features == 93
    assert sum(p.numel() for p in sub.parameters()) == sketch.parts[0].params


def test_retraining_trains_all_and_shares_the_sub_models(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, recipe={"epochs": 1})
    source = make_model(ctx)
    made, trained, fit = {}, [], ctx.fit

    def counted(*args: Any, name: str, **more: Any) -> Any:
        trained.append(name)
        return fit(*args, name=name, **more)

    ctx.fit = counted  # type: ignore[method-assign]
    for fusion in ("mlp", "retrain"):
        params = plugin.EDViTParams(
            parts=2, epochs=1, fusion_epochs=1, fusion=fusion, importance="kl-fisher", proxy=2
        )
        sketch = EDVIT.sketch(source.spec, params, Fleet(devices=()))
        made[fusion] = EDVIT.partition(ctx, source, params, sketch)
    stages = [f"sub{i}-{stage}" for i in (1, 2) for stage in ("residual", "attention", "ffn")]
    assert trained == [*stages, "fusion", "fusion", "retrain"]
    plain, retrained = made["mlp"], made["retrain"]
    assert retrained.lineage[-1].train_macs > plain.lineage[-1].train_macs
    for a, b in zip(plain.parts, retrained.parts, strict=True):
        assert a.spec == b.spec
        changed = [
            not torch.equal(x, y) for x, y in zip(a.module.parameters(), b.module.parameters(), strict=True)
        ]
        assert any(changed)


def test_a_class_without_images_is_named_with_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path, recipe={"epochs": 1})
    source = make_model(ctx)
    data, train = ctx.data, ctx.data.train
    kept = np.flatnonzero(np.asarray(train.labels) != 1)
    monkeypatch.setattr(type(ctx), "data", replace(data, train=subset(train, kept)))  # type: ignore[type-var]
    params = plugin.EDViTParams(parts=2, epochs=1)
    sketch = EDVIT.sketch(source.spec, params, Fleet(devices=()))
    with pytest.raises(ValueError, match=r"edvit, importance: class .* has no sample in the proxy slice"):
        EDVIT.partition(ctx, source, params, sketch)


@pytest.mark.parametrize(
    "params", [{"parts": 0}, {"parts": 2, "memory_budget_mb": 0}, {"parts": 2, "proxy": 0}]
)
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.EDViTParams(**params)


def test_a_factory_without_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"edvit cannot build a narrower model of torch.nn:Identity"):
        sub_spec(ModuleSpec(factory="torch.nn:Identity"), 8, 2, 3)


def test_timm_models_are_narrowed_by_timms_own_arguments() -> None:
    spec = ModuleSpec(
        factory=TIMM_FACTORY,
        params={
            "name": "deit_tiny_patch16_224",
            "classes": 5,
            "channels": 3,
            "image_size": [32, 32],
            "args": {},
            "drop_rate": None,
            "drop_path_rate": None,
        },
    )
    narrow = sub_spec(spec, 64, 1, 3).build()
    assert (narrow.embed_dim, narrow.blocks[0].attn.num_heads, narrow.num_classes) == (64, 1, 3)


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("edvit")

"""Tests of DeViT: division of classes, facts and errors of planning, and one whole run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel  # products, whose FLOPs every torch counts
from torch.utils.flop_counter import FlopCounterMode

from harness.testing import check_partitioner, check_plugin, make_context, make_model
from harness.types import Fleet, Model, ModuleSpec, Partition, TensorSpec
from harness_devit.partitioning import held_out, partition_classes
from harness_devit.plugin import DeViTParams, harness_partitioners
from harness_devit.sketch import group_sizes
from harness_timm.vit import TIMM_FACTORY, ViTShape

(ENTRY,) = harness_partitioners()
FLEET = Fleet(devices=())
SHAPE = ViTShape(image_size=(8, 8), patch_size=4, channels=1, classes=6, dim=16, depth=4, heads=4)
SIZES: dict[str, Any] = {"parts": 3, "dim": 8, "heads": 2}
STEPS: dict[str, Any] = {"teacher_stage": {"epochs": 1}, "sub_stage": {"epochs": 1}}


def timm_spec(name: str, classes: int = 6, size: int = 8, **args: Any) -> ModuleSpec:
    params = {"name": name, "classes": classes, "channels": 1, "image_size": [size, size], "drop_rate": None}
    return ModuleSpec(factory=TIMM_FACTORY, params={**params, "drop_path_rate": None, "args": args})


DISTILLED = timm_spec("deit_tiny_distilled_patch16_224", patch_size=4, embed_dim=16, depth=4, num_heads=4)
MEAN = ViTShape(**{**vars(SHAPE), "class_token": False}).spec()
TEACHERS = {"class token": SHAPE.spec(), "mean": MEAN, "two tokens": DISTILLED}


def model(spec: ModuleSpec) -> Model:
    torch.manual_seed(0)
    return Model(module=spec.build().eval(), spec=spec, input=TensorSpec(shape=(1, 8, 8)), classes=6)


def dekd(tmp_path: Path, spec: ModuleSpec = MEAN, seed: int = 0, **params: Any) -> Partition:
    ctx = make_context(tmp_path, classes=6, shape=(1, 8, 8), train=48, test=12, seed=seed)
    given = DeViTParams(**{**SIZES, **STEPS, **params})
    return ENTRY.partition(ctx, model(spec), given, ENTRY.sketch(spec, given, FLEET))


def run(made: Partition, images: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {"image": images}
    with torch.no_grad():
        for part in made.parts:
            values[part.name] = part.module.eval()(*(values[edge.source] for edge in part.inputs))
    return values


# --- (1) data partition ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "parts", "sizes"), [(10, 4, [3, 3, 2, 2]), (9, 3, [3, 3, 3]), (7, 1, [7])]
)
def test_every_class_is_in_one_group_and_sizes_are_those_of_eq_4(
    classes: int, parts: int, sizes: list[int]
) -> None:
    groups = partition_classes(group_sizes(classes, parts), seed=0)
    assert [len(group) for group in groups] == sizes
    assert sorted(label for group in groups for label in group) == list(range(classes))
    others = {partition_classes(sizes, seed) for seed in range(5)}
    assert parts == 1 or len(others) > 1


def test_held_out_images_are_some_of_each_class_and_never_all() -> None:
    labels = np.array([0] * 20 + [1] * 2 + [2] * 5)
    positions = held_out(labels, 0.2, seed=0)
    assert np.bincount(labels[positions]).tolist() == [4, 1, 1]
    assert np.bincount(labels[held_out(labels, 0.99, seed=0)]).tolist() == [19, 1, 4]
    assert held_out(np.array([0, 0, 1]), 0, seed=0).tolist() == []
    with pytest.raises(ValueError, match="class 1 of a part has 1 training image"):
        held_out(np.array([0, 0, 1]), 0.2, seed=0)


# --- what planning knows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "params"),
    [
        ("class token", {}),
        ("mean", {"fa": "paper"}),
        ("two tokens", {}),
        ("two tokens", {"fusion": "attention"}),
        ("class token", {"fusion": "senet"}),
        ("mean", {"fusion": "mlp", "width": 5}),
    ],
    ids=str,
)
def test_the_sketch_tells_what_the_parts_are(tmp_path: Path, teacher: str, params: dict[str, Any]) -> None:
    spec = TEACHERS[teacher]
    given = DeViTParams(**{**SIZES, **params})
    sketch = ENTRY.sketch(spec, given, FLEET)
    stages = {name: {"epochs": 0} for name in ("teacher_stage", "sub_stage", "ensemble_stage")}
    made = dekd(tmp_path, spec, **{**params, **stages})
    values = run(made, torch.randn(2, 1, 8, 8))
    assert [part.name for part in sketch.parts] == ["sub1", "sub2", "sub3", "fusion"]
    for planned, part in zip(sketch.parts, made.parts, strict=True):
        inputs = [values[name] for name in planned.inputs]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            part.module(*inputs)
        assert planned.params == sum(p.numel() for p in part.module.parameters())
        assert planned.weight_bytes == sum(t.nbytes for t in part.module.state_dict().values())
        assert planned.macs == counter.get_total_flops() // 4  # two images, two operations
        assert planned.output_bytes == values[part.name].nbytes // 2
        assert tuple(values[part.name].shape[1:]) == part.output.shape
    assert values["fusion"].shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [
        ("vit_large_patch16_224", {}, 22.988),
        ("vit_large_patch16_224", {"fa": "paper"}, 23.75),
        ("deit_base_distilled_patch16_224", {"width": 1024}, 23.879),
    ],
)
def test_published_parameter_counts(name: str, sizes: dict[str, Any], millions: float) -> None:
    """Tables III to V publish 23.0 M and 23.9 M, the counts for 100 classes and the published code's FA."""
    spec = timm_spec(name, classes=100, size=224)
    spec = ModuleSpec(factory=spec.factory, params={**spec.params, "channels": 3})
    params = DeViTParams(parts=4, dim=192, heads=3, depth=12, **sizes)
    total = sum(part.params for part in ENTRY.sketch(spec, params, FLEET).parts)
    assert total / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"parts": 7}, "parts: 7 is more than the 6 classes"),
        ({"parts": 4}, r"parts: 4 of 6 classes leaves a part with one.*allowed: 1 to 3"),
        ({"heads": 3}, "dim: 8 is not a multiple of heads: 3"),
        ({"dim": 20}, "dim: 20 is more than the teacher's 16"),
        ({"heads": 8}, "heads: 8 is more than the teacher's 4"),
        ({"dim": 16}, "dim / heads: 8 is more than the teacher's 4"),
        ({"mlp_ratio": 9.0}, "mlp_ratio x dim: 72 is more than the teacher's 64"),
        ({"depth": 5}, "depth: 5 is more than the teacher's 4"),
        ({"heads": 8, "init": "random", "fm": "paper"}, "heads: 8 is more than the teacher's 4"),
    ],
)
def test_what_cannot_be_is_refused_when_planning(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENTRY.sketch(SHAPE.spec(), DeViTParams(**{**SIZES, **params}), FLEET)


@pytest.mark.parametrize("spec", [None, timm_spec("resnet18"), ModuleSpec(factory="torch.nn:Linear")])
def test_a_teacher_of_unknown_family_is_refused_when_planning(spec: ModuleSpec | None) -> None:
    with pytest.raises(ValueError, match="devit cannot tell the dimensions of"):
        ENTRY.sketch(spec, DeViTParams(**SIZES), FLEET)


def test_a_random_start_may_be_wider_than_the_teacher() -> None:
    params = DeViTParams(parts=3, dim=32, heads=2, init="random")
    assert ENTRY.sketch(SHAPE.spec(), params, FLEET).parts[0].output_bytes == 4 * 32


@pytest.mark.parametrize(
    "params",
    [
        {"parts": 0},
        {"sub_losses": ["feature"]},
        {"sub_losses": ["truth", "prediction"]},
        {"ensemble_losses": ["token"]},
        {"ensemble_losses": ["truth", "feature"]},
        {"alpha": [0.1, -0.1, 0.1]},
        {"fusion": "sum"},
        {"held_out": 0},
        {"held_out": 0, "importance": "hsic"},
        {"held_out": 1},
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeViTParams(**{**SIZES, **params})


# --- the whole ------------------------------------------------------------------------------------


def test_all_sub_models_are_trained_in_the_ensemble_stage(tmp_path: Path) -> None:
    before = dekd(tmp_path / "a", ensemble_stage={"epochs": 0})
    after = dekd(tmp_path / "b", ensemble_stage={"epochs": 1})
    for mine, theirs in zip(before.parts, after.parts, strict=True):
        one, two = mine.module.state_dict(), theirs.module.state_dict()
        assert any(not torch.equal(one[name], two[name]) for name in one), mine.name


def test_rows_of_an_ablation_share_their_sub_teachers(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, classes=6, shape=(1, 8, 8), train=48, test=12)
    source, asked = model(MEAN), []
    fit = ctx.fit

    def counted(module: Any, *, name: str, **given: Any) -> Any:
        asked.append(name)
        return fit(module, name=name, **given)

    lab: Any = SimpleNamespace(
        data=ctx.data,
        seed=0,
        device="cpu",
        workdir=ctx.workdir,
        fit=counted,
        once=ctx.once,
        evaluate=ctx.evaluate,
    )
    for losses in (["prediction", "feature"], ["truth"]):
        params = DeViTParams(**SIZES, **STEPS, sub_losses=losses, ensemble_stage={"epochs": 0})
        made = ENTRY.partition(lab, source, params, ENTRY.sketch(MEAN, params, FLEET))
        assert [step.entry for step in made.lineage] == ["devit-teacher"] * 3 + ["devit"]
    assert sorted(name for name in asked if name.startswith("teacher")) == [
        "teacher-sub1",
        "teacher-sub2",
        "teacher-sub3",
    ]
    assert asked.count("distil-sub1") == 2


def test_the_lineage_counts_the_teachers_passes(tmp_path: Path) -> None:
    with_teacher = dekd(tmp_path / "a", sub_stage={"epochs": 1}, ensemble_stage={"epochs": 0})
    alone = dekd(tmp_path / "b", sub_losses=["truth"], ensemble_stage={"epochs": 0})
    teacher = ViTShape(**{**vars(SHAPE), "class_token": False, "classes": 2})
    extra = with_teacher.lineage[-1].train_macs - alone.lineage[-1].train_macs
    assert extra == with_teacher.lineage[-1].image_passes * teacher.macs()


@pytest.mark.parametrize(
    ("params", "data"),
    [
        ({}, "train"),
        ({"importance": "hsic"}, "train"),
        ({"importance": "random"}, None),
        ({"init": "random"}, None),
    ],
    ids=str,
)
def test_the_lineage_tells_what_importance_was_taken_on(
    params: dict[str, Any], data: str | None, tmp_path: Path
) -> None:
    stages = {name: {"epochs": 0} for name in ("teacher_stage", "sub_stage", "ensemble_stage")}
    notes = dekd(tmp_path, **stages, **params).lineage[-1].notes
    assert notes["data_used_for_importance"] == data
    assert [part["held_out_images"] for part in notes["parts"]] == [2] * 3


@pytest.mark.parametrize("start", [{"init": "random"}, {"importance": "random"}], ids=str)
def test_sub_teachers_see_all_images_where_no_importance_is_measured(
    start: dict[str, Any], tmp_path: Path
) -> None:
    made = dekd(tmp_path, held_out=0, ensemble_stage={"epochs": 0}, **start)
    *teachers, step = made.lineage
    assert [part["held_out_images"] for part in step.notes["parts"]] == [0] * 3
    assert [teacher.image_passes for teacher in teachers] == [
        14
    ] * 3  # 42 images, one epoch; 6 are for validation


def test_the_source_is_left_as_it_was(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, classes=6, shape=(1, 8, 8), train=48, test=12)
    source = model(DISTILLED)
    before = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    params = DeViTParams(**SIZES, **STEPS)
    ENTRY.partition(ctx, source, params, ENTRY.sketch(DISTILLED, params, FLEET))
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.module.state_dict().items())
    assert not any(module._forward_hooks for module in source.module.modules())


@pytest.mark.parametrize("params", [{}, {"fm": "paper", "fa": "paper", "importance": "random"}], ids=str)
def test_the_entry_keeps_the_contracts(params: dict[str, Any], tmp_path: Path) -> None:
    source = make_model(
        make_context(tmp_path, classes=4), "vit", {"patch_size": 8, "dim": 16, "depth": 2, "heads": 2}
    )
    check_partitioner(ENTRY, {"parts": 2, "dim": 8, "heads": 1, **STEPS, **params}, source, classes=4)


def test_the_plugin_keeps_the_contracts() -> None:
    check_plugin("devit")

"""Tests of class-split: the images of each sub-model, equal compute, the two fusions by hand, and the oracle."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.data.opened import open_data
from harness.methods import class_groups, own_images, subset
from harness.plugins import load_plugins
from harness.store.saved import load_partition
from harness.testing import check_partitioner, make_context, make_model
from harness.types import Fleet, Lineage, Model, Partition, TensorSpec
from harness.types.data import DataChoice
from harness_baselines.class_split import averaged_softmax, probe
from harness_baselines.plugin import harness_partitioners
from harness_baselines.sketch import group_sizes
from harness_timm.vit import ViTShape

ENTRY = {entry.name: entry for entry in harness_partitioners()}["class-split"]
IMAGE = TensorSpec(shape=(1, 16, 16))
SMALL: dict[str, Any] = {"parts": 2, "dim": 12, "depth": 2, "heads": 2}


class Spy:
    """The real context; what each training was given and left is kept."""

    def __init__(self, ctx: Any) -> None:
        self._ctx, self.fits = ctx, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def fit(self, module: torch.nn.Module, *, name: str, data: Any, **more: Any) -> Any:
        done = self._ctx.fit(module, name=name, data=data, **more)
        weights = {key: value.clone() for key, value in module.state_dict().items()}
        self.fits[name] = {"data": data, "weights": weights, "fit": done}
        return done


def split(tmp_path: Path, spent: int = 60_000_000, **params: Any) -> tuple[Spy, Partition]:
    """Seven classes in two groups; the source cost ``spent`` MACs."""
    ctx = Spy(make_context(tmp_path, classes=7, train=160))
    shape = ViTShape(image_size=(16, 16), patch_size=4, channels=1, classes=7, dim=24, depth=3, heads=3)
    step = Lineage(stage="build", entry="vit", params={}, train_macs=spent)
    source = Model(module=shape.spec().build(), spec=shape.spec(), input=IMAGE, classes=7, lineage=(step,))
    checked = ENTRY.params(**{**SMALL, **params})
    sketch = ENTRY.sketch(source.spec, checked, Fleet(devices=()))
    return ctx, ENTRY.partition(ctx, source, checked, sketch)


def forward_macs(module: torch.nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        module.eval()(*inputs)
    return counter.get_total_flops() // 2


# --- groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "parts"), [(4, 2), (7, 3), (10, 4), (100, 7)])
def test_groups_are_a_random_partition_of_sizes_that_differ_by_one_at_most(classes: int, parts: int) -> None:
    def groups_of(seed: int) -> tuple[tuple[int, ...], ...]:
        return class_groups(group_sizes(classes, parts), np.random.RandomState(seed))

    groups = groups_of(3)
    assert len(groups) == parts
    assert sorted(c for group in groups for c in group) == list(range(classes))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert groups == groups_of(3)
    assert any(groups != groups_of(seed) for seed in (4, 5, 6))


def test_each_sub_model_is_trained_on_its_own_classes_alone(tmp_path: Path) -> None:
    ctx, made = split(tmp_path)
    groups = made.lineage[-1].notes["classes"]
    train = ctx.data.train
    for i, group in enumerate(groups, 1):
        seen = ctx.fits[f"sub{i}"]["data"]
        own = [n for n in range(len(train)) if train.labels[n] in group]
        assert [group[label] for label in seen.labels] == [int(train.labels[n]) for n in own]
        np.testing.assert_array_equal(seen.batch([0, 1]), train.batch(own[:2]))
        assert made.parts[i - 1].output.shape == (len(group),)
    heads = [part.module.patch_embed.proj.weight for part in made.parts[:-1]]
    assert not torch.equal(*heads)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    train = make_context(tmp_path, classes=4).data.train
    short = subset(train, np.flatnonzero(np.asarray(train.labels) != 2))
    with pytest.raises(ValueError, match="class-split: class 2 has no training image"):
        own_images(short, (1, 2), needed_by="class-split")


# --- equal compute ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["average", "probe"])
def test_all_trainings_together_spend_the_sources_compute(fusion: str, tmp_path: Path) -> None:
    """The expected compute is the passes of the training loop times the MACs that torch counts."""
    target = 60_000_000
    ctx, made = split(tmp_path, target, fusion=fusion, probe_epochs=3)
    (step,) = made.lineage
    image, n = torch.zeros(1, 1, 16, 16), len(ctx.data.train)
    sizes = [len(group) for group in step.notes["classes"]]
    trained = [
        ViTShape(image_size=(16, 16), patch_size=4, channels=1, classes=k, dim=12, depth=2, heads=2)
        for k in sizes
    ]
    macs = [forward_macs(shape.spec().build(), image) for shape in trained]
    spent = sum(ctx.fits[f"sub{i}"]["fit"].image_passes * m for i, m in enumerate(macs, 1))
    if fusion == "probe":
        assert ctx.fits["fusion"]["fit"].epochs == 3
        bare = [forward_macs(part.module, image) for part in made.parts[:-1]]
        spent += n * sum(bare) + 3 * n * 24 * 7
    assert step.train_macs == step.notes["spent_macs"] == spent
    epochs = [len(ctx.fits[f"sub{i}"]["data"]) * m for i, m in enumerate(macs, 1)]
    assert abs(spent - target) <= sum(epochs) / 2 + 2
    assert step.notes["ratio"] == spent / target


def test_an_untrained_source_sets_no_budget(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not trained"):
        split(tmp_path, spent=0)


# --- fusions ------------------------------------------------------------------------------------------


def test_averaged_softmax_by_hand() -> None:
    """With the groups {2, 0} and {1, 3, 4}, class 0 is output 2 of the first, and class 3 is output 2 of the second."""
    first, second = [0.0, math.log(3.0)], [math.log(2.0), math.log(5.0), 0.0]
    want = [3 / 4, 2 / 8, 1 / 4, 5 / 8, 1 / 8]
    fusion = averaged_softmax(groups=[[2, 0], [1, 3, 4]])
    got = fusion(torch.tensor([first]), torch.tensor([second]))
    torch.testing.assert_close(got.exp(), torch.tensor([want]))


def test_probe_by_hand() -> None:
    fusion = probe(features=3, classes=2)
    with torch.no_grad():
        fusion.linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]]))
        fusion.linear.bias.copy_(torch.tensor([0.1, -0.2]))
    got = fusion(torch.tensor([[1.0]]), torch.tensor([[10.0, 100.0]]))
    torch.testing.assert_close(got, torch.tensor([[1 + 20 + 300 + 0.1, -1 + 5 - 0.2]]))


def test_the_probe_learns_from_frozen_features(tmp_path: Path) -> None:
    ctx, made = split(tmp_path, fusion="probe", probe_epochs=3)
    features = []
    images = torch.from_numpy(ctx.data.train.batch(range(len(ctx.data.train))))
    for i, part in enumerate(made.parts[:-1], 1):
        for name, weight in part.module.state_dict().items():  # as its own training left it, but for the head
            assert torch.equal(weight, ctx.fits[f"sub{i}"]["weights"][name])
        with torch.no_grad():
            features.append(part.module.eval()(images))
    given = ctx.fits["fusion"]["data"]
    np.testing.assert_allclose(given.arrays, torch.cat(features, 1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(given.labels, ctx.data.train.labels)
    assert made.groups == ()  # an answer of all sub-models together has no right one


@pytest.mark.parametrize("fusion", ["average", "probe"])
def test_the_partitioner_keeps_its_contract(fusion: str) -> None:
    check_partitioner(ENTRY, {**SMALL, "fusion": fusion}, classes=5)


def test_the_source_may_be_any_vit_that_was_trained(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, classes=4)
    source = make_model(ctx)
    params = ENTRY.params(**SMALL, fusion="probe")
    made = ENTRY.partition(ctx, source, params, ENTRY.sketch(source.spec, params, Fleet(devices=())))
    assert made.lineage[0].notes["target_macs"] == source.lineage[0].train_macs


def test_planning_knows_how_to_build_a_probe_but_not_an_order_that_is_drawn(tmp_path: Path) -> None:
    for fusion, known in (("probe", True), ("average", False)):
        _, made = split(tmp_path / fusion, fusion=fusion, probe_epochs=1)
        shape = ViTShape(image_size=(16, 16), patch_size=4, channels=1, classes=7, dim=24, depth=3, heads=3)
        planned = ENTRY.sketch(shape.spec(), ENTRY.params(**SMALL, fusion=fusion), Fleet(devices=())).parts[
            -1
        ]
        assert planned.spec == (made.parts[-1].spec if known else None)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "parts", "message"),
    [
        (7, 4, "parts: 4 groups of two classes at least need 8 classes, there are 7; allowed are 2 to 3"),
        (3, 2, "there are 3; nothing is allowed"),
    ],
)
def test_groups_of_one_class_are_refused_when_planning(classes: int, parts: int, message: str) -> None:
    shape = ViTShape(image_size=(16, 16), patch_size=4, channels=1, classes=classes, dim=24, depth=3, heads=3)
    with pytest.raises(ValueError, match=message):
        ENTRY.sketch(shape.spec(), ENTRY.params(**{**SMALL, "parts": parts}), Fleet(devices=()))


@pytest.mark.parametrize("wrong", [{"parts": 1}, {"parts": 0}, {"fusion": "oracle"}, {"probe_epochs": 0}])
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENTRY.params(**{**SMALL, **wrong})


def test_a_partition_whose_groups_miss_a_class_is_refused(tmp_path: Path) -> None:
    _, made = split(tmp_path)
    with pytest.raises(ValueError, match="groups: each of the 7 classes stands in one group"):
        Partition(parts=made.parts, classes=7, groups=((0, 1, 2), (3, 4, 5)))


# --- the oracle, through a whole run ------------------------------------------------------------------

SUITE = """
suite: tiny
data: {name: digits, image_size: 16}
prepare: {jobs: 1}
defaults: {train: {epochs: 4, lr: 4.0e-3, batch_size: 64}, runtime: torch}
measure: {min_time: 20ms, min_queries: 11, max_time: 2s}
methods:
  vit: {build: {vit: {patch_size: 4, dim: 24, depth: 2, heads: 2, class_token: false}}}
  split: {from: vit, partition: {class-split: {parts: 3, dim: 12, depth: 2, heads: 2}}}
  vgg: {build: {vgg: {stages: [[8], [16]]}}, train: {epochs: 2}}
  facets:
    from: vgg
    partition: {nnfacet: {parts: 3, epochs: 2, fusion_epochs: 4, hidden: 32}}
    runtime: onnxruntime
devices: {here: {backend: cpu}}
run: [{methods: [vit, split, facets], devices: [here]}]
baseline: vit
"""


@pytest.mark.e2e
def test_through_a_suite_and_the_oracle_is_each_sub_model_on_its_own_classes(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SUITE)
    variables = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "harness", "run", "tiny.yaml", "--out", "out", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    (board,) = json.loads(ran.stdout)["boards"]
    row = {row["method"]: row for row in board["rows"]}
    assert row["vit"]["top1_oracle"] is None
    assert "one sub-model" in row["vit"]["why"]["top1_oracle"]
    assert row["split"]["top1_oracle"] > row["split"]["top1"]
    assert row["facets"]["top1"] > 30  # chance is 10
    assert row["facets"]["status"] == "ok"
    assert [row["method"] for row in board["rows"]] == sorted(row, key=lambda name: -row[name]["top1"])

    # each sub-model alone, on the test images of its own classes
    metas = [path for path in (tmp_path / "cache").rglob("meta.json") if '"class-split"' in path.read_text()]
    (folder,) = [path.parent for path in metas if json.loads(path.read_text())["kind"] == "partition"]
    made = load_partition(folder)
    entry = load_plugins().datasets.get("digits").entry
    test = open_data(entry, entry.params(), DataChoice(name="digits", image_size=16)).test
    right = 0
    for part, group in zip(made.parts, made.groups, strict=False):
        own = np.flatnonzero(np.isin(test.labels, group))
        with torch.no_grad():
            answers = part.module.eval()(torch.from_numpy(test.batch(own))).argmax(1).numpy()
        right += int((np.array(group)[answers] == test.labels[own]).sum())
    assert row["split"]["top1_oracle"] == pytest.approx(100 * right / len(test), abs=100 / len(test))

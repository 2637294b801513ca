"""Tests of EdgeViT: the tensors that each variant transfers and trains, its counts, and its rebuilding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from harness.testing import check_compressor, check_plugin
from harness.types import DataInfo, FitResult, Lineage, Model, ModuleSpec, Split, TensorSpec
from harness_edgevit.plugin import EdgeViTParams, compress, describe, harness_compressors
from harness_timm.vit import TIMM_FACTORY, ViTShape

SHAPE = ViTShape(
    image_size=(8, 8), patch_size=4, channels=1, classes=5, dim=12, depth=4, heads=2, drop_path_rate=0.2
)
MEAN = ViTShape(**{**vars(SHAPE), "class_token": False})
CLOUD_STEP = Lineage(stage="build", entry="vit", params={}, image_passes=100, train_macs=1000)


def timm_spec(name: str, **args: Any) -> ModuleSpec:
    params = {"name": name, "classes": 5, "channels": 1, "image_size": [8, 8], "drop_rate": 0.0}
    args = {"patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2, **args}
    return ModuleSpec(factory=TIMM_FACTORY, params={**params, "drop_path_rate": 0.2, "args": args})


DISTILLED = timm_spec("deit_tiny_distilled_patch16_224")
NORM_THEN_MEAN = timm_spec("vit_tiny_patch16_224", global_pool="avg", fc_norm=False)


class Images:
    """Images of one class share a pattern."""

    def __init__(self, n: int, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.labels: NDArray[np.int64] = rng.integers(0, classes, n)
        patterns = np.random.default_rng(1).normal(size=(classes, 1, 8, 8))
        self.images = (patterns[self.labels] + rng.normal(size=(n, 1, 8, 8))).astype(np.float32)

    def batch(self, indices: Any) -> NDArray[np.float32]:
        return self.images[indices]

    def __len__(self) -> int:
        return len(self.labels)


class Data:
    def __init__(self, classes: int = 3, n: int = 24, validation: int = 6) -> None:
        names = tuple("abcdefgh"[:classes])
        self.info = DataInfo(
            name="toy", shape=(1, 8, 8), class_names=names, sizes={}, mean=(0.5,), std=(0.5,)
        )
        self.train, self.validation = Images(n, classes, 0), Images(validation, classes, 2)
        self.test = Images(6, classes, 3)


class Lab:
    """A context whose ``fit`` does full-batch SGD; it remembers what it was asked and what was trainable."""

    def __init__(self, data: Data, epochs: int = 3, seed: int = 0) -> None:
        self.data, self.epochs, self.seed, self.device = data, epochs, seed, "cpu"
        self.workdir, self.workers = Path(), 0
        self.asked: list[Mapping[str, Any]] = []

    def fit(
        self,
        module: nn.Module,
        *,
        data: Split | None = None,
        validation: Split | None = None,
        name: str = "fit",
        **overrides: Any,
    ) -> FitResult:
        trainable = {key.removeprefix("vit.") for key, p in module.named_parameters() if p.requires_grad}
        self.asked.append(
            {"name": name, "trainable": trainable, "data": data, "validation": validation, **overrides}
        )
        split: Split = data or self.data.train
        x, y = torch.from_numpy(split.batch(np.arange(len(split)))), torch.from_numpy(split.labels)
        weights = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
        module.train()
        torch.manual_seed(self.seed)
        history = []
        for _ in range(self.epochs):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(x), y)
            loss.backward()
            optimizer.step()
            history.append({"loss": loss.item()})
        module.eval()
        passes = self.epochs * len(split)
        return FitResult(
            image_passes=passes,
            train_macs=passes * 7,
            train_s=1.0,
            epochs=self.epochs,
            history=tuple(history),
        )

    def evaluate(self, module: nn.Module, data: Split | None = None) -> Any:
        raise AssertionError("edgevit evaluates nothing")

    once = evaluate

    def progress(self, text: str, fraction: float | None = None) -> None:
        pass


def cloud(spec: ModuleSpec | None = None) -> Model:
    """Return a CloudViT in which every tensor differs from its initialisation."""
    spec = spec or SHAPE.spec()
    module = spec.build().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Model(
        module=module, spec=spec, input=TensorSpec(shape=(1, 8, 8)), classes=5, lineage=(CLOUD_STEP,)
    )


def edge(lab: Lab, source: Model, **params: Any) -> Model:
    return compress(lab, source, EdgeViTParams(**{"blocks": 2, **params}))


def equal_parts(a: nn.Module, b: nn.Module) -> set[str]:
    """Return the parts of the paper whose tensors are equal in both models, or missing in ``a``."""
    left, right = a.state_dict(), b.state_dict()
    part = {"norm": "norm", "fc_norm": "norm", "head": "head", "head_dist": "head"}
    differing = {
        part.get(name.split(".")[0], "trunk")
        for name in left
        if name not in right or not torch.equal(left[name], right[name])
    }
    return {"trunk", "norm", "head"} - differing


LN, HEAD = {"norm.weight", "norm.bias"}, {"head.weight", "head.bias"}

ARMS = [
    ("ViT-f2-1", {"layer_norm": "transfer"}, LN | HEAD),
    ("ViT-f2-2", {"layer_norm": "transfer", "train_layer_norm": False}, HEAD),
    ("ViT-f2-3", {"train_layer_norm": False}, HEAD),
    ("ViT-f2-4", {}, LN | HEAD),
]


# --- Table 2's arms and Table 3's modes ----------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("arm", "params", "trainable"), ARMS)
def test_each_arm_trains_its_part_and_nothing_else(
    arm: str, params: dict[str, Any], trainable: set[str], cache: bool
) -> None:
    source, lab = cloud(), Lab(Data())
    made = edge(lab, source, cache=cache, **params)
    assert lab.asked[0]["trainable"] == trainable
    assert made.lineage[-1].notes["arm"] == arm
    held = equal_parts(made.module, source.module)
    assert "trunk" in held
    assert ("norm" in held) == (arm == "ViT-f2-2")
    state = made.module.state_dict()
    reinitialised = bool((state["norm.weight"] == 1).all() and (state["norm.bias"] == 0).all())
    assert reinitialised == (arm == "ViT-f2-3")
    assert all(parameter.requires_grad for parameter in made.module.parameters())


@pytest.mark.parametrize("params", [{"train": "head"}, {"train": "all"}])
@pytest.mark.parametrize("layer_norm", ["reinit", "transfer"])
def test_training_starts_from_the_transferred_weights(params: dict[str, Any], layer_norm: str) -> None:
    source = cloud()
    made = edge(Lab(Data(), epochs=0), source, layer_norm=layer_norm, **params)
    held = equal_parts(made.module, source.module)
    assert held == ({"trunk", "norm"} if layer_norm == "transfer" else {"trunk"})
    if layer_norm == "reinit":
        assert bool((made.module.norm.weight == 1).all() and (made.module.norm.bias == 0).all())


def test_all_trains_everything_from_the_clouds_weights() -> None:
    source, lab = cloud(), Lab(Data())
    made = edge(lab, source, train="all")
    assert lab.asked[0]["trainable"] == {name for name, _ in made.module.named_parameters()}
    assert equal_parts(made.module, source.module) == set()
    assert [step.entry for step in made.lineage] == ["vit", "edgevit"]
    assert made.lineage[-1].notes["arm"] == "ViT-f2-T"


def test_scratch_owes_the_cloud_nothing() -> None:
    lab = Lab(Data(), epochs=0)
    one, two = edge(lab, cloud(), train="scratch"), edge(lab, cloud(DISTILLED), train="head")
    assert lab.asked[0]["trainable"] == {name for name, _ in one.module.named_parameters()}
    given, own = cloud().module.state_dict(), one.module.state_dict()
    assert not any(name in given and torch.equal(own[name], given[name]) for name in own)
    assert [step.entry for step in one.lineage] == ["edgevit"]
    assert one.lineage[-1].notes["arm"] == "ViT-n2"
    assert len(two.lineage) == 2


def test_the_new_head_follows_the_seed() -> None:
    heads = [edge(Lab(Data(), epochs=0, seed=seed), cloud()).module.head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_source_is_left_as_it_was() -> None:
    source = cloud()
    before = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    edge(Lab(Data()), source, train="all")
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.module.state_dict().items())


# --- frozen features -----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SHAPE.spec(), MEAN.spec(), DISTILLED, NORM_THEN_MEAN])
def test_training_on_cached_features_equals_training_through_the_frozen_trunk(spec: ModuleSpec) -> None:
    cached, through = Lab(Data()), Lab(Data())
    a, b = edge(cached, cloud(spec)), edge(through, cloud(spec), cache=False)
    for name, tensor in a.module.state_dict().items():
        torch.testing.assert_close(tensor, b.module.state_dict()[name], rtol=1e-4, atol=1e-6)
    images = torch.from_numpy(cached.data.test.images)
    torch.testing.assert_close(a.module.eval()(images), b.module.eval()(images), rtol=1e-4, atol=1e-5)
    assert equal_parts(a.module, edge(Lab(Data(), epochs=0), cloud(spec)).module) == {"trunk"}


def test_cached_training_reads_one_feature_per_image_and_no_augmentation() -> None:
    lab = Lab(Data(n=24, validation=6))
    edge(lab, cloud())
    asked = lab.asked[0]
    assert asked["augment"] == "none"
    assert asked["data"].batch(np.arange(24)).shape == (24, 1, 12)
    assert asked["validation"].batch(np.arange(6)).shape == (6, 1, 12)
    assert (asked["data"].labels == lab.data.train.labels).all()


def test_uncached_training_leaves_data_and_augmentation_to_the_recipe() -> None:
    lab = Lab(Data())
    made = edge(lab, cloud(), cache=False)
    assert lab.asked[0]["data"] is None
    assert "augment" not in lab.asked[0]
    assert made.lineage[-1].notes["features_cached"] is False


@pytest.mark.parametrize("params", [{}, {"cache": False}, {"train": "all"}, {"train": "scratch"}])
def test_the_history_of_all_epochs_is_noted(params: dict[str, Any]) -> None:
    """Fig. 3 is drawn from it."""
    lab = Lab(Data(), epochs=5)
    history = edge(lab, cloud(), **params).lineage[-1].notes["history"]
    losses = [epoch["loss"] for epoch in history]
    assert len(losses) == 5
    assert len(set(losses)) == 5


def test_an_empty_validation_split_is_fine() -> None:
    lab = Lab(Data(validation=0))
    edge(lab, cloud())
    assert lab.asked[0]["validation"] is None


def test_lineage_counts_the_pass_through_the_trunk_once_per_image() -> None:
    n, epochs = 24, 3
    step = edge(Lab(Data(n=n), epochs=epochs), cloud()).lineage[-1]
    shape = SHAPE.truncated(2, 3)
    head = shape.dim * shape.classes
    assert step.image_passes == n + epochs * n
    assert step.train_macs == n * (shape.macs() - head) + epochs * n * 7  # the lab's fit counts 7 per pass
    assert step.params["blocks"] == 2
    json.dumps([step.params, step.notes])


# --- what comes out, and what is refused -----------------------------------------------------------


@pytest.mark.parametrize("spec", [SHAPE.spec(), MEAN.spec(), DISTILLED, timm_spec("deit_tiny_patch16_224")])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_result_is_for_the_targets_classes_and_rebuilt_from_its_spec(
    spec: ModuleSpec, classes: int
) -> None:
    lab = Lab(Data(classes=classes))
    made = edge(lab, cloud(spec))
    params = json.loads(json.dumps(made.spec.params))
    rebuilt = ModuleSpec(factory=made.spec.factory, params=params).build().eval()
    rebuilt.load_state_dict(made.module.state_dict())
    images = torch.from_numpy(lab.data.test.images)
    assert torch.equal(rebuilt(images), made.module.eval()(images))
    assert rebuilt(images).shape == (6, classes)
    assert made.classes == classes
    assert made.spec == describe(spec, EdgeViTParams(blocks=2), lab.data.info)


def test_it_chains() -> None:
    lab = Lab(Data())
    twice = edge(lab, edge(lab, cloud(), blocks=3), blocks=1, train="all")
    assert len(twice.module.blocks) == 1
    assert [step.entry for step in twice.lineage] == ["vit", "edgevit", "edgevit"]


def test_blocks_beyond_the_depth_are_refused_when_planning_and_when_run() -> None:
    message = "blocks: 8 is beyond the model's depth of 4"
    with pytest.raises(ValueError, match=message):
        describe(SHAPE.spec(), EdgeViTParams(blocks=8), Data().info)
    with pytest.raises(ValueError, match=message):
        edge(Lab(Data()), cloud(DISTILLED), blocks=8)


def test_images_unlike_the_sources_are_refused_when_planning_and_when_run() -> None:
    shape = ViTShape(**{**vars(SHAPE), "channels": 3})
    message = r"images of shape \(3, 8, 8\), but those of 'toy' are \(1, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        describe(shape.spec(), EdgeViTParams(blocks=2), Data().info)
    module = shape.spec().build()
    source = Model(module=module, spec=shape.spec(), input=TensorSpec(shape=(3, 8, 8)), classes=5)
    with pytest.raises(ValueError, match=message):
        edge(Lab(Data()), source)


def test_another_family_is_refused() -> None:
    source = Model(
        module=nn.Linear(2, 2),
        spec=ModuleSpec(factory="torch.nn:Linear"),
        input=TensorSpec(shape=(1, 8, 8)),
        classes=2,
    )
    with pytest.raises(ValueError, match="edgevit needs a timm VisionTransformer"):
        edge(Lab(Data()), source)


@pytest.mark.parametrize("args", [{"final_norm": False}, {"global_pool": "map"}])
def test_a_vit_without_what_the_paper_trains_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a ViT with a last LayerNorm"):
        edge(Lab(Data()), cloud(timm_spec("vit_tiny_patch16_224", **args)))


@pytest.mark.parametrize(
    "params",
    [
        {"blocks": 0},
        {"blocks": 2, "train": "tail"},
        {"blocks": 2, "train": "all", "train_layer_norm": False},
        {"blocks": 2, "train": "scratch", "layer_norm": "transfer"},
        {"block": 2},
    ],
)
def test_arms_that_make_no_sense_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EdgeViTParams(**params)


def test_the_entry_says_what_may_change() -> None:
    (entry,) = harness_compressors()
    assert entry.name == "edgevit"
    assert entry.changes == {"data", "classes"}


@pytest.mark.parametrize("params", [{}, {"cache": False}, {"train": "all"}, {"train": "scratch"}])
def test_the_entry_keeps_the_contracts(params: dict[str, Any]) -> None:
    (entry,) = harness_compressors()
    check_compressor(entry, {"blocks": 2, **params})


def test_the_plugin_keeps_the_contracts() -> None:
    check_plugin("edgevit")

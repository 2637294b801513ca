"""Tests of the baselines: equal training compute, the ensemble, the pipeline cut, and round-robin."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel  # products, of which every torch knows the FLOPs
from torch.utils.flop_counter import FlopCounterMode

from harness.testing import check_compressor, check_partitioner, check_plugin, make_context, make_model
from harness.types import (
    DataInfo,
    DeviceInfo,
    FitResult,
    Fleet,
    Lineage,
    Model,
    ModuleSpec,
    Params,
    Partition,
    PartSketch,
    Sketch,
    TensorSpec,
)
from harness_baselines import plugin
from harness_timm.vit import TIMM_FACTORY, ViTShape

SHAPE = ViTShape(image_size=(8, 8), patch_size=4, channels=1, classes=3, dim=12, depth=4, heads=2)
SMALL: dict[str, Any] = {"dim": 8, "depth": 2, "heads": 2}
IMAGES = 30
FLEET = Fleet(devices=())
COMPRESSORS = {entry.name: entry for entry in plugin.harness_compressors()}
PARTITIONERS = {entry.name: entry for entry in plugin.harness_partitioners()}
(ROUND_ROBIN,) = plugin.harness_placers()


def forward_macs(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        module.eval()(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


class Lab:
    """A context whose ``fit`` trains nothing and counts as the training loop does."""

    def __init__(self, seed: int = 0) -> None:
        info = DataInfo(
            name="toy", shape=(1, 8, 8), class_names=("a", "b", "c"), sizes={}, mean=(0.5,), std=(0.5,)
        )
        self.data: Any = SimpleNamespace(info=info, train=range(IMAGES), validation=range(0))
        self.seed, self.device, self.workdir = seed, "cpu", Path()
        self.asked: list[dict[str, Any]] = []

    def fit(self, module: nn.Module, *, name: str = "fit", epochs: int, **overrides: Any) -> FitResult:
        self.asked.append({"name": name, "epochs": epochs, **overrides})
        passes = epochs * IMAGES
        return FitResult(
            image_passes=passes, train_macs=passes * forward_macs(module), train_s=2.0, epochs=epochs
        )


def source(train_macs: tuple[int, ...] = (5_000_000, 3_000_000), shape: ViTShape = SHAPE) -> Model:
    torch.manual_seed(0)
    return Model(
        module=shape.spec().build().eval(),
        spec=shape.spec(),
        input=TensorSpec(shape=(1, 8, 8)),
        classes=3,
        lineage=tuple(Lineage(stage="build", entry="vit", params={}, train_macs=m) for m in train_macs),
    )


def small_model(lab: Any, model: Model, **params: Any) -> Model:
    entry = COMPRESSORS["small-model"]
    return entry.compress(lab, model, entry.params(**{**SMALL, **params}))


def partition(name: str, lab: Any, model: Model, **params: Any) -> tuple[Sketch, Partition]:
    entry = PARTITIONERS[name]
    checked = entry.params(**params)
    sketch = entry.sketch(model.spec, checked, FLEET)
    return sketch, entry.partition(lab, model, checked, sketch)


def run(made: Partition, images: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {"image": images}
    with torch.no_grad():
        for part in made.parts:
            values[part.name] = part.module.eval()(*(values[edge.source] for edge in part.inputs))
    return values


def check_sketch(sketch: Sketch, made: Partition) -> None:
    """Check that the sketch agrees with the parts that were made."""
    tensors = {"image": torch.zeros(2, 1, 8, 8)}
    assert [part.name for part in sketch.parts] == [part.name for part in made.parts]
    for planned, part in zip(sketch.parts, made.parts, strict=True):
        assert planned.inputs == tuple(edge.source for edge in part.inputs)
        assert planned.params == sum(p.numel() for p in part.module.parameters())
        assert planned.weight_bytes == sum(t.nbytes for t in part.module.state_dict().values())
        inputs = [tensors[name] for name in planned.inputs]
        assert [tuple(t.shape[1:]) for t in inputs] == [edge.tensor.shape for edge in part.inputs]
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            out = part.module.eval()(*inputs)
        assert planned.macs == counter.get_total_flops() // 2 // 2  # two images
        assert tuple(out.shape[1:]) == part.output.shape
        assert planned.output_bytes == out.nbytes // 2
        tensors[part.name] = out


def check_rebuilt(made: Partition) -> None:
    images = torch.randn(3, 1, 8, 8)
    values = run(made, images)
    for part in made.parts:
        spec = ModuleSpec(factory=part.spec.factory, params=json.loads(json.dumps(part.spec.params)))
        again = spec.build().eval()
        again.load_state_dict(part.module.state_dict())
        with torch.no_grad():
            assert torch.equal(again(*(values[edge.source] for edge in part.inputs)), values[part.name])


# --- one small model at equal training compute -------------------------------------------------------


@pytest.mark.parametrize(("compute", "factor"), [("equal", 1.0), (2.5, 2.5), (0.5, 0.5)])
def test_small_model_spends_the_sources_compute_within_half_an_epoch(
    compute: str | float, factor: float
) -> None:
    lab = Lab()
    made = small_model(lab, source(), compute=compute)
    (step,) = made.lineage
    epoch = IMAGES * forward_macs(made.module)
    assert step.notes["target_macs"] == round(8_000_000 * factor)
    assert abs(step.train_macs - step.notes["target_macs"]) <= epoch / 2
    assert step.notes["spent_macs"] == step.train_macs == lab.asked[0]["epochs"] * epoch
    assert step.notes["ratio"] == pytest.approx(step.train_macs / step.notes["target_macs"])
    assert lab.asked[0]["early_stop"] is None


def test_small_model_is_a_fresh_vit_of_the_stated_size() -> None:
    lab = Lab()
    made = small_model(lab, source())
    shape = ViTShape.from_spec(made.spec)
    assert shape == ViTShape(**{**vars(SHAPE), **SMALL})
    assert made.spec == plugin.describe_small(SHAPE.spec(), plugin.SmallModelParams(**SMALL), lab.data.info)
    made.spec.build().load_state_dict(made.module.state_dict())
    other = small_model(Lab(seed=1), source()).module
    again = small_model(Lab(), source()).module
    assert torch.equal(made.module.head.weight, again.head.weight)
    assert not torch.equal(made.module.head.weight, other.head.weight)


def test_a_budget_below_one_epoch_buys_one_and_says_so() -> None:
    lab = Lab()
    step = small_model(lab, source((10,))).lineage[0]
    assert lab.asked[0]["epochs"] == 1
    assert step.notes["ratio"] > 1000


@pytest.mark.parametrize("train_macs", [(), (0,)])
def test_an_untrained_source_sets_no_budget(train_macs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not trained"):
        small_model(Lab(), source(train_macs))
    with pytest.raises(ValueError, match="not trained"):
        partition("ensemble", Lab(), source(train_macs), members=2, **SMALL)


def test_small_model_of_another_family_needs_its_own_patch_size() -> None:
    other = ModuleSpec(factory="torch.nn:Identity")
    info = Lab().data.info
    with pytest.raises(ValueError, match="no patch_size"):
        plugin.describe_small(other, plugin.SmallModelParams(**SMALL), info)
    spec = plugin.describe_small(other, plugin.SmallModelParams(**SMALL, patch_size=2), info)
    assert ViTShape.from_spec(spec).patch_size == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "params", [{"dim": 0}, {"compute": 0}, {"compute": "same"}, {"compute": -1.0}, {"patch_size": 0}]
)
def test_wrong_small_model_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.SmallModelParams(**{**SMALL, **params})


def test_dimensions_that_do_not_fit_are_refused_at_planning() -> None:
    with pytest.raises(ValueError, match="dim: 8 is not a multiple of heads: 3"):
        plugin.describe_small(SHAPE.spec(), plugin.SmallModelParams(**{**SMALL, "heads": 3}), Lab().data.info)


# --- ensemble ----------------------------------------------------------------------------------------


def test_ensemble_averages_its_members_logits() -> None:
    sketch, made = partition("ensemble", Lab(), source(), members=3, **SMALL)
    check_sketch(sketch, made)
    check_rebuilt(made)
    values = run(made, torch.randn(4, 1, 8, 8))
    members = [values[f"member{i}"] for i in (1, 2, 3)]
    torch.testing.assert_close(values["mean"], (members[0] + members[1] + members[2]) / 3)
    assert not torch.allclose(members[0], members[1])


def test_ensemble_without_a_member_gives_the_others_answer() -> None:
    _, made = partition("ensemble", Lab(), source(), members=3, **SMALL)
    values = run(made, torch.randn(16, 1, 8, 8))
    fusion = made.parts[-1]
    assert all(edge.missing == "zeros" for edge in fusion.inputs)
    lost = fusion.module(torch.zeros(16, 3), values["member2"], values["member3"])
    alone = (values["member2"] + values["member3"]) / 2
    assert torch.equal(lost.argmax(1), alone.argmax(1))


def test_ensemble_members_share_the_budget_and_differ_by_seed() -> None:
    lab = Lab()
    _, made = partition("ensemble", lab, source((80_000_000,)), members=4, **SMALL)
    (step,) = made.lineage
    epoch = IMAGES * forward_macs(made.parts[0].module)
    assert [fit["name"] for fit in lab.asked] == ["member1", "member2", "member3", "member4"]
    assert abs(step.train_macs - 80_000_000) <= 4 * epoch / 2
    assert step.notes["epochs"] == [fit["epochs"] for fit in lab.asked]
    heads = [part.module.head.weight for part in made.parts[:-1]]
    assert not any(torch.equal(heads[0], head) for head in heads[1:])
    _, other = partition("ensemble", Lab(seed=1), source(), members=4, **SMALL)
    assert not torch.equal(heads[0], other.parts[0].module.head.weight)


# --- pipeline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("class_token", [True, False])
def test_the_two_parts_of_a_pipeline_compute_what_the_model_does(after: int, class_token: bool) -> None:
    model = source(shape=ViTShape(**{**vars(SHAPE), "class_token": class_token}))
    sketch, made = partition("pipeline", Lab(), model, after=after)
    check_sketch(sketch, made)
    check_rebuilt(made)
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(run(made, images)["back"], model.module(images))
    assert made.lineage[:-1] == model.lineage
    assert made.lineage[-1].train_macs == 0


@pytest.mark.parametrize("after", [4, 5])
def test_a_cut_outside_the_model_is_refused_when_planning_and_when_run(after: int) -> None:
    entry = PARTITIONERS["pipeline"]
    params = entry.params(after=after)
    message = f"after: {after} is outside the model, whose depth is 4: allowed are 1 to 3"
    with pytest.raises(ValueError, match=message):
        entry.sketch(SHAPE.spec(), params, FLEET)
    with pytest.raises(ValueError, match=message):
        entry.partition(Lab(), source(), params, Sketch(parts=()))  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        entry.params(after=0)


@pytest.mark.parametrize("name", ["pipeline", "ensemble"])
def test_a_sketch_needs_known_dimensions(name: str) -> None:
    entry = PARTITIONERS[name]
    params = entry.params(after=1) if name == "pipeline" else entry.params(members=2, **SMALL)
    resnet = ModuleSpec(factory=TIMM_FACTORY, params={"name": "resnet18", "args": {}})
    for spec in (None, resnet):
        with pytest.raises(ValueError, match=f"{name} needs .* planning knows"):
            entry.sketch(spec, params, FLEET)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the exporter's, about inputs that share the batch
@pytest.mark.parametrize(
    ("name", "part"), [("pipeline", "front"), ("pipeline", "back"), ("ensemble", "mean")]
)
def test_parts_export_to_onnx_with_any_batch(name: str, part: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    given: dict[str, Any] = {"after": 2} if name == "pipeline" else {"members": 3, **SMALL}
    _, made = partition(name, Lab(), source(), **given)
    values = run(made, torch.randn(5, 1, 8, 8))
    piece = next(p for p in made.parts if p.name == part)
    inputs = [values[edge.source] for edge in piece.inputs]
    batch = torch.export.Dim("batch")
    shapes: tuple[Any, ...] = tuple({0: batch} for _ in inputs)
    program = torch.onnx.export(
        piece.module,
        tuple(tensor[:2] for tensor in inputs),
        dynamo=True,
        dynamic_shapes=(shapes,) if part == "mean" else shapes,  # mean takes *logits
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "part.onnx"))
    session = ort.InferenceSession(tmp_path / "part.onnx")
    feeds = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
    (out,) = session.run(None, feeds)
    torch.testing.assert_close(torch.from_numpy(out), values[part], rtol=1e-4, atol=1e-5)


# --- round-robin -------------------------------------------------------------------------------------


def fleet(n: int, central: int = 0) -> Fleet:
    device = DeviceInfo(name="d", backend="cpu", model="m", kind="cpu", cores=1, memory_bytes=1)
    return Fleet(devices=(device,) * n, central=central)


def chain(*names: str) -> Sketch:
    return Sketch(
        parts=tuple(
            PartSketch(name=name, inputs=("image",), params=0, macs=0, weight_bytes=0, output_bytes=0)
            for name in names
        )
    )


@pytest.mark.parametrize(
    ("parts", "devices", "central", "want"),
    [
        ("abcdf", 4, 0, [1, 2, 3, 0, 0]),
        ("abcdf", 4, 2, [3, 0, 1, 2, 2]),
        ("ab", 2, 0, [1, 0]),
        ("ab", 2, 1, [0, 1]),
        ("abcf", 2, 0, [1, 0, 1, 0]),
        ("a", 3, 1, [1]),
        ("ab", 1, 0, [0, 0]),
    ],
)
def test_round_robin_uses_every_device_and_answers_on_the_central_one(
    parts: str, devices: int, central: int, want: list[int]
) -> None:
    placed = ROUND_ROBIN.place(chain(*parts), fleet(devices, central), Params())
    assert placed.device_of == dict(zip(parts, want, strict=True))


# --- the real context --------------------------------------------------------------------------------


def test_with_the_real_training_loop_compute_is_equal_within_half_an_epoch(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, recipe={"epochs": 3, "early_stop": 1})
    model = make_model(ctx)
    made = small_model(ctx, model, patch_size=4)
    (step,) = made.lineage
    epoch = len(ctx.data.train) * ViTShape.from_spec(made.spec).macs()  # type: ignore[union-attr]
    assert step.train_macs == step.notes["epochs"][0] * epoch
    assert abs(step.train_macs - sum(s.train_macs for s in model.lineage)) <= epoch / 2


def test_the_entries_keep_the_contracts() -> None:
    check_plugin("baselines")
    check_compressor(COMPRESSORS["small-model"], SMALL)
    check_partitioner(PARTITIONERS["ensemble"], {"members": 2, **SMALL})
    check_partitioner(PARTITIONERS["pipeline"], {"after": 1})

"""Tests of contracts: what a plugin gives is checked where it enters, and refused in one line that names the plugin."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ConfigDict, field_serializer

from harness.contracts.models import check_model, check_partition, check_sketched, run_parts
from harness.contracts.runtimes import check_artifact
from harness.data.splits import ArraySplit
from harness.errors import BrokenContract, SuiteError
from harness.hookspecs import hookimpl
from harness.machine.meters import Meters, answers
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.prepare.context import open_task_data
from harness.suite.loading import load_suite
from harness.train.evaluation import evaluate
from harness.types import (
    Artifact,
    BackendEntry,
    CompressorEntry,
    DataInfo,
    DatasetEntry,
    DeviceInfo,
    Edge,
    MeterEntry,
    MeterInfo,
    Model,
    ModelEntry,
    ModuleSpec,
    Params,
    Part,
    Partition,
    PartitionerEntry,
    PartSketch,
    Placement,
    PlacerEntry,
    RuntimeEntry,
    Sketch,
    TensorSpec,
    Unavailable,
)
from harness.types.data import DataChoice
from harness.types.plan import DataRef, PrepareHost

NAMED = "plugin broken ((not installed) ): "

KINDS = {
    ModelEntry: "models",
    CompressorEntry: "compressors",
    PartitionerEntry: "partitioners",
    PlacerEntry: "placers",
    DatasetEntry: "datasets",
    BackendEntry: "backends",
    RuntimeEntry: "runtimes",
    MeterEntry: "meters",
}


def plugin(*entries: Any) -> SimpleNamespace:
    """Return a plugin that gives these entries."""
    made = SimpleNamespace()
    for kind, name in KINDS.items():
        own = [entry for entry in entries if isinstance(entry, kind)]
        if own:
            hook = f"harness_{name}"
            setattr(made, hook, hookimpl(lambda own=own: own, specname=hook))
    return made


def nothing(*arguments: Any) -> None:
    """Return None, as a function of an entry that is not called here."""


def load(artifact: Any, options: Any) -> None:
    """Load nothing. It is at the top level, so that another process can import it."""


def fails(*arguments: Any) -> None:
    raise KeyError("no such file")


def leaves(*arguments: Any) -> None:
    raise SystemExit(3)


def interrupts(*arguments: Any) -> None:
    raise KeyboardInterrupt


# --- entries --------------------------------------------------------------------------------------

RUNTIME = RuntimeEntry(
    name="other", summary="", export=nothing, load=load, precision=nothing, tolerance=nothing
)
METER = MeterEntry(name="other", summary="", probe=nothing, open=load)
COMPRESSOR = CompressorEntry(name="other", summary="", compress=nothing)


class HasNoSchema:
    """A type that JSON does not have."""


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            replace(RUNTIME, requires="torch"),
            "runtime 'other': requires is 'torch' (contract: requires: a tuple of module names, like (\"torch\",))",
        ),
        (
            replace(RUNTIME, preload=["numpy"]),
            "runtime 'other': preload is ['numpy'] (contract: preload: a tuple of",
        ),
        (
            replace(RUNTIME, devices="cpu"),
            "runtime 'other': devices is 'cpu' (contract: devices: a set of kinds",
        ),
        (
            replace(RUNTIME, devices=frozenset()),
            "runtime 'other': devices is empty (contract: devices: at least",
        ),
        (
            replace(RUNTIME, precision="float32"),
            "runtime 'other': precision is 'float32' (contract: precision: a",
        ),
        (
            replace(RUNTIME, load=lambda artifact, options: None),
            "runtime 'other': load is '<lambda>' (contract: load: a function at the top level of a module, since",
        ),
        (replace(RUNTIME, load=partial(load, 1)), "runtime 'other': load is functools.partial("),
        (
            replace(METER, open=lambda info: None),
            "meter 'other': open is '<lambda>' (contract: open: a function at",
        ),
        (
            replace(METER, watch=lambda: None),
            "meter 'other': watch is '<lambda>' (contract: watch: a function at",
        ),
        (replace(METER, probe=None), "meter 'other': probe is None (contract: probe: a function)"),
        (
            replace(COMPRESSOR, changes="data"),
            "compressor 'other': changes is 'data' (contract: changes: a set",
        ),
        (
            replace(COMPRESSOR, changes={"size"}),
            "compressor 'other': changes has ['size'] (contract: changes: a set",
        ),
        (
            replace(COMPRESSOR, summary=None),
            "compressor 'other': summary is None (contract: summary: a text)",
        ),
        (replace(COMPRESSOR, name="a b"), "compressor 'a b': its name is 'a b' (contract: name: letters"),
        (
            replace(COMPRESSOR, params=None),
            "compressor 'other': params is None (contract: params must be a subcl",
        ),
    ],
)
def test_a_wrong_field_of_an_entry_is_a_problem_and_the_others_stay(entry, reason):
    good = replace(COMPRESSOR, name="good")
    plugins = load_plugins(extra={"broken": plugin(entry, good)})
    (problem,) = plugins.problems
    assert problem.reason.startswith(reason)
    assert str(problem).startswith(NAMED)
    assert "\n" not in str(problem)
    assert "good" in plugins.compressors


def test_a_submodule_of_a_package_that_ends_the_process_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "ends_the_process.py").write_text("raise SystemExit(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = replace(COMPRESSOR, requires=("ends_the_process.part",))
    plugins = load_plugins(extra={"broken": plugin(entry)})
    assert plugins.compressors.get("other").not_installed == (
        "other needs ends_the_process.part: pip install ends_the_process.part"
    )


# --- planning -------------------------------------------------------------------------------------

SUITE = """
suite: mine
data: {name: digits, image_size: 16}
defaults: {train: {epochs: 1}}
methods:
  good: {build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}}
  bad: BAD
devices:
  here: {backend: cpu}
  pair: {fleet: [here, here]}
  toy: {backend: toy-board}
run:
  - {methods: all, devices: [here, pair]}
  - {methods: [good], devices: [toy]}
"""
OWN = "{build: toy}"
SPLIT = "{from: good, partition: toy-split}"
PLACED = "{from: good, partition: {pipeline: {after: 1}}, place: toy-place}"
DATA = "{build: {vit: {patch_size: 4, dim: 24, depth: 3, heads: 3}}, data: {name: toy}}"


class NoSchema(Params):
    """Parameters that JSON does not have."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: HasNoSchema | None = None


class Changing(Params):
    """Parameters that differ after they went through JSON."""

    day: date = date(2020, 1, 1)

    @field_serializer("day")
    def _next(self, day: date) -> str:
        return "2021-01-01"


def sketched(*parts: PartSketch, **changes: Any):
    def sketch(spec, params, fleet):
        return Sketch(parts=parts or (PART,), **changes)

    return sketch


def spec(**changes: Any):
    def describe(*arguments):
        return ModuleSpec(**{"factory": "somewhere:build", **changes})

    return describe


PART = PartSketch(name="whole", inputs=("image",), params=1, macs=1, weight_bytes=4, output_bytes=4)
BUILD = ModelEntry(name="toy", summary="", build=nothing)
SPLITTER = PartitionerEntry(name="toy-split", summary="", sketch=nothing, partition=nothing)
PLACER = PlacerEntry(name="toy-place", summary="", place=nothing)
INFO = DataInfo(
    name="toy",
    shape=(1, 16, 16),
    class_names=("a", "b"),
    sizes={"train": 8, "test": 8},
    mean=(0.5,),
    std=(0.5,),
    fingerprint="toy",
)
DATASET = DatasetEntry(name="toy", summary="", describe=lambda params: INFO, load=nothing)
DEVICE = DeviceInfo(name="toy", backend="toy-board", model="Toy", kind="cpu", cores=1, memory_bytes=1)
BACKEND = BackendEntry(
    name="toy-board", summary="", probe=lambda: [DEVICE], describe=lambda spec: DEVICE, open=nothing
)


def giving(answer):
    return lambda *arguments: answer


def planned(tmp_path, method, *entries):
    """Return the cells of a plan by method and device. The plugin ``broken`` gives the entries."""
    given = {
        (type(entry), entry.name): entry for entry in (BUILD, SPLITTER, PLACER, DATASET, BACKEND, *entries)
    }
    plugins = load_plugins(extra={"broken": plugin(*given.values())})
    assert plugins.problems == ()
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE.replace("BAD", method))
    made = make_plan(load_suite(path), plugins, PrepareHost(torch="1")).plan
    return {(cell.method, cell.task.device): cell for cell in made.cells}


@pytest.mark.parametrize(
    ("method", "entry", "reason"),
    [
        (OWN, replace(BUILD, describe=fails), "model 'toy': describe raised KeyError: 'no such file'"),
        (OWN, replace(BUILD, describe=leaves), "model 'toy': describe raised SystemExit: 3"),
        (
            OWN,
            replace(BUILD, describe=giving(None)),
            "model 'toy': describe gave NoneType (contract: it gives a Mod",
        ),
        (
            OWN,
            replace(BUILD, describe=spec(factory="a.b:make.<locals>.inner")),
            "model 'toy': describe gave the factory 'a.b:make.<locals>.inner' (contract: ModuleSpec.factory: \"pack",
        ),
        (
            OWN,
            replace(BUILD, describe=spec(factory=print)),
            "model 'toy': describe gave the factory <built-in",
        ),
        (
            OWN,
            replace(BUILD, describe=spec(params={"a": {1}})),
            "model 'toy': describe gave params that are not JSON",
        ),
        (OWN, replace(BUILD, files=fails), "model 'toy': files raised KeyError"),
        (OWN, replace(BUILD, files=giving(["x"])), "model 'toy': files raised AttributeError"),
        (OWN, replace(BUILD, params=NoSchema), "model 'toy': its parameters have no JSON Schema"),
        (
            OWN,
            replace(BUILD, params=Changing),
            "model 'toy': its parameters are others after they went through",
        ),
        (SPLIT, replace(SPLITTER, sketch=fails), "partitioner 'toy-split': sketch raised KeyError"),
        (
            SPLIT,
            replace(SPLITTER, sketch=giving(())),
            "partitioner 'toy-split': sketch gave tuple (contract: sket",
        ),
        (
            SPLIT,
            replace(SPLITTER, sketch=sketched(replace(PART, name="../up"))),
            "partitioner 'toy-split': a part is named '../up' (contract: PartSketch.name: letters",
        ),
        (
            SPLIT,
            replace(SPLITTER, sketch=sketched(replace(PART, inputs=("later",)))),
            "partitioner 'toy-split': part 'whole' has the inputs ('later',) (contract: PartSketch.inputs",
        ),
        (
            SPLIT,
            replace(SPLITTER, sketch=sketched(replace(PART, weight_bytes=0.4))),
            "partitioner 'toy-split': weight_bytes of part 'whole' is 0.4 (contract: PartSketch.weight_bytes",
        ),
        (
            SPLIT,
            replace(SPLITTER, sketch=sketched(decisions={"cut": np.int64(3)})),
            "partitioner 'toy-split': sketch gave decisions that are not JSON",
        ),
        (DATA, replace(DATASET, describe=fails), "dataset 'toy': describe raised KeyError: 'no such file'"),
        (
            DATA,
            replace(DATASET, describe=giving({})),
            "dataset 'toy': describe gave dict (contract: describe gives",
        ),
        (
            DATA,
            replace(DATASET, describe=giving(replace(INFO, shape=(16, 16)))),
            "dataset 'toy': shape is (16, 16)",
        ),
        (
            DATA,
            replace(DATASET, describe=giving(replace(INFO, mean=(127.5,)))),
            "dataset 'toy': mean is (127.5,)",
        ),
        (DATA, replace(DATASET, describe=giving(replace(INFO, std=(0.0,)))), "dataset 'toy': std is (0.0,)"),
        (
            DATA,
            replace(DATASET, describe=giving(replace(INFO, fingerprint=""))),
            "dataset 'toy': has no fingerprint",
        ),
        (
            DATA,
            replace(DATASET, describe=giving(replace(INFO, class_names=2))),
            "dataset 'toy': class_names are 2",
        ),
    ],
)
def test_a_method_whose_planning_fails_is_skipped_in_one_line_and_the_others_are_planned(
    tmp_path, method, entry, reason
):
    cells = planned(tmp_path, method, entry)
    impossible = cells["bad", "here"].impossible
    assert impossible.startswith(NAMED + reason)
    assert "\n" not in impossible
    assert cells["good", "here"].impossible is None
    assert cells["good", "here"].export


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (fails, "placer 'toy-place': place raised KeyError"),
        (
            giving({"front": 0, "back": 1}),
            "placer 'toy-place': place gave dict (contract: place gives a Placement)",
        ),
        (
            giving(Placement(device_of={"front": 0})),
            "placer 'toy-place': left out back (contract: Placement.device_of",
        ),
        (
            giving(Placement(device_of={"front": 0, "back": 2})),
            "placer 'toy-place': placed back on device 2 (contract: Placement.device_of: an index into the fleet's de",
        ),
        (
            giving(Placement(device_of={"front": 0, "back": -1})),
            "placer 'toy-place': placed back on device -1 (contract: Placement.device_of",
        ),
        (
            giving(Placement(device_of={"front": 0, "back": "here"})),
            "placer 'toy-place': placed back on device 'here' (contract: Placement.device_of",
        ),
        (
            giving(Placement(device_of={"front": 0, "back": 1, "side": 1})),
            "placer 'toy-place': placed side (contract: Placement.device_of: parts of the sketch alone)",
        ),
    ],
)
def test_a_placement_that_is_wrong_skips_the_cells_of_its_fleet_alone(tmp_path, place, reason):
    cells = planned(tmp_path, PLACED, replace(PLACER, place=place))
    assert cells["bad", "pair"].impossible.startswith(NAMED + reason)
    assert cells["bad", "here"].impossible is None


@pytest.mark.parametrize(
    ("describe", "reason"),
    [
        (fails, "backend 'toy-board': describe raised KeyError: 'no such file'"),
        (leaves, "backend 'toy-board': describe raised SystemExit: 3"),
        (
            giving(None),
            "backend 'toy-board': describe gave NoneType (contract: describe gives DeviceInfo or Unavail",
        ),
        (
            giving(replace(DEVICE, memory_bytes=8.0)),
            "backend 'toy-board': memory_bytes is 8.0 (contract: DeviceInfo",
        ),
        (
            giving(replace(DEVICE, model="")),
            "backend 'toy-board': has no model or kind (contract: DeviceInfo.model",
        ),
        (giving(replace(DEVICE, details={"x": {1}})), "backend 'toy-board': details are not JSON (contract"),
    ],
)
def test_a_device_whose_description_fails_is_not_available(tmp_path, describe, reason):
    cells = planned(tmp_path, OWN, replace(BACKEND, describe=describe))
    assert cells["good", "toy"].impossible.startswith(f"toy: {NAMED}{reason}")
    assert cells["good", "here"].impossible is None


def test_a_refused_parameter_is_still_an_error_of_the_suite(tmp_path):
    def refuses(params, data):
        raise ValueError("width: 7 does not divide 16")

    with pytest.raises(SuiteError, match=r"mine.yaml:7: methods.bad.build.toy: width: 7 does not divide 16"):
        planned(tmp_path, OWN, replace(BUILD, describe=refuses))


@pytest.mark.parametrize(
    ("method", "entry"),
    [
        (OWN, replace(BUILD, describe=interrupts)),
        (SPLIT, replace(SPLITTER, sketch=interrupts)),
        (DATA, replace(DATASET, describe=interrupts)),
        (OWN, replace(BACKEND, describe=interrupts)),
    ],
)
def test_ctrl_c_ends_planning(tmp_path, method, entry):
    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path, method, entry)


# --- meters ---------------------------------------------------------------------------------------

POWER = MeterInfo(
    name="toy", scope="board", watches="board", provenance="measured", quantity="power", period_s=0.1
)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (leaves, "SystemExit: 3"),
        (fails, "KeyError: 'no such file'"),
        (giving(None), "meter 'toy': probe gave NoneType (contract: probe gives an iterable)"),
        (
            giving([{"name": "x"}]),
            "meter 'toy': probe gave dict (contract: probe gives MeterInfo or Unavailable)",
        ),
        (
            giving([replace(POWER, scope="rail")]),
            "meter 'toy': scope is 'rail' (contract: MeterInfo.scope: one of wall",
        ),
        (
            giving([replace(POWER, quantity="current")]),
            "meter 'toy': quantity is 'current' (contract: MeterInfo.quan",
        ),
        (
            giving([replace(POWER, period_s=0)]),
            "meter 'toy': period_s is 0 (contract: MeterInfo.period_s: seconds ab",
        ),
        (
            giving([replace(POWER, calibration=5)]),
            "meter 'toy': calibration is 5 (contract: MeterInfo.calibration: a sh",
        ),
        (
            giving([replace(POWER, details={"x": load})]),
            "meter 'toy': details are not JSON (contract: MeterInfo.deta",
        ),
    ],
)
def test_a_meter_that_describes_itself_wrongly_is_not_read_and_the_others_are(probe, reason):
    toy = MeterEntry(name="toy", summary="", probe=probe, open=load)
    good = MeterEntry(name="good", summary="", probe=lambda: [POWER], open=load)
    plugins = load_plugins(["power"], extra={"broken": plugin(toy, good)})
    uses, absent = Meters(plugins).auto()
    assert [use.info for use in uses] == [POWER]
    (unavailable,) = [meter for meter in absent if meter.name == "toy"]
    assert unavailable.reason.startswith(NAMED + reason)
    (answer,) = answers(plugins.meters.get("toy"))
    assert isinstance(answer, Unavailable)


def test_a_broken_contract_names_the_plugin_to_blame():
    plugins = load_plugins(extra={"broken": plugin(BUILD)})
    with pytest.raises(BrokenContract) as caught:
        plugins.models.need("toy")(False, "is wrong", "it is right")
    assert plugins.blame(caught.value) == "broken"
    assert str(caught.value) == f"{NAMED}model 'toy': is wrong (contract: it is right)"


# --- data -----------------------------------------------------------------------------------------


class Stored:
    """Eight grey images of 16 x 16 pixels, in the given element type."""

    def __init__(
        self, dtype: Any = np.uint8, shape: tuple[int, ...] = (16, 16, 1), labels: Any = None
    ) -> None:
        self.labels = np.arange(8) % 2 if labels is None else labels
        self._dtype, self._shape = dtype, shape

    def image(self, index: int) -> Any:
        return np.full(self._shape, 300 if self._dtype == np.uint16 else 0.5, self._dtype)

    def __len__(self) -> int:
        return 8


def opened_data(stored: Any):
    entry = replace(DATASET, load=lambda params, split: stored)
    plugins = load_plugins(extra={"broken": plugin(entry)})
    return open_task_data(DataRef(entry="toy", params={}, choice=DataChoice(name="toy")), plugins)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (
            Stored(np.uint16),
            "test image 0 is uint16 [16, 16, 1], not uint8 [height, width, 1 or 3] (contract: Dataset.",
        ),
        (Stored(np.float32), "test image 0 is float32 [16, 16, 1], not uint8"),
        (Stored(shape=(16, 16)), "test image 0 is uint8 [16, 16], not uint8"),
        (Stored(shape=(16, 16, 4)), "test image 0 is uint8 [16, 16, 4], not uint8"),
    ],
)
def test_images_of_another_type_are_refused_when_they_are_read(stored, reason):
    data = opened_data(stored)
    with pytest.raises(BrokenContract) as caught:
        data.test.batch([0])
    assert str(caught.value).startswith(f"{NAMED}dataset 'toy': {reason}")


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (None, "load gave NoneType, not a Dataset (contract: load gives a Dataset)"),
        (Stored(labels=np.arange(8) % 3), "train image 2 has label 2 (contract: Dataset.labels: 0 to 1)"),
        (
            Stored(labels=np.zeros(8, np.int32)),
            "train labels are int32 [8], not int64 [8] (contract: Dataset.labels",
        ),
        (Stored(labels=np.zeros((8, 1), np.int64)), "train labels are int64 [8, 1], not int64 [8]"),
        (Stored(labels=[0] * 8), "train labels are list, not int64 [8]"),
    ],
)
def test_a_split_of_another_form_is_refused_when_it_is_opened(stored, reason):
    with pytest.raises(BrokenContract) as caught:
        opened_data(stored)
    assert str(caught.value).startswith(f"{NAMED}dataset 'toy': {reason}")


# --- models, partitions and exports ----------------------------------------------------------------


def linear(inputs: int, outputs: int, bias: bool = True):
    """Return a linear layer over all inputs, flattened."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(inputs, outputs, bias=bias)

        def forward(self, *values: Any) -> Any:
            return self.linear(torch.cat([value.flatten(1) for value in values], 1))

    return Linear()


def spec_of(inputs: int, outputs: int, **params: Any) -> ModuleSpec:
    return ModuleSpec(factory=f"{__name__}:linear", params={"inputs": inputs, "outputs": outputs, **params})


def model_of(outputs: int = 2, **changes: Any) -> Model:
    own = spec_of(256, outputs)
    made = {"module": own.build(), "spec": own, "input": TensorSpec(shape=(1, 16, 16)), "classes": 2}
    return Model(**{**made, **changes})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: None, "build gave NoneType (contract: build gives a Model)"),
        (lambda: model_of(outputs=3), "model: gives (2, 3), not (2, 2) (contract: Part.output)"),
        (lambda: model_of(classes=3), "gives 3 classes of 2 (contract: Model.classes: those of the data)"),
        (
            lambda: model_of(input=TensorSpec(shape=(256,))),
            "takes (256,), and images are (1, 16, 16) (contract",
        ),
        (
            lambda: model_of(module=print),
            "build gave a module that is builtin_function_or_method (contract: Model.",
        ),
        (
            lambda: model_of(spec=ModuleSpec(factory=f"{__name__}:lost", params={})),
            f"model: {__name__}:lost raised AttributeError",
        ),
        (
            lambda: model_of(spec=spec_of(256, 2, bias=False)),
            f"model: the weights do not fit into what {__name__}:linear builds: linear.bias (contract: ModuleSpec",
        ),
        (
            lambda: model_of(module=linear(9, 2), spec=spec_of(9, 2)),
            "model: fails on (2, 1, 16, 16): RuntimeError",
        ),
    ],
)
def test_a_model_that_breaks_its_contract_is_refused(made, reason):
    need = load_plugins(extra={"broken": plugin(BUILD)}).models.need("toy")
    with pytest.raises(BrokenContract) as caught:
        check_model(need, made(), "build", 2, (1, 16, 16))
    assert str(caught.value).startswith(f"{NAMED}model 'toy': {reason}")


def split_of(front: int = 4, output: int = 4, **edge: Any) -> Partition:
    """Return a partition in two, whose first part gives ``front`` values and declares ``output``."""
    image = Edge(source="image", tensor=TensorSpec(shape=(1, 16, 16)))
    between = Edge(source="front", tensor=TensorSpec(shape=(output,)), **edge)

    def part(name: str, spec: ModuleSpec, inputs: Edge, size: int) -> Part:
        return Part(
            name=name, module=spec.build(), spec=spec, inputs=(inputs,), output=TensorSpec(shape=(size,))
        )

    parts = (part("front", spec_of(256, front), image, output), part("back", spec_of(4, 2), between, 2))
    return Partition(parts=parts, classes=2)


def test_a_part_of_another_size_and_parts_that_were_not_sketched_are_refused():
    need = load_plugins(extra={"broken": plugin(SPLITTER)}).partitioners.need("toy-split")
    check_partition(need, split_of(), "partition", 2, (1, 16, 16))
    with pytest.raises(BrokenContract, match=r"'toy-split': front: gives \(2, 5\), not \(2, 4\)"):
        check_partition(need, split_of(front=5), "partition", 2, (1, 16, 16))
    with pytest.raises(
        BrokenContract, match=r"'toy-split': partition gave the parts .*front.*, the sketch .*whole"
    ):
        check_sketched(need, split_of(), Sketch(parts=(PART,)))
    check_sketched(need, split_of(), Sketch(parts=(replace(PART, name="front"), BACK)))


def test_an_edge_knows_the_types_that_cross_a_link():
    with pytest.raises(ValueError, match="wire_dtype: 'float8'; allowed: float32, float16"):
        split_of(wire_dtype="float8")
    with pytest.raises(ValueError, match="missing: 'noise'; allowed: zeros, mean, None"):
        split_of(missing="noise")


def test_an_answer_that_is_not_finite_is_refused():
    import torch

    partition = Partition.whole(model_of())
    torch.nn.init.constant_(partition.parts[0].module.linear.weight, float("nan"))
    need = load_plugins(extra={"broken": plugin(BUILD)}).models.need("toy")
    with pytest.raises(BrokenContract, match="model 'toy': model: gives NaN or infinity"):
        run_parts(need, partition, torch.ones(1, 1, 16, 16), finite=True)


def test_a_label_beyond_the_logits_cannot_be_evaluated():
    split = ArraySplit(np.zeros((3, 4), np.float32), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="there is a label 2, and the module gives 2 logits"):
        evaluate(linear(4, 2), split, device="cpu")


BACK = replace(PART, name="back", inputs=("front",))
IMAGE_SPEC = TensorSpec(shape=(1, 16, 16))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"path": "elsewhere"}, "whole: export wrote to "),
        ({"empty": True}, "whole: export wrote no file into "),
        (
            {"weight_bytes": 0.002},
            "whole: weight_bytes is 0.002 (contract: Artifact.weight_bytes: a whole number",
        ),
        (
            {"weight_bytes": 0},
            "whole: weight_bytes is 0 for 514 parameters; is it in MB? (contract: Artifact.weight",
        ),
        (
            {"precision": "int8"},
            "whole: the artifact says 'int8', the entry 'float32' (contract: Artifact.precision)",
        ),
        ({"runtime": "fast"}, "whole: the artifact is of 'fast' (contract: Artifact.runtime: its name)"),
        (
            {"output": TensorSpec(shape=(3,))},
            "whole: the artifact gives (3,), the part (2,) (contract: Artifact.out",
        ),
        ({"inputs": ()}, "whole: the artifact takes [], the part [(1, 16, 16)] (contract: Artifact.inputs)"),
        ({"meta": {"session": load}}, "whole: the artifact's meta is not JSON (contract: Artifact.meta"),
    ],
)
def test_an_export_that_breaks_its_contract_is_refused(tmp_path, changes, reason):
    folder = tmp_path / "parts"
    folder.mkdir()
    if not changes.pop("empty", False):
        (folder / "model.bin").write_bytes(b"weights")
    fields = {
        "path": folder,
        "runtime": "other",
        "precision": "float32",
        "weight_bytes": 2056,
        "inputs": (IMAGE_SPEC,),
        "output": TensorSpec(shape=(2,)),
    }
    changes = {name: tmp_path / value if name == "path" else value for name, value in changes.items()}
    need = load_plugins(extra={"broken": plugin(RUNTIME)}).runtimes.need("other")

    def check(artifact: Artifact) -> None:
        check_artifact(
            need,
            artifact,
            "whole",
            [IMAGE_SPEC],
            TensorSpec(shape=(2,)),
            folder,
            runtime="other",
            precision="float32",
            params=514,
        )

    with pytest.raises(BrokenContract) as caught:
        check(Artifact(**{**fields, **changes}))
    assert str(caught.value).startswith(f"{NAMED}runtime 'other': {reason}")
    (folder / "model.bin").write_bytes(b"weights")
    check(Artifact(**fields))

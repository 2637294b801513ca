"""Tests of contracts of entries, of planning and of meters: a breach is one line that names the plugin."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pytest
from pydantic import ConfigDict, field_serializer

from broken_plugins import (
    BACKEND,
    BUILD,
    DATASET,
    DEVICE,
    INFO,
    METER,
    NAMED,
    OWN,
    PART,
    PLACER,
    POWER,
    RUNTIME,
    SPLITTER,
    fails,
    giving,
    interrupts,
    leaves,
    load,
    nothing,
    planned,
    plugin,
    spec,
)
from harness.errors import BrokenContract, SuiteError
from harness.machine.meters import Meters, answers
from harness.plugins import load_plugins
from harness.types import CompressorEntry, MeterEntry, Params, PartSketch, Placement, Sketch, Unavailable

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
            replace(DATASET, source="folder"),
            "dataset 'toy': source or reading has ['folder'] (contract: source and reading: names",
        ),
        (replace(DATASET, source=None), "dataset 'toy': source is None (contract: source: a text)"),
        (replace(DATASET, reading="crop"), "dataset 'toy': reading is 'crop' (contract: reading: a set"),
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
        "other needs ends_the_process.part: install the packages that contain them"
    )


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

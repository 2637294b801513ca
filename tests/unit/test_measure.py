"""Tests of cells of fleets, measured by processes of this machine. Some of them stand for other machines."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from harness.errors import SuiteError
from harness.machine.energy.fleet import readings_of
from harness.measure import robustness
from harness.measure.cell import CellFailure, CellLost, measure_cell
from harness.measure.measured import Measured
from harness.measure.predictions import PredictionCache
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.registry import Registry
from harness.store.saved import load_any
from harness.suite.loading import load_suite
from harness.types.artifacts import DataMeta, ExportMeta
from harness.types.blocks import FleetMember, ScenarioBlock
from harness.types.measure import Measure
from harness.types.plan import DataRef, PrepareHost

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 6, size: 8, channels: 1, train: 60, test: 30}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 20ms, min_queries: 44, max_time: 60s, warmup: one, energy: off}
methods:
  whole: {build: toy}
  split: {from: whole, partition: toys}
  half: {from: whole, partition: {toys: {wire: float16, missing: mean}}}
  strict: {from: whole, partition: {toys: {missing: null}}}
devices:
  here: {backend: cpu}
  b1: {backend: board, machine: m1, offset_ns: 5000000}
  b2: {backend: board, machine: m2, offset_ns: -7000000, link: {rate_mbps: 16, rtt_ms: 1}}
  twin: {backend: board, machine: m1}
  fake: {backend: board, machine: m3, emulated: true}
  local: {fleet: [here, here, here]}
  pair: {fleet: [here, here]}
  boards: {fleet: [b1, b2], central: b1}
  raw: {fleet: [b1, b2], input: raw}
  mixed: {fleet: [here, b1, b2]}
  shared: {fleet: [b1, twin]}
  lab: {fleet: [b1, fake]}
  lost: {fleet: [b1, b2]}
  m5: {backend: board, machine: m5, watts: 5, offset_ns: 3000000000}
  m7: {backend: board, machine: m7, watts: 7, offset_ns: -4000000000}
  metered: {fleet: [m5, m7]}
  dark: {fleet: [b1, m7]}
run:
  - {methods: [whole, split], devices: [here, b1]}
  - {methods: [split], devices: [local], measure: {robustness: drop-3, in_flight: 3}}
  - {methods: [split], devices: [pair], measure: {scenario: multi-stream, streams: 4}}
  - {methods: [split], devices: [boards, raw, mixed, shared, lab, lost]}
  - {methods: [split], devices: [metered, dark], measure: {energy: require, idle_time: 100ms, min_time: 300ms}}
  - {methods: [whole, half, strict], devices: [b1], measure: {robustness: drop-1}}
"""


@pytest.fixture(scope="module")
def planned(prepare_toys):
    """(cells by method and device, plugins, store) with everything prepared."""
    plan, plugins, store = prepare_toys(SUITE)
    return {(cell.method, cell.task.device): cell for cell in plan.cells}, plugins, store


@pytest.fixture(scope="module")
def afresh(planned):
    cells, plugins, store = planned

    def measure(method: str, device: str) -> Measured:
        return measure_cell(cells[method, device], plugins, store, PredictionCache(store), None)

    return measure


@pytest.fixture(scope="module")
def measured(afresh):
    return cache(afresh)


@pytest.fixture
def metered(afresh):
    """The split in a run in which the meters came to their turn: a busy machine may leave gaps, which withhold figures."""

    def measure(device: str) -> dict:
        for _ in range(5):
            result = afresh("split", device)
            if not any(reading.withheld for reading in result.energy):
                break
        return result

    return measure


def test_one_device_answers_for_itself_and_a_board_by_the_host(measured):
    here, board = measured("split", "here"), measured("split", "b1")
    assert (here.accuracy.on, board.accuracy.on) == ("device", "host")
    assert here.accuracy.top1 == board.accuracy.top1
    assert (here.arrays["predictions"] == board.arrays["predictions"]).all()
    assert board.accuracy.parity.ok
    assert board.accuracy.parity.n == 30
    assert here.network.empty
    assert board.network.empty


def test_workers_of_one_machine(measured):
    result = measured("split", "local")
    network = result.network
    image, feature = 64 * 4, 4 * 4
    assert (network.input_bytes, network.feature_bytes) == (3 * image, 3 * feature)
    assert {name: part.device for name, part in network.parts.items()} == {
        "sub1": "here-2",
        "sub2": "here-3",
        "sub3": "here-2",
        "fusion": "here",
    }
    assert network.over_bound is None  # three in flight wait for one another
    assert network.critical_path_ms > 0
    assert network.no_input.n >= 11
    assert len(result.arrays["no_input_ns"]) == network.no_input.n
    assert set(result.memory.devices) == {"here", "here-2", "here-3"}
    assert result.memory.process_peak_bytes == max(
        memory.process_peak_bytes for memory in result.memory.devices.values()
    )
    assert result.device.devices[1] == FleetMember(
        name="here-2", model=result.device.model, machine="", parts=["sub1", "sub3"]
    )


def test_every_value_of_a_measured_cell_is_a_named_field(measured, unknown_keys):
    for method, device in (("split", "local"), ("split", "here"), ("split", "boards")):
        result = measured(method, device)
        assert {
            name: unknown_keys(block) for name, block in vars(result).items() if unknown_keys(block)
        } == {}


def test_several_images_at_once_over_workers(measured):
    result = measured("split", "pair")
    assert result.network.critical_path_ms > 0
    assert result.network.no_input is None  # its queries are cut: no image of them is resident


def test_boards(afresh, toys):
    toys.SEEN.clear()
    result = afresh("split", "boards")
    assert result.accuracy.on == "host"
    network = result.network
    assert network.over_bound == result.latency.p50_ms / network.critical_path_ms
    assert {part.link for part in network.parts.values()} == {"stated", None}
    ((name, spans, error, images),) = toys.SEEN
    assert (name, images) == ("b2", result.latency.n)
    assert error == 20
    assert spans["load"][1] - spans["load"][0] == pytest.approx(result.state.window_s * 1e9, rel=0.2)
    # on b2's clock, 7 ms behind this host's
    assert 0 < time.monotonic_ns() - 7_000_000 - spans["load"][1] < 120e9


def test_raw_pixels_are_a_quarter_and_give_the_same_answers(measured):
    tensor, raw = measured("split", "boards"), measured("split", "raw")
    assert raw.network.input_bytes * 4 == tensor.network.input_bytes
    assert raw.accuracy.parity.ok


def test_the_scenario_of_a_record_has_every_key_of_measure():
    names = {
        f"{name}_s" if name in ("min_time", "max_time", "idle_time", "sustained", "deadline") else name
        for name in Measure.model_fields
    }
    assert set(ScenarioBlock.model_fields) == names - {"scenario", "repeats"} | {"name", "threads"}


def test_what_stands_for_boards_is_reported(planned):
    from harness.measure.fields import fields_known_before

    cells = planned[0]
    said = {device: fields_known_before(cell).provenance for (_, device), cell in cells.items()}
    assert said == {
        "here": "measured",
        "b1": "measured",
        "boards": "measured",
        "raw": "measured",
        "mixed": "measured",
        "lost": "measured",
        "local": "emulated",
        "pair": "emulated",
        "shared": "emulated",
        "lab": "emulated",
        "metered": "measured",
        "dark": "measured",
    }
    assert fields_known_before(cells["split", "raw"]).device.input == "raw"
    assert "in_flight" not in fields_known_before(cells["split", "here"]).scenario.model_dump()


@pytest.mark.clock
def test_every_boards_meter_reads_the_common_window(metered):
    result = metered("metered")
    readings = {reading.device: reading for reading in result.energy}
    assert {name: reading.power_gross_w for name, reading in readings.items()} == pytest.approx(
        {"m5": 5, "m7": 7}
    )
    assert readings["m5"].window_s == pytest.approx(readings["m7"].window_s, rel=1e-6)
    assert readings["m5"].inferences == readings["m7"].inferences == result.latency.n
    assert all(reading.idle_w is not None for reading in readings.values())
    assert {"meter_value:toy:board", "meter_value:toy:board on m7"} <= set(result.arrays)
    assert result.status == "ok"
    (total,) = readings_of(result.energy, result.device.devices)
    assert total.power_gross_w == pytest.approx(12)


@pytest.mark.clock
def test_a_fleet_of_which_one_board_has_no_meter_has_no_energy(metered):
    result = metered("dark")
    assert [reading.device for reading in result.energy] == ["m7"]
    assert result.energy[0].idle_w is not None  # the central node is idle for other's meters
    assert result.status == "partial"
    assert "b1: not read" in result.reason


def test_a_board_stands_in_a_fleet_once(toys, tmp_path):
    path = tmp_path / "toys.yaml"
    path.write_text(SUITE.replace("lost: {fleet: [b1, b2]}", "lost: {fleet: [b1, b2, b1]}"))
    with pytest.raises(SuiteError, match=r"lost\.fleet\.2: 'b1' is the same board as 'b1'"):
        make_plan(load_suite(path), load_plugins(extra={"toys": toys}), PrepareHost())


# --- without parts --------------------------------------------------------------------------------


def logits(partition, images, absent=(), stands_in=None):
    """Return the partition's logits by torch, with ``stands_in`` [4] as the features of absent parts."""
    import torch

    *subs, fusion = partition.parts
    with torch.inference_mode():
        features = [part.module(torch.from_numpy(images)) for part in subs]
        for index in absent:
            features[index] = torch.as_tensor(stands_in[index]).expand_as(features[index])
        return fusion.module(*features).numpy()


@pytest.fixture
def references(planned):
    """(partition, test images, labels, training images) of a method."""
    from harness.data.splits import normalise
    from harness.prepare.context import open_task_data

    cells, plugins, store = planned

    def of(method: str, device: str):
        cell = cells[method, device]
        meta = store.meta(cell.data, DataMeta)
        images = normalise(np.load(store.folder(cell.data) / "images.npy"), meta.mean, meta.std)
        labels = np.load(store.folder(cell.data) / "labels.npy")
        dataset = cell.task.data.dataset
        ref = DataRef(entry=dataset.entry, params=dataset.params, choice=cell.task.data.choice)
        train = open_task_data(ref, plugins).train
        key = next(k for k in store.root.rglob("*.safetensors") if k.parent.name == model_key(cell))
        return load_any(key.parent), images, labels, train.batch(range(len(train)))

    def model_key(cell):
        return plan_inputs[cell.export]

    plan = make_plan(load_suite(store.root.parent / "toys.yaml"), plugins, PrepareHost()).plan
    plan_inputs = {key: node.inputs[0] for key, node in plan.nodes.items() if node.stage == "export"}
    return of


def test_accuracy_for_each_number_of_missing_parts(measured, references):
    absences = measured("split", "local").accuracy.missing
    partition, images, labels, _ = references("split", "local")
    zeros = np.zeros((3, 4), np.float32)
    assert absences.stands_in == dict.fromkeys(("sub1", "sub2", "sub3"), "zeros")
    for level, sets in zip(
        absences.levels, ([(0,), (1,), (2,)], [(0, 1), (0, 2), (1, 2)], [(0, 1, 2)]), strict=True
    ):
        expected = [
            float((logits(partition, images, absent, zeros).argmax(1) == labels).mean() * 100)
            for absent in sets
        ]
        assert list(level.top1.values()) == pytest.approx(expected)
        assert (level.sets, level.of) == (len(sets), len(sets))
        assert level.mean == pytest.approx(np.mean(expected))
        assert (level.min, level.max) == pytest.approx((min(expected), max(expected)))
        assert level.worst == [f"sub{i + 1}" for i in sets[int(np.argmin(expected))]]


def test_the_mean_over_training_images_stands_in_where_the_edges_say_so(measured, references, planned):
    absences = measured("half", "b1").accuracy.missing
    partition, images, labels, train = references("half", "b1")
    import torch

    with torch.inference_mode():
        means = [part.module(torch.from_numpy(train)).numpy().mean(0) for part in partition.parts[:-1]]
    expected = [
        float((logits(partition, images, (i,), means).argmax(1) == labels).mean() * 100) for i in range(3)
    ]
    assert set(absences.stands_in.values()) == {"mean"}
    assert list(absences.levels[0].top1.values()) == pytest.approx(expected)
    cells, _, store = planned
    parts = store.meta(cells["half", "b1"].export, ExportMeta).parts
    assert parts[-1].stand_ins["sub2"] == pytest.approx(means[1].tolist(), rel=1e-4)
    assert [part.wire_dtype for part in parts] == ["float16"] * 3 + ["float32"]


def test_where_nothing_can_be_missing_the_record_says_why(measured):
    assert "one whole model" in measured("whole", "b1").accuracy.missing.why
    assert "name no stand-in" in measured("strict", "b1").accuracy.missing.why
    assert measured("split", "here").accuracy.missing.empty


def test_subsets_are_all_where_they_are_few_else_drawn():
    names = [f"p{i}" for i in range(30)]
    assert robustness.subsets(names, 1, 0) == [(name,) for name in names]
    assert len(robustness.subsets(names[:4], 2, 0)) == 6
    drawn = robustness.subsets(names, 3, 0)
    assert len(set(drawn)) == len(drawn) == robustness.MAX_SUBSETS
    assert drawn == robustness.subsets(names, 3, 0) != robustness.subsets(names, 3, 1)


def test_a_worker_that_dies_names_the_plugin_of_its_runtime(planned, toys):
    cells, plugins, store = planned
    plain = plugins.runtimes.get("plain")
    deadly = Registry("runtime", [replace(plain, entry=replace(plain.entry, load=toys.die))])
    with pytest.raises(
        CellFailure, match=r"worker on here was ended by SIGKILL \(out of memory\?\)"
    ) as caught:
        measure_cell(
            cells["whole", "here"], replace(plugins, runtimes=deadly), store, PredictionCache(store), None
        )
    assert caught.value.plugin == plain.origin.plugin == "toys"


def test_a_lost_board_is_named(measured, toys, monkeypatch):
    monkeypatch.setitem(toys.AWAY, "b2", 1)
    with pytest.raises(CellLost, match="b2 does not answer") as caught:
        measured("split", "lost")
    assert caught.value.board == "b2"

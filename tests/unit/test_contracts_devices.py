"""Tests of contracts of devices: a breach is one line that names the plugin."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from broken_plugins import BACKEND, DEVICE, METER, NAMED, OWN, POWER, RUNTIME, giving, planned, plugin
from harness.contracts.measuring import check_samples
from harness.contracts.opened import CheckedDevice
from harness.errors import BrokenContract
from harness.plugins import load_plugins
from harness.types import (
    Clock,
    DeviceInfo,
    DeviceLink,
    DeviceReport,
    FleetLoad,
    Graph,
    GraphPart,
    LatencyTrace,
    Reading,
    Samples,
    TensorSpec,
    WarmUp,
    Workload,
)
from harness.types.plain import from_json, to_json


def samples_of(latency_ns: Any = None, window_ns: Any = 110_000_000, **changes: Any) -> Samples:
    """Return the samples of a closed loop of 100 queries of 1 ms in 110 ms."""
    latencies = np.full(100, 1_000_000) if latency_ns is None else latency_ns
    trace = LatencyTrace(latencies, window_ns, reached=True)
    fields = {"trace": trace, "warmup": WarmUp(np.full(3, 10**6), True), "first_ns": 5 * 10**6, "batch": 1}
    return Samples(**{**fields, **changes})


def marked(marks: Any) -> Samples:
    return samples_of(trace=replace(samples_of().trace, marks=np.array(marks)))


def reading_of(**changes: Any) -> Reading:
    fields = {
        "meter": "toy",
        "scope": "board",
        "watches": "board",
        "provenance": "measured",
        "quantity": "power",
        "host": "",
        "method": "default",
        "window_s": 2.0,
        "inferences": 100,
        "samples": 20,
        "greatest_gap_s": 0.1,
        "period_s": 0.1,
        "averaging_s": 0.0,
        "calibration": None,
        "energy_gross_j": 10.0,
        "power_gross_w": 5.0,
        "energy_gross_mj": 100.0,
    }
    return Reading(**{**fields, **changes})


def reported(**changes: Any) -> Samples:
    return samples_of(here=DeviceReport(**changes))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (None, "measure gave NoneType (contract: measure gives Samples)"),
        (
            samples_of(np.full(100, 0.001)),
            "latency_ns is float64 [100] (contract: latency_ns: int64 [n] in nanosec",
        ),
        (
            samples_of(np.zeros(0, np.int64)),
            "latency_ns is empty (contract: LatencyTrace.latency_ns: int64 [n]",
        ),
        (samples_of(np.zeros((100, 1), np.int64)), "latency_ns is int64 [100, 1] (contract: latency_ns"),
        (
            samples_of(np.arange(100)),
            "latency_ns has 0 (contract: LatencyTrace.latency_ns: int64 [n] in nanosecond",
        ),
        (samples_of(np.arange(100) - 5), "latency_ns has -5 (contract: latency_ns: from 0)"),
        (
            samples_of(np.ones(100, np.int64)),
            "the median of latency_ns is 1 ns; is it in another unit? (contract: La",
        ),
        (
            samples_of(np.full(100, 1000)),
            "the latencies add up to 0.0001 s, and the window is 0.11 s; are they in mi",
        ),
        (
            samples_of(window_ns=90_000_000),
            "the latencies add up to 0.1 s, and the window is 0.09 s (contract: Laten",
        ),
        (samples_of(window_ns=0.11), "window_ns is 0.11 (contract: LatencyTrace.window_ns: nanoseconds)"),
        (samples_of(batch=4), "batch is 4, not 1 (contract: Samples.batch: images of a query)"),
        (samples_of(first_ns=0.005), "first_ns is 0.005 (contract: nanoseconds)"),
        (samples_of(warmup=WarmUp(np.zeros(3), True)), "warmup.latency_ns is float64 [3]"),
        (
            samples_of(environment={"cores": "two"}),
            "environment has cores 'two' (contract: Samples.environment: numbe",
        ),
        (samples_of(spans={"load": (5, 3)}), "span load is (5, 3) (contract: Samples.spans: begin and end"),
        (
            replace(samples_of(), trace=replace(samples_of().trace, queue_ns=np.zeros(7, np.int64))),
            "queue_ns has 7 values of 100 (contract: LatencyTrace.queue_ns: one a query)",
        ),
        (
            marked([[5, 10, 8], [101, 20, 9]]),
            "marks count 101 of 100 queries (contract: LatencyTrace.marks: int6",
        ),
        (marked([[5, 10, 8], [4, 20, 9]]), "marks do not rise (contract: LatencyTrace.marks: int64 [k, 3]"),
        (marked([[-1, 10, 8]]), "marks do not rise (contract: LatencyTrace.marks: int64 [k, 3]"),
        (marked([5, 10, 8]), "marks are int64 [3] (contract: LatencyTrace.marks: int64 [k, 3]"),
        (marked([[0.5, 10, 8]]), "marks are float64 [1, 3] (contract: LatencyTrace.marks: int64 [k, 3]"),
        (
            reported(memory={"process_peak_bytes": 45}),
            "memory has process_peak_bytes 45; is it in MB? (contract: Devi",
        ),
        (reported(memory={"process_peak_bytes": 45.2}), "memory has process_peak_bytes 45.2; is it in MB?"),
        (
            reported(memory={"process_peak_bytes": -(2**20)}),
            "memory has process_peak_bytes -1048576 (contract",
        ),
        (
            reported(energy=({"energy_gross_j": 1},)),
            "energy has dict (contract: DeviceReport.energy: Readings)",
        ),
        (
            reported(energy=(reading_of(energy_gross_j=0.01),)),
            "meter 'toy': 0.01 J in 2 s are not 5 W (contract",
        ),
        (reported(energy=(reading_of(power_gross_w=5000.0),)), "meter 'toy': 10 J in 2 s are not 5000 W"),
        (
            reported(energy=(reading_of(energy_gross_mj=0.1),)),
            "meter 'toy': 10 J for 100 inferences are not 0.1 mJ",
        ),
        (
            reported(energy=(reading_of(energy_net_j=float("nan")),)),
            "meter 'toy': energy_net_j is nan (contract",
        ),
        (
            reported(energy=(reading_of(scope="rail"),)),
            "meter 'toy': scope is 'rail' (contract: Reading.scope: wall",
        ),
    ],
)
def test_samples_of_another_unit_type_or_length_are_refused(samples, reason):
    need = load_plugins(extra={"broken": plugin(BACKEND)}).backends.need("toy-board")
    check_samples(need, samples_of(here=DeviceReport(energy=(reading_of(),))), Workload())
    with pytest.raises(BrokenContract) as caught:
        check_samples(need, samples, Workload())
    assert str(caught.value).startswith(f"{NAMED}backend 'toy-board': {reason}")


def test_queries_that_overlap_may_take_longer_than_the_window():
    need = load_plugins(extra={"broken": plugin(BACKEND)}).backends.need("toy-board")
    overlapping = samples_of(window_ns=52_000_000)
    check_samples(need, overlapping, Workload(fleet=FleetLoad(in_flight=2)))
    check_samples(need, overlapping, Workload(scenario="server", target_qps=2000))
    with pytest.raises(BrokenContract, match="the latencies add up to"):
        check_samples(need, overlapping, Workload())


class ToyDevice:
    """A third party's device, with answers of its own."""

    remote = False
    info = DEVICE

    def __init__(self, **answers: Any) -> None:
        given = {
            "load": {"precision": "float32"},
            "clock": Clock(),
            "end": DeviceReport(),
            "measure": samples_of(),
        }
        for name, answer in {
            **given,
            "infer": np.zeros((2, 2), np.float32),
            "serve": None,
            **answers,
        }.items():
            setattr(self, name, answer if name in ("remote", "info") else giving(answer))

    def connect(self, graph: Any, peers: Any) -> None: ...
    def begin(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> ToyDevice:
        return self

    def __exit__(self, *about: Any) -> None: ...


WHOLE = Graph(parts=(GraphPart(name="whole", inputs=("image",), output=TensorSpec(shape=(2,))),))


@pytest.mark.parametrize(
    ("answers", "call", "reason"),
    [
        (
            {"load": {}},
            lambda d: d.load("whole", SimpleNamespace(), RUNTIME),
            "facts lack precision: None (contract:",
        ),
        (
            {"load": 1},
            lambda d: d.load("whole", SimpleNamespace(), RUNTIME),
            "facts are int (contract: Session.facts",
        ),
        ({}, lambda d: d.serve(d), "serve gave NoneType (contract: serve gives a PeerAddress)"),
        ({"clock": 0}, lambda d: d.clock(), "clock gave int (contract: clock gives a Clock)"),
        ({"clock": Clock(offset_ns=0.5)}, lambda d: d.clock(), "clock gave Clock(offset_ns=0.5"),
        ({"end": {}}, lambda d: d.end({}, 0, 1), "end gave dict (contract: end gives a DeviceReport)"),
        (
            {"infer": np.zeros((2, 2))},
            lambda d: d.infer(None, 1),
            "infer gave float64 [2, 2], not float32 [2, 2]",
        ),
        (
            {"infer": np.zeros((2, 3), np.float32)},
            lambda d: d.infer(None, 1),
            "infer gave float32 [2, 3], not float3",
        ),
        (
            {"infer": None},
            lambda d: d.infer(None, 1),
            "infer gave NoneType, not float32 [2, 2] (contract: Device.inf",
        ),
        (
            {"measure": None},
            lambda d: d.measure(Workload(), None),
            "measure gave NoneType (contract: measure gives S",
        ),
    ],
)
def test_an_answer_of_a_device_that_breaks_its_contract_is_refused(answers, call, reason):
    need = load_plugins(extra={"broken": plugin(BACKEND)}).backends.need("toy-board")
    device = CheckedDevice(need, ToyDevice(**answers))
    device.connect(WHOLE, {})
    images = np.zeros((2, 1, 2, 2), np.float32)
    device.infer, infer = (lambda given, batch: infer(images, batch)), device.infer
    with pytest.raises(BrokenContract) as caught:
        call(device)
    assert str(caught.value).startswith(f"{NAMED}backend 'toy-board': {reason}")


def test_a_remote_device_names_its_machine():
    need = load_plugins(extra={"broken": plugin(BACKEND)}).backends.need("toy-board")
    CheckedDevice(need, ToyDevice(remote=True, info=replace(DEVICE, machine_id="m1")))
    with pytest.raises(BrokenContract) as caught:
        CheckedDevice(need, ToyDevice(remote=True))
    assert str(caught.value).startswith(
        f"{NAMED}backend 'toy-board': toy is another machine and has no machine_id (contract: DeviceInfo.machine_id"
    )
    with pytest.raises(BrokenContract, match="open gave NoneType"):
        CheckedDevice(need, None)


def test_a_device_of_another_machine_is_measured_by_its_own_meters(tmp_path):
    own = replace(DEVICE, machine_id="m1", meters=(POWER,))
    cells = planned(tmp_path, OWN, replace(BACKEND, describe=giving(own)), METER)
    (monitor,) = cells["good", "toy"].task.monitors
    assert ([use.info for use in monitor.meters], dict(monitor.watches)) == ([POWER], {})
    bare = planned(tmp_path, OWN, replace(BACKEND, describe=giving(replace(DEVICE, machine_id="m1"))))
    assert bare["good", "toy"].task.monitors[0].meters == ()
    assert bare["good", "toy"].task.no_meter == "no meter answers"


def test_a_device_takes_the_formats_that_it_names(tmp_path):
    own = replace(DEVICE, machine_id="m1", formats=("engine",))
    cells = planned(tmp_path, OWN, replace(BACKEND, describe=giving(own)))
    assert cells["good", "toy"].impossible == (
        "toy takes ENGINE files only, which runtime onnxruntime does not export"
    )
    onnx = planned(tmp_path, OWN, replace(BACKEND, describe=giving(replace(own, formats=("onnx",)))))
    assert onnx["good", "toy"].impossible is None


def test_details_of_plugins_for_0_1_0_are_named_fields():
    old = DeviceInfo(
        name="toy",
        backend="toy-board",
        model="Toy",
        kind="cpu",
        cores=1,
        memory_bytes=1,
        details={
            "machine_id": "m1",
            "link": {"rate_mbps": 16.0, "rtt_ms": 0.4, "ports": "shared"},
            "memory_budget_bytes": 1_000_000,
            "meters": [asdict(POWER)],
            "tells": ["mhz"],
            "uuid": "GPU-a",
        },
    )
    assert (old.machine_id, old.is_board) == ("m1", True)
    assert old.link == DeviceLink(rate_mbps=16.0, rtt_ms=0.4, shared=True)
    assert old.weight_budget_bytes == 1_000_000
    assert old.meters == (POWER,)
    assert (old.signals, old.watched_as) == (("mhz",), "GPU-a")
    assert from_json(DeviceInfo, to_json(old)) == old


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"link": {"rate_mbps": 16}},
            "link is {'rate_mbps': 16} (contract: DeviceInfo.link: a DeviceLink or None)",
        ),
        (
            {"link": DeviceLink(rate_mbps=0)},
            "link.rate_mbps is 0 (contract: DeviceLink.rate_mbps: 10^6 bits per se",
        ),
        (
            {"weight_budget_bytes": 40},
            "weight_budget_bytes is 40; is it in MB? (contract: DeviceInfo.weight_budget",
        ),
        ({"meters": [POWER]}, "meters is [MeterInfo("),
        ({"formats": "onnx"}, "formats is 'onnx' (contract: DeviceInfo.formats: a tuple of texts)"),
        ({"environment": {"os": {1}}}, "environment are not JSON (contract: DeviceInfo.environment"),
    ],
)
def test_named_fields_of_a_device_are_checked(tmp_path, changes, reason):
    cells = planned(tmp_path, OWN, replace(BACKEND, describe=giving(replace(DEVICE, **changes))))
    assert cells["good", "toy"].impossible.startswith(f"toy: {NAMED}backend 'toy-board': {reason}")

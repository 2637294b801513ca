"""Tests of the CPU backend: real workers on this machine, their samples, memory and affinity."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.errors import DeviceError
from harness.plugins import load_plugins
from harness.types import (
    Artifact,
    DeviceInfo,
    DeviceSpec,
    Graph,
    GraphPart,
    RuntimeEntry,
    Stop,
    TensorSpec,
    Unavailable,
    Workload,
)

FAKE = Path(__file__).parents[1] / "data" / "fake_runtime"
IMAGES = np.arange(12, dtype=np.float32).reshape(6, 2)
SHORT = Workload(stop=Stop(min_time_s=0.05, min_queries=20, max_time_s=5, warmup_max_s=0.2))


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.fixture
def runtime(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKE))
    import fake_runtime

    def make(preload=()):
        return RuntimeEntry(
            name="fake",
            summary="for tests",
            export=None,
            load=fake_runtime.load,
            preload=preload,
            precision=lambda params: "float32",
            tolerance=lambda params: 0.0,
        )

    yield make
    sys.modules.pop("fake_runtime", None)


@pytest.fixture
def opened(plugins):
    devices = []

    def make(name="here", threads=1, **params):
        entry = plugins.backends.get("cpu").entry
        devices.append(
            entry.open(DeviceSpec(name=name, backend="cpu", params=entry.params(**params), threads=threads))
        )
        return devices[-1]

    yield make
    for device in devices:
        device.close()


def artifact(*, inputs=1, width=2, **what):
    spec = TensorSpec(shape=(width,))
    return Artifact(
        path=FAKE,
        runtime="fake",
        precision="float32",
        weight_bytes=0,
        inputs=(spec,) * inputs,
        output=spec,
        meta=what,
    )


def whole(device, runtime, **what):
    facts = device.load("model", artifact(**what), runtime)
    device.connect(graph(width=what.get("width", 2), model=("image",)), {})
    return facts


def graph(missing=None, width=2, wire="float32", **parts):
    spec = TensorSpec(shape=(width,))
    return Graph(
        parts=tuple(
            GraphPart(
                name=name,
                inputs=inputs,
                output=spec,
                stand_ins=(missing or {}).get(name, {}),
                wire_dtype=wire,
            )
            for name, inputs in parts.items()
        )
    )


def joined(central, parts, peers, **options):
    """Make ``central`` the central node of ``parts``; ``peers`` maps a part to the device that has it."""
    served = {id(peer): peer.serve(central) for peer in peers.values()}
    central.connect(graph(**options, **parts), {name: served[id(peer)] for name, peer in peers.items()})


@pytest.mark.parametrize("preload", [(), ("json", "decimal")])
def test_a_device_is_a_fresh_process(opened, runtime, preload):
    one, two = opened(), opened(threads=3)
    facts = [whole(device, runtime(preload), times=2) for device in (one, two)]
    assert len({facts[0]["pid"], facts[1]["pid"], os.getpid()}) == 3
    assert facts[1]["threads"] == 3
    np.testing.assert_array_equal(one.infer(IMAGES, len(IMAGES)), IMAGES * 2)


def test_measure_gives_raw_samples(opened, runtime):
    device = opened()
    whole(device, runtime(), first_s=0.05, sleep_s=0.001, counts=True)
    samples = device.measure(SHORT, IMAGES)
    assert samples.trace.reached
    assert len(samples.trace.latency_ns) >= 20
    assert samples.trace.latency_ns.min() >= 1_000_000
    assert samples.first_ns >= 50_000_000  # the first inference stands apart
    asked = 1 + len(samples.warmup.latency_ns) + len(samples.trace.latency_ns)
    assert samples.answers.n == asked
    pairs = len(samples.answers.same_ns)  # each after one or two queries
    (answer,) = set(device.infer(IMAGES[:1], 1).flat)
    assert asked + 3 * pairs < answer <= asked + 4 * pairs + 1
    assert samples.environment["wall_s"] >= 0.05
    assert samples.parts.traffic == {}


def test_memory_is_that_of_the_model(opened, runtime):
    small, large = opened(), opened()
    whole(small, runtime())
    whole(large, runtime(), allocate_mb=200)
    used = [device.measure(SHORT, IMAGES).here.memory for device in (small, large)]
    grown = [memory["process_peak_bytes"] - memory["baseline_bytes"] for memory in used]
    assert 190e6 < grown[1] - grown[0] < 210e6


@pytest.mark.parametrize(("count", "batch"), [(1000, 1), (200, 1000)])
def test_the_images_of_the_load_are_not_the_model_s_memory(opened, runtime, count, batch):
    device = opened()
    whole(device, runtime(), width=25_000)
    images = np.ones((count, 1), np.float32) * np.ones(25_000, np.float32)  # 0.1 MB each
    load = Workload(batch=batch, stop=Stop(min_time_s=0.05, min_queries=1, max_time_s=5, warmup_max_s=0.2))
    memory = device.measure(load, images).here.memory
    output = batch * 0.1e6
    assert memory["process_peak_bytes"] - memory["baseline_bytes"] < 2 * output + 15e6


def test_the_first_inference_is_the_first_whoever_asked(opened, runtime):
    device = opened()
    whole(device, runtime(), first_s=0.05)
    device.infer(IMAGES, len(IMAGES))
    assert device.measure(SHORT, IMAGES).first_ns >= 50_000_000


def test_a_device_that_serves_another_says_so(opened, runtime):
    central, peer = opened("a"), opened("b")
    peer.load("far", artifact(), runtime())
    central.load("near", artifact(), runtime())
    joined(central, {"far": ("image",), "near": ("far",)}, {"far": peer})
    with pytest.raises(DeviceError, match="b answers to a until it is closed"):
        peer.infer(IMAGES, len(IMAGES))


def test_what_a_runtime_prints_does_not_reach_standard_output(opened, runtime, capfd):
    device = opened()
    whole(device, runtime(), says="loading, please wait")
    device.infer(IMAGES, len(IMAGES))
    device.close()
    seen = capfd.readouterr()
    assert seen.out == ""
    assert "loading, please wait" in seen.err


def test_affinity_is_set_and_checked(plugins, opened, runtime):
    core = min(os.sched_getaffinity(0))
    device = opened(affinity=(core,))
    facts = whole(device, runtime())
    assert os.sched_getaffinity(facts["pid"]) == {core}
    with pytest.raises(ValueError, match="no core 4096; allowed: "):
        opened(affinity=(4096,))


def test_parts_run_on_their_devices_and_are_joined(opened, runtime):
    central, left, right = opened("a"), opened("b"), opened("c")
    for device, name, what in (
        (left, "left", {"times": 2, "sleep_s": 0.01}),
        (right, "right", {"times": 3, "sleep_s": 0.01}),
        (central, "sum", {"inputs": 2}),
        (central, "last", {"times": 10}),
    ):
        device.load(name, artifact(**what), runtime())
    joined(
        central,
        {"left": ("image",), "right": ("image",), "sum": ("left", "right"), "last": ("sum",)},
        {"left": left, "right": right},
    )
    np.testing.assert_array_equal(central.infer(IMAGES, len(IMAGES)), IMAGES * 50)
    samples = central.measure(SHORT, IMAGES)
    assert set(samples.parts.timeline) == {
        *(
            f"{kind}:{part}"
            for kind in ("encode", "transport", "queue", "compute")
            for part in ("left", "right")
        ),
        "compute:sum",
        "compute:last",
    }
    assert all(len(values) == len(samples.trace.latency_ns) for values in samples.parts.timeline.values())
    assert np.median(samples.parts.timeline["compute:left"]) >= 10_000_000
    assert samples.trace.latency_ns.min() < 20_000_000  # one after the other, two parts of 10 ms never are
    assert samples.parts.traffic["input_bytes"] == samples.parts.traffic["feature_bytes"] == 2 * 8
    assert samples.parts.traffic["sent_bytes:left"] > 8  # with the frame's header
    assert set(samples.parts.links) == {
        f"{way}:{part}" for way in ("rtt", "up", "down") for part in ("left", "right")
    }
    assert set(samples.parts.outcome) == {0}


def test_outputs_that_travel_as_float16_arrive_as_float32(opened, runtime):
    central, left, right = opened("a"), opened("b"), opened("c")
    for device, name in ((left, "left"), (right, "right"), (central, "last")):
        device.load(name, artifact(times=3, strict=True), runtime())
    parts = {"left": ("image",), "right": ("left",), "last": ("right",)}
    joined(central, parts, {"left": left, "right": right}, wire="float16")
    np.testing.assert_array_equal(central.infer(IMAGES, len(IMAGES)), IMAGES * 27)
    assert central.measure(SHORT, IMAGES).trace.reached


def test_two_parts_of_one_peer_take_turns(opened, runtime):
    central, peer = opened("a"), opened("b")
    for name in ("one", "two"):
        peer.load(name, artifact(times=2), runtime())
    central.load("sum", artifact(inputs=2), runtime())
    joined(central, {"one": ("image",), "two": ("image",), "sum": ("one", "two")}, {"one": peer, "two": peer})
    np.testing.assert_array_equal(central.infer(IMAGES, len(IMAGES)), IMAGES * 4)


def test_a_killed_worker_is_said_not_waited_for(opened, runtime):
    device = opened()
    whole(device, runtime(), die_at=3)
    with pytest.raises(DeviceError, match=r"worker on here was ended by SIGKILL \(out of memory\?\)"):
        device.measure(SHORT, IMAGES)


def test_a_peer_that_dies_ends_the_query_with_an_error(opened, runtime):
    central, peer = opened("a"), opened("b")
    peer.load("far", artifact(die_at=5), runtime())
    central.load("near", artifact(), runtime())
    joined(central, {"far": ("image",), "near": ("far",)}, {"far": peer})
    with pytest.raises(DeviceError, match="part far on b: the worker went away"):
        central.measure(SHORT, IMAGES)


def test_a_part_that_fails_on_a_peer_ends_the_query_with_its_error(opened, runtime):
    central, peer = opened("a"), opened("b")
    peer.load("far", artifact(raise_at=5), runtime())
    central.load("near", artifact(), runtime())
    joined(central, {"far": ("image",), "near": ("far",)}, {"far": peer})
    with pytest.raises(DeviceError, match="part far on b: RuntimeError: the fake session fails on demand"):
        central.measure(SHORT, IMAGES)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"raise_at": 2}, "the fake session fails on demand"),
        ({"broken": True}, "the fake artifact is broken"),
    ],
)
def test_what_a_runtime_raises_is_one_line(opened, runtime, what, message):
    device = opened()

    def use():
        whole(device, runtime(), **what)
        device.measure(SHORT, IMAGES)

    with pytest.raises(DeviceError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)


@pytest.mark.clock
def test_closing_ends_the_worker_within_a_second(opened, runtime):
    device = opened()
    process = psutil.Process(whole(device, runtime())["pid"])
    start = time.monotonic()
    device.close()
    assert time.monotonic() - start < 1.5
    assert not process.is_running()
    device.close()  # twice is no error


ORPHAN = """
import sys, time
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    import numpy as np, fake_runtime
    from harness.plugins import load_plugins
    from harness.types import *
    entry = load_plugins().backends.get("cpu").entry
    device = entry.open(DeviceSpec(name="here", backend="cpu", params=entry.params()))
    spec = TensorSpec(shape=(2,))
    artifact = Artifact(path=sys.argv[1], runtime="fake", precision="float32", weight_bytes=0, inputs=(spec,),
                        output=spec, meta={"sleep_s": 0.01})
    runtime = RuntimeEntry(name="fake", summary="", export=None, load=fake_runtime.load, preload=eval(sys.argv[2]),
                           precision=None, tolerance=None)
    print(device.load("model", artifact, runtime)["pid"], flush=True)
    part = GraphPart(name="model", inputs=("image",), output=spec)
    device.connect(Graph(parts=(part,)), {})
    device.measure(Workload(stop=Stop(min_time_s=120, max_time_s=120)), np.ones((4, 2), np.float32))
"""


@pytest.mark.parametrize("preload", ["()", "('json',)"])
def test_a_worker_does_not_outlive_its_parent(tmp_path, preload):
    import subprocess

    script = tmp_path / "parent.py"
    script.write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, script, FAKE, preload], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)  # in the middle of a window
    parent.send_signal(signal.SIGKILL)
    parent.wait(60)
    until = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while worker.status() != psutil.STATUS_ZOMBIE:  # as it stays where nobody asks how it ended
            assert time.monotonic() < until
            time.sleep(0.05)


def test_cuda_says_what_is_missing_or_what_there_is(plugins):
    entry = plugins.backends.get("cuda").entry
    answers = list(entry.probe())
    assert answers
    assert all(
        (isinstance(answer, Unavailable) and answer.reason)
        or (isinstance(answer, DeviceInfo) and answer.model)
        for answer in answers
    )
    described = entry.describe(DeviceSpec(name="gpu", backend="cuda", params=entry.params(index=0)))
    assert isinstance(described, type(answers[0]))


def test_the_cpu_is_described(plugins):
    (info,) = plugins.backends.get("cpu").entry.probe()
    assert info.kind == "cpu"
    assert info.cores >= 1
    assert info.memory_bytes > 1e8

"""Tests of MLCommons LoadGen as the generator, and of its agreement with the project's own."""

from __future__ import annotations

import itertools
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import harness.worker.loadgen.mlperf
from harness.extras import install_command
from harness.types import Stop, Workload
from harness.worker.loadgen.generate import generate
from harness.worker.loadgen.mlperf import generate_with_loadgen, needs
from harness.worker.loadgen.queries import batches, per_query, whole

pytestmark = pytest.mark.clock
pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: pip install -e '.[loadgen]'")

IMAGES = np.arange(24, dtype=np.float32).reshape(6, 4)
SCENARIOS = {
    "single-stream": {},
    "multi-stream": {"streams": 4, "batch": 2},
    "offline": {"batch": 3},
    "server": {"target_qps": 150.0},
}


def load_of(
    scenario: str,
    *,
    generator: str = "loadgen",
    target_qps: float | None = None,
    seed: int = 0,
    **stop: float,
) -> Workload:
    fields = SCENARIOS[scenario] | ({} if target_qps is None else {"target_qps": target_qps})
    stops = Stop(**{"min_time_s": 0.3, "min_queries": 20, "max_time_s": 5.0, **stop})
    return Workload(scenario=scenario, generator=generator, seed=seed, stop=stops, **fields)


def run(load: Workload, query):
    return generate(whole(query, load), batches(IMAGES, per_query(load)), load)


def two_ms(images):
    time.sleep(0.002)


def agrees(name: str, measure, within: float = 0.01) -> None:
    """Check that the two figures of ``measure`` agree in one of five tries. On a busy machine they can differ."""
    seen = []
    for _ in range(5):
        one, other = measure()
        seen.append(f"{one:.4f} and {other:.4f}")
        if abs(one - other) <= max(within * other, 0.05):
            return
    pytest.fail(f"{name}: {'; '.join(seen)}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_meets_both_minima(scenario):
    load = load_of(scenario)
    shapes = []

    def query(images):
        shapes.append(images.shape)
        time.sleep(0.002)

    timed = run(load, query)
    assert timed.reached
    assert timed.window_ns >= 0.3e9
    assert len(timed.latency_ns) >= 20
    assert set(shapes) == {(load.batch, 4)}
    assert timed.latency_ns.min() >= 2_000_000 * (2 if scenario == "multi-stream" else 1)
    assert re.fullmatch(r"\d+(\.\d+)+", timed.reference["loadgen"])
    assert {"p50_ms", "p90_ms", "p99_ms"} <= set(timed.reference) or scenario == "offline"
    assert (timed.queue_ns is None) == (scenario != "server")


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server"])
def test_its_summary_is_of_the_queries_that_we_timed(scenario):
    def measure():
        timed = run(load_of(scenario, target_qps=20.0), lambda images: time.sleep(0.02))
        middle = np.sort(timed.latency_ns)[len(timed.latency_ns) // 2]  # as LoadGen takes a percentile
        assert middle <= 1e6 * timed.reference["p50_ms"]  # its own calls are in its figure
        return middle / 1e6, timed.reference["p50_ms"]

    agrees("our timing and LoadGen's, ms", measure)


@pytest.mark.parametrize(("scenario", "rate"), [("offline", "samples_per_s"), ("single-stream", "qps")])
def test_its_rate_is_that_of_our_window(scenario, rate):
    def measure():
        timed = run(load_of(scenario), two_ms)
        images = len(timed.latency_ns) * (3 if scenario == "offline" else 1)
        return 1 / (timed.window_ns / 1e9 / images), timed.reference[rate]

    agrees("our rate and LoadGen's, 1/s", measure, within=0.1)


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_it_agrees_with_our_generator(scenario):
    """Over what each query took by itself, as one of 2 ms takes longer on a busy machine."""

    def over_itself(generator):
        took = []

        def query(images):
            begin = time.perf_counter_ns()
            time.sleep(0.002)
            took.append(time.perf_counter_ns() - begin)

        timed = run(load_of(scenario, generator=generator), query)
        calls = 2 if scenario == "multi-stream" else 1  # four images, two at a time
        last = np.array(took[-calls * len(timed.latency_ns) :]).reshape(-1, calls)
        assert (timed.latency_ns >= last.sum(1)).all()
        return np.median(timed.latency_ns / last.sum(1))

    agrees("our p50 and LoadGen's", lambda: (over_itself("harness"), over_itself("loadgen")))


def test_latency_counts_from_when_a_query_was_due():
    for _ in range(5):  # the machine itself may stall before
        calls = itertools.count()

        def query(images, calls=calls):
            time.sleep(0.3 if next(calls) == 20 else 0.0005)  # the first ones are tried, for the speed

        timed = run(load_of("server", min_time_s=0.6), query)
        stalled = int(np.argmax(timed.latency_ns - timed.queue_ns))
        waited = np.flatnonzero(timed.queue_ns > 0.1e9)
        if 5 <= stalled <= 20 and stalled + 1 in waited[:1]:
            break
    assert 5 <= stalled <= 20
    assert len(waited) > 10  # 150 a second, for the first two thirds of the stall
    assert waited[0] == stalled + 1
    assert (timed.late_ns[waited] == 0).all()
    assert (timed.latency_ns[waited] > 0.1e9).all()


def test_an_overload_ends_at_the_maximum_time():
    timed = run(load_of("server", target_qps=2000.0, min_queries=5000, max_time_s=0.5), two_ms)
    assert not timed.reached
    assert 0.5e9 <= timed.window_ns < 4e9
    assert timed.queue_ns[-1] > 0.2e9


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_the_maximum_time_ends_a_window_that_is_then_short(scenario):
    timed = run(load_of(scenario, min_queries=100_000, max_time_s=0.3), two_ms)
    assert not timed.reached
    assert timed.window_ns < 4e9


def test_offline_ends_even_if_the_model_becomes_slower():
    calls = iter([0.0001] * 20)
    timed = run(
        load_of("offline", min_time_s=0.1, max_time_s=0.3, min_queries=1000),
        lambda images: time.sleep(next(calls, 0.01)),
    )
    assert not timed.reached
    assert timed.window_ns < 4e9
    assert timed.reference == {}  # LoadGen would count what was not inferred


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_of_the_query_is_raised_when_loadgen_has_ended(scenario):
    calls = itertools.count()

    def query(images):
        if next(calls) == 15:
            raise RuntimeError("out of memory")
        time.sleep(0.001)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(load_of(scenario, min_queries=40), query)
    assert run(load_of(scenario), two_ms).reached  # and LoadGen can run again


def test_it_queries_in_the_calling_thread():
    threads = set()
    run(
        load_of("single-stream", min_time_s=0, min_queries=3),
        lambda images: threads.add(threading.get_ident()),
    )
    assert threads == {threading.get_ident()}


def test_nothing_is_printed_and_nothing_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness.worker.loadgen.mlperf.tempfile, "tempdir", str(tmp_path / "temporary"))
    Path(tmp_path / "temporary").mkdir()
    for scenario in SCENARIOS:
        run(load_of(scenario, min_time_s=0.05, min_queries=2), two_ms)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_a_seed_chooses_the_schedule():
    def queue_of(seed):
        load = load_of("server", seed=seed, min_time_s=0.1, target_qps=100.0)
        sent = []
        generate_with_loadgen(lambda images: sent.append(time.perf_counter()), batches(IMAGES, 1), load)
        return np.diff(sent[-20:])  # the first few are tried, for the speed

    def alike(one, other):
        return max(np.corrcoef(queue_of(one), queue_of(other))[0, 1] for _ in range(6))  # a stall blurs it

    assert alike(1, 1) > 0.8 > alike(1, 2)


def test_it_is_missing_where_its_module_is(monkeypatch):
    assert needs() is None
    monkeypatch.setattr(harness.worker.loadgen.mlperf.importlib.util, "find_spec", lambda name: None)
    assert install_command("loadgen") in needs()

"""Tests of the load generator, on a clock that the tests set: batches, windows, scenarios, arrivals."""

from __future__ import annotations

import gc
import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.types import Stop, Workload
from harness.worker.loadgen.generate import generate
from harness.worker.loadgen.loop import first_query, warm_up
from harness.worker.loadgen.queries import arrivals, batches, per_query, whole

IMAGES = np.arange(24, dtype=np.float32).reshape(6, 4)


def nothing(batch):
    return batch


@given(st.integers(1, 40), st.integers(1, 50))
def test_batches_are_full_and_hold_images_of_the_set(m, batch):
    images = np.arange(m, dtype=np.float32)[:, None]
    made = batches(images, batch)
    assert made
    assert all(query.shape == (batch, 1) for query in made)
    assert {float(x) for query in made for x in query.ravel()} <= set(range(m))
    assert all(query.flags["C_CONTIGUOUS"] for query in made)


@pytest.mark.parametrize(("images", "batch"), [(IMAGES[:0], 1), (IMAGES, 0)])
def test_no_batches_of_nothing(images, batch):
    with pytest.raises(ValueError, match="cannot make queries"):
        batches(images, batch)


def test_a_window_meets_both_minima():
    timed = generate(
        nothing, batches(IMAGES, 1), Workload(stop=Stop(min_time_s=0.02, min_queries=50, max_time_s=5))
    )
    assert timed.reached
    assert len(timed.latency_ns) >= 50
    assert timed.window_ns >= 20_000_000
    assert (timed.latency_ns > 0).all()
    assert timed.latency_ns.sum() <= timed.window_ns


def test_the_maximum_time_ends_a_window_that_is_then_short(clock):
    load = Workload(stop=Stop(min_time_s=0.01, min_queries=10_000, max_time_s=0.05))
    timed = generate(clock.query([0.01]), batches(IMAGES, 1), load, clock)
    assert not timed.reached
    assert len(timed.latency_ns) == 5
    assert 50e6 <= timed.window_ns < 60e6


def test_images_are_cycled_in_order():
    seen = []
    generate(
        lambda batch: seen.append(float(batch[0, 0])),
        batches(IMAGES, 2),
        Workload(batch=2, stop=Stop(min_time_s=0, min_queries=7)),
    )
    assert seen[:7] == [0, 8, 16, 0, 8, 16, 0]


def test_latencies_are_those_of_the_query():
    timed = generate(
        lambda batch: time.sleep(0.003), batches(IMAGES, 1), Workload(stop=Stop(min_time_s=0, min_queries=5))
    )
    assert timed.latency_ns.min() >= 3_000_000


class Clock:
    """A clock that a query moves, in place of the module ``time``: waiting takes no time."""

    STEP_NS = 10_000  # looking at the clock takes this long: waiting ends at most this much too late

    def __init__(self):
        self.now = 1_000_000_000

    def perf_counter_ns(self):
        self.now += self.STEP_NS
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += round(seconds * 1e9)

    def query(self, seconds):
        """Return a query that takes each of ``seconds`` in turn, and then the last one forever."""
        left = list(seconds)

        def query(batch):
            self.now += round(1e9 * (left.pop(0) if len(left) > 1 else left[0]))

        return query


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(("streams", "batch"), [(4, 4), (4, 2), (6, 1)])
def test_a_multi_stream_query_is_all_its_images_in_batches(streams, batch):
    load = Workload(
        scenario="multi-stream", streams=streams, batch=batch, stop=Stop(min_time_s=0, min_queries=5)
    )
    seen = []

    def query(images):
        seen.append(images.shape)
        time.sleep(0.002)

    timed = generate(whole(query, load), batches(np.zeros((7, 4), np.float32), per_query(load)), load)
    assert len(timed.latency_ns) == 5
    assert seen == [(batch, 4)] * (5 * streams // batch)
    assert timed.latency_ns.min() >= 2_000_000 * streams // batch
    assert timed.queue_ns is None


def test_arrivals_are_a_poisson_process():
    times = np.array(list(itertools.islice(arrivals(50.0, 7), 40_001)))
    gaps = np.diff(times) / 1e9
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(0.02, rel=0.02)  # standard error 0.5%
    assert stats.kstest(gaps, "expon", args=(0, 0.02)).pvalue > 0.01
    assert (
        abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / len(gaps) ** 0.5
    )  # gaps know nothing of one another
    counts = np.histogram(times / 1e9, np.arange(0, times[-1] / 1e9 - 1))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.15)  # as many as they vary, in any second


def test_arrivals_are_those_of_the_seed():
    def first(seed):
        return list(itertools.islice(arrivals(1000.0, seed), 5000))

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert next(arrivals(1e-6, 0)) > 0


def test_a_seed_says_when_queries_are_sent(clock):
    load = Workload(scenario="server", target_qps=100, seed=3, stop=Stop(min_time_s=2, min_queries=1))
    seen = []
    begin = clock.now
    timed = generate(lambda batch: seen.append(clock.now), batches(IMAGES, 1), load, clock)
    wanted = list(itertools.islice(arrivals(100, 3), len(seen)))
    assert wanted[-2] < 2e9 <= wanted[-1]  # the first that is due after the minimum is the last
    assert np.abs(np.array(seen) - begin - wanted).max() <= 4 * clock.STEP_NS
    assert timed.reached
    assert timed.window_ns >= 2e9
    assert (timed.queue_ns == timed.late_ns).all()  # nothing ever queued
    assert timed.late_ns.max() <= 2 * clock.STEP_NS


def test_a_stall_delays_those_that_were_due_meanwhile(clock):
    stall, service = 0.5, 0.0005
    load = Workload(scenario="server", target_qps=100, stop=Stop(min_time_s=2, min_queries=1))
    timed = generate(clock.query([stall, service]), batches(IMAGES, 1), load, clock)
    offsets = np.array(list(itertools.islice(arrivals(100, load.seed), len(timed.latency_ns)))) / 1e9
    behind = 0.0
    expected = []
    for offset, takes in zip(offsets, [stall] + [service] * len(offsets), strict=False):
        behind = max(behind, offset) + takes
        expected.append(behind - offset)
    assert timed.latency_ns / 1e9 == pytest.approx(expected, abs=0.02)
    stalled = (offsets > offsets[0]) & (offsets < offsets[0] + stall)
    assert stalled.sum() > 30
    assert (timed.latency_ns[stalled] / 1e9 > offsets[0] + stall - offsets[stalled]).all()
    assert (timed.late_ns[stalled] == 0).all()  # the system's doing, not the generator's
    assert (timed.latency_ns - timed.queue_ns).max() == pytest.approx(0.5e9, rel=1e-3)
    assert (
        np.sort(timed.latency_ns - timed.queue_ns)[-2] < 1e6
    )  # timed from being taken up, one in 200 is slow


@pytest.mark.parametrize("load_factor", [0.3, 0.5, 0.7])
def test_the_mean_wait_is_that_of_theory(clock, load_factor):
    """M/D/1, Pollaczek and Khinchine: the mean wait is rho D / (2 (1 - rho))."""
    service = 0.1
    load = Workload(
        scenario="server",
        target_qps=load_factor / service,
        seed=5,
        stop=Stop(min_time_s=0, min_queries=20_000, max_time_s=1e6),
    )
    timed = generate(clock.query([service]), batches(IMAGES, 1), load, clock)
    assert len(timed.latency_ns) == 20_000
    spans = timed.queue_ns.reshape(20, -1).mean(axis=1) / 1e9  # long enough to know nothing of one another
    error = spans.std(ddof=1) / 20**0.5
    wait = load_factor * service / (2 * (1 - load_factor))
    assert error < 0.05 * wait
    assert abs(spans.mean() - wait) < 3 * error + Clock.STEP_NS / 1e9
    free = timed.queue_ns == timed.late_ns
    assert free.mean() == pytest.approx(1 - load_factor, abs=0.02)  # arrivals see the time's average (PASTA)


def test_an_overload_ends_at_the_maximum_time(clock):
    load = Workload(
        scenario="server", target_qps=100, stop=Stop(min_time_s=1, min_queries=1000, max_time_s=3)
    )
    timed = generate(clock.query([0.02]), batches(IMAGES, 1), load, clock)
    assert 3e9 <= timed.window_ns <= 3.1e9
    assert not timed.reached
    assert len(timed.latency_ns) == pytest.approx(150, abs=2)
    assert timed.queue_ns[-1] > 1e9
    assert (timed.queue_ns[75:] > timed.queue_ns[:75].mean()).all()


def test_an_overload_answers_all_that_its_minima_ask_for(clock):
    load = Workload(scenario="server", target_qps=100, stop=Stop(min_time_s=1, min_queries=10, max_time_s=60))
    timed = generate(clock.query([0.02]), batches(IMAGES, 1), load, clock)
    assert timed.reached
    assert len(timed.latency_ns) == pytest.approx(100, abs=30)
    assert timed.window_ns == pytest.approx(len(timed.latency_ns) * 0.02e9, rel=0.05)


def test_a_window_without_further_arrivals_lasts_to_its_end(clock):
    load = Workload(scenario="server", target_qps=2, stop=Stop(min_time_s=5, min_queries=1, max_time_s=5))
    timed = generate(clock.query([0.001]), batches(IMAGES, 1), load, clock)
    assert timed.reached
    assert timed.window_ns == pytest.approx(5e9, abs=1e6)


def test_no_window_without_a_query(clock):
    load = Workload(scenario="server", target_qps=1e-4, stop=Stop(min_time_s=1, max_time_s=1))
    with pytest.raises(ValueError, match="no query was due within max_time"):
        generate(clock.query([0.001]), batches(IMAGES, 1), load, clock)


def test_a_server_needs_a_rate():
    with pytest.raises(ValueError, match="target_qps"):
        generate(nothing, batches(IMAGES, 1), Workload(scenario="server"))


def test_queries_are_never_sent_before_they_are_due():
    load = Workload(scenario="server", target_qps=200, seed=1, stop=Stop(min_time_s=0.3, min_queries=20))
    timed = generate(lambda batch: time.sleep(0.001), batches(IMAGES, 1), load)
    assert timed.reached
    assert (timed.queue_ns >= 0).all()
    assert (timed.latency_ns - timed.queue_ns >= 1_000_000).all()
    assert timed.late_ns.max() <= timed.queue_ns.max()


def test_the_garbage_collector_rests_meanwhile_only():
    resting = []
    for load in (
        Workload(stop=Stop(min_time_s=0, min_queries=2)),
        Workload(scenario="server", target_qps=1e4, stop=Stop(min_time_s=0, min_queries=2)),
    ):
        generate(lambda batch: resting.append(not gc.isenabled()), batches(IMAGES, 1), load)
        assert gc.isenabled()
    assert resting == [True] * 4


def test_warm_up_continues_until_the_latency_is_steady(clock):
    warm = warm_up(
        clock.query([0.02] * 12 + [0.002]), batches(IMAGES, 1), Workload(stop=Stop(warmup_max_s=10.0)), clock
    )
    assert warm.steady
    assert warm.latency_ns[:5].mean() > 9 * warm.latency_ns[-10:].mean()


def test_warm_up_gives_up_on_what_never_settles():
    sizes = iter(range(1, 10_000))
    warm = warm_up(
        lambda batch: time.sleep(0.0005 * next(sizes)),
        batches(IMAGES, 1),
        Workload(stop=Stop(warmup_max_s=0.3)),
    )
    assert not warm.steady


def test_a_slow_model_is_warmed_by_few_queries():
    warm = warm_up(lambda batch: time.sleep(0.2), batches(IMAGES, 1), Workload(stop=Stop(warmup_max_s=0.3)))
    assert len(warm.latency_ns) <= 4


def test_the_first_query_is_timed_alone():
    assert first_query(lambda batch: time.sleep(0.002), IMAGES[:1]) >= 2_000_000

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load import batches, first_query, generate, warm_up
from harness.types import Load

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
    timed = generate(nothing, batches(IMAGES, 1), Load(min_time_s=0.02, min_queries=50, max_time_s=5))
    assert timed.reached
    assert len(timed.latency_ns) >= 50
    assert timed.window_ns >= 20_000_000
    assert (timed.latency_ns > 0).all()
    assert timed.latency_ns.sum() <= timed.window_ns


def test_the_maximum_time_ends_a_window_that_is_then_short():
    timed = generate(
        lambda batch: time.sleep(0.01),
        batches(IMAGES, 1),
        Load(min_time_s=0.01, min_queries=10_000, max_time_s=0.05),
    )
    assert not timed.reached
    assert 1 <= len(timed.latency_ns) < 100
    assert timed.window_ns < 1_000_000_000


def test_images_are_cycled_in_order():
    seen = []
    generate(
        lambda batch: seen.append(float(batch[0, 0])),
        batches(IMAGES, 2),
        Load(batch=2, min_time_s=0, min_queries=7),
    )
    assert seen[:7] == [0, 8, 16, 0, 8, 16, 0]


def test_latencies_are_those_of_the_query():
    timed = generate(lambda batch: time.sleep(0.003), batches(IMAGES, 1), Load(min_time_s=0, min_queries=5))
    assert timed.latency_ns.min() >= 3_000_000


@pytest.mark.parametrize("scenario", ["server", "multi-stream"])
def test_later_scenarios_are_refused(scenario):
    with pytest.raises(ValueError, match="later"):
        generate(nothing, batches(IMAGES, 1), Load(scenario=scenario))


def test_warm_up_goes_on_until_the_latency_is_steady():
    calls = iter([0.02] * 12)
    warm = warm_up(lambda batch: time.sleep(next(calls, 0.002)), batches(IMAGES, 1), Load(warmup_max_s=10.0))
    assert warm.latency_ns[:5].mean() > 3 * warm.latency_ns[-10:].mean()


def test_warm_up_gives_up_on_what_never_settles():
    sizes = iter(range(1, 10_000))
    warm = warm_up(lambda batch: time.sleep(0.0005 * next(sizes)), batches(IMAGES, 1), Load(warmup_max_s=0.3))
    assert not warm.steady


def test_a_slow_model_is_warmed_by_few_queries():
    warm = warm_up(lambda batch: time.sleep(0.2), batches(IMAGES, 1), Load(warmup_max_s=0.3))
    assert len(warm.latency_ns) <= 4


def test_the_first_query_is_timed_alone():
    assert first_query(lambda batch: time.sleep(0.002), IMAGES[:1]) >= 2_000_000

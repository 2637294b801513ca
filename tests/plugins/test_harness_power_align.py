"""Tests of the clock offset of a log, found by the power step of the workload."""

from __future__ import annotations

import numpy as np
import pytest

from harness_power.align import align_step

TRIALS = 200


def log(rng, *, rate, idle, busy, noise, load, window, offset, averaging=0.0, jitter=0.2, margin=5.0):
    """Return a meter's log (its own times, watts) of a workload at ``load``. The log's clock is ``offset`` behind."""
    period = 1 / rate
    true = np.arange(window[0] - margin, window[1] + margin, period)
    true = true + rng.uniform(-jitter / 2, jitter / 2, len(true)) * period + rng.uniform(0, period)
    inside = np.clip(true, *load) - np.clip(true - averaging, *load)
    part = inside / averaging if averaging else ((true >= load[0]) & (true < load[1])).astype(float)
    return true - offset, idle + (busy - idle) * part + rng.normal(0, noise, len(true))


def trial(rng, *, averaged):
    rate = float(10 ** rng.uniform(0.5, 3))
    period = 1 / rate
    begin = float(rng.uniform(100, 1000))
    before, length, after = (float(x) for x in rng.uniform(12, 200, 3) * period)
    load = (begin + before, begin + before + length)
    window = (begin, load[1] + after)
    idle, step = float(rng.uniform(0.5, 50)), float(rng.uniform(0.5, 50))
    offset = float(rng.uniform(-1e6, 1e6))
    guess = offset + float(rng.uniform(-2, 2))
    averaging = period * float(rng.uniform(0.5, 4)) if averaged else 0.0
    times, watts = log(
        rng,
        rate=rate,
        idle=idle,
        busy=idle + step,
        noise=step * float(rng.uniform(0, 0.4)),
        load=load,
        window=window,
        offset=offset,
        averaging=averaging,
    )
    return times, watts, load, window, offset, (guess - 2.5, guess + 2.5), period, averaging


@pytest.mark.parametrize("averaged", [False, True])
def test_within_one_period_in_95_of_100_and_within_its_bound(averaged):
    rng = np.random.default_rng(0)
    near = bounded = 0
    for _ in range(TRIALS):
        times, watts, load, window, offset, search, period, averaging = trial(rng, averaged=averaged)
        try:
            alignment = align_step(times, watts, load, window, search, averaging=averaging)
        except ValueError:
            continue
        near += abs(alignment.offset_s - offset) <= period
        bounded += abs(alignment.offset_s - offset) <= alignment.error_s
    assert near >= 0.95 * TRIALS
    assert bounded >= 0.95 * TRIALS


def test_averaged_readings_give_more_than_the_period():
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(60):
        begin, load = 500.0, (502.0, 505.3)
        averaging = float(rng.uniform(0.1, 0.3))
        times, watts = log(
            rng,
            rate=10,
            idle=3,
            busy=9,
            noise=0.05,
            load=load,
            window=(begin, 508.0),
            offset=77.0,
            averaging=averaging,
        )
        alignment = align_step(times, watts, load, (begin, 508.0), (73.0, 80.0), averaging=averaging)
        errors.append(abs(alignment.offset_s - 77.0))
        assert alignment.idle_w == pytest.approx(3, abs=0.1)
        assert alignment.busy_w == pytest.approx(9, abs=0.1)
    assert np.median(errors) < 0.01
    assert max(errors) < 0.05


LOAD, WINDOW = (10.0, 14.0), (7.0, 17.0)


def refused(times, watts, search=(-4.0, 4.0), load=LOAD, window=WINDOW):
    with pytest.raises(ValueError) as caught:
        align_step(times, watts, load, window, search)
    return str(caught.value)


def test_noise_alone_is_refused():
    rng = np.random.default_rng(2)
    for _ in range(60):
        times = np.arange(0, 25, 0.05)
        text = refused(times, 5 + rng.normal(0, 1, len(times)))
        assert "noise" in text or "ambiguous" in text or "no rise" in text, text


@pytest.mark.parametrize(("step", "said"), [(0.3, "noise"), (1.0, "too faint")])
def test_a_faint_step_is_refused_or_within_its_bound(step, said):
    rng = np.random.default_rng(3)
    refusals, wrong = [], 0
    for _ in range(60):
        times, watts = log(
            rng, rate=20, idle=5, busy=5 + step, noise=1, load=LOAD, window=WINDOW, offset=0.0, jitter=0
        )
        try:
            alignment = align_step(times, watts, LOAD, WINDOW, (-4.0, 4.0))
            wrong += abs(alignment.offset_s) > alignment.error_s
            assert alignment.error_s <= 3 / 20
        except ValueError as error:
            refusals.append(str(error))
    assert sum(said in text for text in refusals) > 20
    assert wrong <= 3


def test_readings_that_average_what_was_before_the_window_are_left_out():
    times = np.arange(0, 25, 0.1)
    watts = np.where(times < WINDOW[0] + 0.25, 50.0, 3.0)  # the mean over 0.3 s of what ended at the window
    watts = np.where((times >= LOAD[0] + 0.3) & (times < LOAD[1]), 9.0, watts)
    alignment = align_step(times, watts, LOAD, WINDOW, (-0.05, 0.05), averaging=0.3)
    assert abs(alignment.offset_s) <= 0.1
    assert alignment.idle_w < 3.5


def test_two_loads_alike_are_ambiguous():
    times = np.arange(0, 40, 0.05)
    busy = ((times >= 10) & (times < 14)) | ((times >= 20) & (times < 24))
    text = refused(times, np.where(busy, 9.0, 3.0), search=(-11.0, 11.0))
    assert "ambiguous" in text
    assert "10 s away" in text


def test_a_flat_log_shows_no_load():
    times = np.arange(0, 30, 0.1)
    assert "no rise and fall" in refused(times, np.full(len(times), 4.0))


def test_a_load_that_does_not_end_within_the_log_is_refused():
    times = np.arange(0, 30, 0.05)
    assert "no rise and fall" in refused(times, np.where(times >= 10, 9.0, 3.0), search=(-2.0, 2.0))


def test_too_few_readings():
    assert "only 3 readings" in refused([1.0, 2.0, 3.0], [1.0, 2.0, 1.0])


def test_a_burst_before_the_window_does_not_draw_the_step_to_it():
    rng = np.random.default_rng(4)
    times, watts = log(rng, rate=50, idle=3, busy=6, noise=0.2, load=LOAD, window=WINDOW, offset=0.0)
    watts = np.where((times > 5.0) & (times < 6.8), 20.0, watts)  # a model loads: higher, and shorter
    alignment = align_step(times, watts, LOAD, WINDOW, (-2.0, 4.0))
    assert abs(alignment.offset_s) < 0.02


def test_a_load_that_beats_is_one_load():
    rng = np.random.default_rng(5)
    times, watts = log(rng, rate=100, idle=3, busy=6, noise=0.1, load=LOAD, window=WINDOW, offset=1.5)
    beat = (watts > 4.5) & (np.floor((times + 1.5) / 0.03) % 3 == 0)
    alignment = align_step(times, np.where(beat, watts + 3, watts), LOAD, WINDOW, (-2.0, 4.0))
    assert alignment.offset_s == pytest.approx(1.5, abs=0.02)

"""Tests of energy from readings: equal to true integrals within the stated uncertainty, or withheld with a reason."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.machine.energy.durations import needed_time_s
from harness.machine.energy.integrate import Track
from harness.machine.energy.reading import Series, Span, cross_check, read_window
from harness.types import Reading
from harness.types.meters import MeterInfo
from harness.types.plain import from_json

S = 1_000_000_000


def _benchmark() -> Any:
    """Return the module benchmarks/energy_error.py, with its synthetic power curves and meters."""
    path = Path(__file__).parents[2] / "benchmarks" / "energy_error.py"
    spec = importlib.util.spec_from_file_location("energy_error", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


made = _benchmark()


def info(quantity: str = "power", **changes: Any) -> MeterInfo:
    known: dict[str, Any] = {
        "name": "m",
        "scope": "board",
        "watches": "board",
        "provenance": "measured",
        "quantity": quantity,
        "period_s": 0.01,
        "calibration": 0.0,
    }
    return MeterInfo(**(known | changes))


def series(t: Any, value: Any, meter: MeterInfo | None = None, **changes: Any) -> Series:
    ns = np.round(np.asarray(t, float) * S).astype(np.int64)
    return Series(info=meter or info(), ns=ns, value=np.asarray(value, float), **changes)


def window(read: Series, seconds: float = 10, inferences: int = 100, **changes: Any) -> Reading:
    end = round(seconds * S)
    idle = {"before": Span(-3 * S, 0), "after": Span(end, end + 3 * S)} | changes
    return read_window(read, Span(0, end), idle.pop("before"), idle.pop("after"), inferences, **idle)


def polled(
    power: Any, meter: MeterInfo | None = None, hz: float = 100, end: float = 10, **changes: Any
) -> Series:
    t = np.arange(-3.2, end + 3.2, 1 / hz)
    return series(t, power(t), meter, **changes)


def busy(t: Any) -> Any:
    """10 W for 10 s over an idle of 2 W."""
    return np.where((t > 0) & (t < 10), 10.0, 2.0)


# --- within its own uncertainty ---------------------------------------------------------------------


def draw_sensor(kind: str, rng: np.random.Generator) -> Any:
    common = {"noise": rng.uniform(0, 0.02), "lost": rng.uniform(0, 0.1), "calibration": rng.uniform(0, 0.03)}
    rate = float(rng.choice([10, 50, 100]))
    if kind == "moment":
        return made.Sensor(quantity="power", rate_hz=rate, **common)
    if kind == "mean":
        averaging = rng.uniform(0.1, 1)
        return made.Sensor(quantity="power", rate_hz=rate, averaging_s=averaging, **common)
    if kind == "slow mean":  # changes more slowly than it is polled
        return made.Sensor(
            quantity="power",
            rate_hz=rate,
            averaging_s=rng.uniform(0.2, 1),
            period_s=rng.uniform(0.02, 0.1),
            **common,
        )
    unit = 10 ** rng.uniform(-5, -1.5)
    return made.Sensor(
        quantity="energy", rate_hz=rate, period_s=10 ** rng.uniform(-3, -1), unit=unit, **common
    )


@pytest.mark.parametrize("kind", ["moment", "mean", "slow mean", "counter"])
def test_the_true_energy_is_within_the_uncertainty_in_95_percent_of_trials(kind: str) -> None:
    held, ratios, shown = {"gross": 0, "net": 0}, [], 0
    trials = 250
    for trial in range(trials):
        rng = np.random.default_rng([7, trial])
        load = made.LOADS[trial % len(made.LOADS)]
        truth = made.make_load(load, float(rng.uniform(3, 9)), trial)
        reading = made.read(truth, made.poll(truth, draw_sensor(kind, rng), rng))
        if reading.energy_gross_j is None or reading.energy_net_j is None:
            continue
        shown += 1
        held["gross"] += abs(reading.energy_gross_j - truth.gross_j) <= reading.u_gross_j
        held["net"] += abs(reading.energy_net_j - truth.net_j) <= reading.u_net_j
        ratios.append(((reading.energy_gross_j - truth.gross_j) / reading.u_gross_j) ** 2)
    assert shown > 0.9 * trials
    assert held["gross"] >= 0.95 * shown
    assert held["net"] >= 0.95 * shown
    assert math.sqrt(np.mean(ratios)) > 1 / 4  # no wider than 4 rms errors; 1.96 were the error normal


@pytest.mark.parametrize("load", ["bursts", "noise", "square 30 ms"])
def test_the_uncertainty_of_samples_shrinks_with_the_root_of_the_window(load: str) -> None:
    def width(seconds: float) -> float:
        sensor = made.Sensor(quantity="power", rate_hz=50, calibration=0.0)
        relative = []
        for trial in range(20):
            truth = made.make_load(load, seconds, trial)
            reading = made.read(truth, made.poll(truth, sensor, np.random.default_rng(trial)))
            relative.append(reading.u_gross_j / truth.gross_j)
        return float(np.mean(relative))

    assert 1.6 < width(3.0) / width(12.0) < 3.5  # 2, and edges shrink by 4


@pytest.mark.parametrize("kind", ["moment", "mean", "counter"])
def test_a_meter_that_dies_in_the_window_gives_nothing_and_after_it_no_net(kind: str) -> None:
    rng = np.random.default_rng(3)
    for trial in range(10):
        truth = made.make_load("bursts", 4.0, trial)
        whole = made.poll(truth, draw_sensor(kind, rng), rng)

        def cut(at: float, truth: Any = truth, whole: Series = whole) -> Reading:
            alive = whole.ns < at * S
            short = replace(whole, ns=whole.ns[alive], value=whole.value[alive], error="unplugged")
            return made.read(truth, short)

        dead = cut(rng.uniform(0.1, 3.8))
        assert dead.energy_gross_j is dead.energy_gross_mj is dead.energy_net_j is dead.energy_u_mj is None
        assert "ended" in dead.withheld["gross"]
        assert "unplugged" in dead.withheld["gross"]
        late = cut(4.0 + 1.6)
        assert late.energy_gross_j is not None
        assert late.energy_net_j is late.energy_net_mj is None
        assert "idle after the load" in late.withheld["net"]
        assert "gross" not in late.withheld
        assert late.idle_before_w is not None


# --- exact figures ----------------------------------------------------------------------------------


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 50), st.floats(-0.5, 2))
def test_a_straight_line_of_power_is_integrated_exactly_at_any_times(
    seed: int, p: float, slope: float
) -> None:
    t = np.sort(np.random.default_rng(seed).uniform(-0.5, 10.5, 700))
    t[0], t[-1] = -0.5, 10.5
    reading = window(series(t, p + slope * t, info(period_s=0.05)))
    assert reading.energy_gross_j == pytest.approx(10 * p + 50 * slope, rel=1e-6)
    assert reading.uncertainty["gaps_j"] == pytest.approx(0, abs=1e-5)


def test_net_is_gross_less_the_mean_of_both_idles() -> None:
    def power(t: Any) -> Any:
        return np.where(t <= 0, 2.0, np.where(t < 10, 10.0, 3.0))

    reading = window(polled(power, info(calibration=0.01)))
    assert reading.energy_gross_j == pytest.approx(100, rel=2e-3)
    assert (reading.idle_before_w, reading.idle_after_w, reading.idle_w) == pytest.approx((2, 3, 2.5))
    assert reading.energy_net_j == pytest.approx(reading.energy_gross_j - 25)
    assert reading.idle_drift == pytest.approx(0.4)
    assert any("idle drifted by +40%" in note for note in reading.notes)
    parts = reading.uncertainty
    assert parts["calibration_j"] == pytest.approx(1.96 * 0.01 * reading.energy_gross_j / math.sqrt(3))
    assert parts["idle_j"] == pytest.approx(1.96 * 5 / math.sqrt(3))
    assert reading.u_gross_j == pytest.approx(
        math.hypot(parts["calibration_j"], parts["edge_j"], parts["gaps_j"])
    )
    assert reading.u_net_j == pytest.approx(math.hypot(reading.u_gross_j, parts["idle_j"]))
    assert reading.energy_gross_mj == pytest.approx(reading.energy_gross_j * 10)
    assert reading.energy_net_mj == pytest.approx(reading.energy_net_j * 10)
    assert reading.energy_u_mj == pytest.approx(reading.u_net_j * 10)
    assert reading.power_gross_w == pytest.approx(reading.energy_gross_j / 10)


@pytest.mark.parametrize("hz", [10, 40, 100])
@pytest.mark.parametrize("period", [0.001, 0.03, 0.1])
def test_a_counter_is_placed_at_its_updates_not_its_polls(period: float, hz: float) -> None:
    rng = np.random.default_rng(5)
    t = np.sort(np.arange(400) / hz + rng.uniform(-0.5, 0.5, 400) / hz)
    updates = np.floor(t / period) * period
    track = Track(series(t, 7 * updates, info("energy", period_s=period)), 0)
    off = track.t - track.value / 7
    assert np.all(np.abs(off) <= track.half + 1e-8)
    assert abs(np.mean(off)) < 4 * np.std(off) / math.sqrt(len(off)) + 1e-6
    assert np.all(track.half <= period / 2 + 1e-9)


def test_a_counters_resolution_is_found_in_its_steps() -> None:
    t = np.arange(-3.2, 13.2, 0.01)
    joules = np.cumsum(busy(t) * np.random.default_rng(0).uniform(0.8, 1.2, len(t))) * 0.01
    for unit in (61e-6, 1e-3, 0.05):
        floored = np.floor((joules + 1000) / unit) * unit
        assert Track(series(t, floored, info("energy")), 0).unit == pytest.approx(unit, rel=1e-5)
    assert Track(series(t, joules, info("energy")), 0).unit < 1e-4


@pytest.mark.parametrize("averaging", [0.1, 0.5, 1.0])
def test_what_an_averaging_sensor_smears_over_an_edge_is_found_again(averaging: float) -> None:
    truth = made.make_load("constant", 5.0, 2)
    sensor = made.Sensor(
        quantity="power", rate_hz=100, averaging_s=averaging, calibration=0.0, noise=0.0, lost=0.0
    )
    reading = made.read(truth, made.poll(truth, sensor, np.random.default_rng(0)))
    assert reading.energy_gross_j == pytest.approx(truth.gross_j, rel=2e-3)
    assert reading.energy_net_j == pytest.approx(truth.net_j, rel=3e-3)


def test_a_remote_clocks_error_is_in_the_edges() -> None:
    near, far = window(polled(busy)), window(replace(polled(busy), clock_error_s=0.05))
    assert far.energy_gross_j == near.energy_gross_j
    assert far.uncertainty["edge_j"] > near.uncertainty["edge_j"] + 0.05 * 8


# --- methods ----------------------------------------------------------------------------------------


def test_devit_is_mean_latency_times_power_above_standby() -> None:
    reading = window(polled(busy), method="devit", mean_latency_s=0.08)
    assert reading.energy_net_mj == pytest.approx(80 * (reading.power_gross_w - 2))
    assert reading.energy_gross_mj == pytest.approx(80 * reading.power_gross_w)
    assert reading.energy_u_mj == pytest.approx(80 * reading.u_net_j / 10)
    with pytest.raises(ValueError, match="mean latency"):
        window(polled(busy), method="devit")


def test_mlperf_takes_the_samples_strictly_inside_and_subtracts_nothing() -> None:
    def power(t: Any) -> Any:  # outside it would disturb
        return np.where((t > 0) & (t < 10), 10.0, 500.0)

    reading = window(polled(power, info(calibration=0.02)), method="mlperf")
    assert reading.energy_gross_j == pytest.approx(100)
    assert reading.energy_net_j is reading.idle_w is reading.idle_before_w is None
    assert "subtracts no idle" in reading.withheld["net"]
    assert reading.energy_u_mj == pytest.approx(reading.u_gross_j * 10)
    assert any("within 1%" in note for note in reading.notes)


def test_mlperf_of_a_counter() -> None:
    truth = made.make_load("bursts", 5.0, 3)
    sensor = made.Sensor(quantity="energy", rate_hz=100, period_s=0.02)
    reading = made.read(truth, made.poll(truth, sensor, np.random.default_rng(1)), method="mlperf")
    assert abs(reading.energy_gross_j - truth.gross_j) <= reading.u_gross_j < 0.05 * truth.gross_j


# --- withheld ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", ["power", "energy"])
@pytest.mark.parametrize("times", [[], [5.0], [4.0, 5.0], [-1.0, 11.0], [-1.0, 5.0, 11.0], [5.0, 5.0, 5.0]])
def test_too_few_readings_give_no_figure(quantity: str, times: list[float]) -> None:
    reading = window(series(times, np.arange(len(times)), info(quantity, period_s=10.0), error="gone"))
    assert (
        reading.energy_gross_j
        is reading.power_gross_w
        is reading.energy_gross_mj
        is reading.energy_u_mj
        is None
    )
    assert reading.withheld["gross"]
    assert reading.withheld["net"]


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (20, 30, "ended"),
        (-30, -20, "began"),
        (0, 14, "ended 0.8"),
        (-4, 5, "began 0.8"),
        (0, 13.19, "too early"),
    ],
)
def test_a_load_outside_the_readings_is_never_extrapolated(begin: float, end: float, reason: str) -> None:
    given_ = polled(busy, info(averaging_s=0.2))
    reading = read_window(given_, Span(round(begin * S), round(end * S)), None, None, 10)
    assert reading.energy_gross_j is None
    assert reason in reading.withheld["gross"]


def test_idle_that_was_not_measured_withholds_the_net_only() -> None:
    for missing in ("before", "after"):
        reading = window(polled(busy), **{missing: None})
        assert reading.energy_gross_j == pytest.approx(100, rel=0.01)
        assert reading.withheld == {"net": f"idle {missing} the load was not measured"}
        assert reading.energy_u_mj == pytest.approx(reading.u_gross_j * 10)


def test_idle_shorter_than_the_averaging_is_no_idle() -> None:
    reading = window(polled(busy, info(averaging_s=1.0)), after=Span(10 * S, 11 * S))
    assert "idle after the load: " in reading.withheld["net"]


def test_a_gap_over_five_periods_withholds_sampled_power_but_no_counter_that_went_on() -> None:
    t = np.arange(-3.2, 13.2, 0.01)
    for width, fails in ((0.04, False), (0.06, True)):
        kept = (t < 5) | (t > 5 + width)
        reading = window(series(t[kept], busy(t[kept])))
        assert ("gap" in reading.withheld.get("gross", "")) is fails
        assert reading.greatest_gap_s == pytest.approx(width + 0.01, abs=0.011)
    kept = (t < 5) | (t > 6)
    joules = np.cumsum(busy(t)) * 0.01
    counted = window(series(t[kept], joules[kept], info("energy")))
    assert counted.energy_gross_j == pytest.approx(100, rel=0.01)
    at_edge = (t < 9.5) | (t > 10.5)
    assert "gap" in window(series(t[at_edge], joules[at_edge], info("energy"))).withheld["gross"]


def test_a_counter_that_steps_back_or_stands_still_is_withheld() -> None:
    t = np.arange(-3.2, 13.2, 0.01)
    joules = np.cumsum(busy(t)) * 0.01
    reset = np.where(t > 5, joules - joules[t > 5][0], joules)
    assert "went back" in window(series(t, reset, info("energy"))).withheld["gross"]
    assert "0 changes of the counter" in window(series(t, 0 * t, info("energy"))).withheld["gross"]
    after = np.where(t > 12, joules - 50, joules)
    assert set(window(series(t, after, info("energy"))).withheld) == {"net"}


def test_what_is_no_number_and_times_that_go_back_are_refused() -> None:
    t = np.arange(-3.2, 13.2, 0.01)
    assert "not a number" in window(series(t, np.where(t > 5, np.nan, 1.0))).withheld["gross"]
    assert "go back" in window(series(t[::-1], busy(t))).withheld["gross"]


def test_readings_at_one_time_count_once() -> None:
    t = np.arange(-3.2, 13.2, 0.01)
    once, twice = window(series(t, busy(t))), window(series(np.repeat(t, 2), np.repeat(busy(t), 2)))
    assert twice.energy_gross_j == once.energy_gross_j
    assert twice.u_net_j == once.u_net_j


def test_a_figure_that_is_too_uncertain_is_withheld_with_both_numbers() -> None:
    read = polled(busy, info(calibration=0.03))
    both = window(read, error=0.02)
    assert both.energy_gross_j is both.energy_net_j is both.energy_u_mj is None
    assert "3.4%" in both.withheld["gross"]
    assert "2.00%" in both.withheld["gross"]
    assert both.u_gross_j is not None
    net_only = window(read, error=0.036)
    assert net_only.energy_gross_j is not None
    assert set(net_only.withheld) == {"net"}
    assert window(read, error=0.05).withheld == {}


def test_net_energy_that_may_be_zero_says_so() -> None:
    reading = window(polled(lambda t: np.full(len(t), 2.0), info(calibration=0.01)))
    assert reading.energy_net_j == pytest.approx(0, abs=1e-9)
    assert "net energy cannot be told from zero" in reading.notes


def test_no_stated_calibration_is_said_and_not_invented() -> None:
    reading = window(polled(busy, info(calibration=None)))
    assert reading.uncertainty["calibration_j"] is None
    assert any("no calibration stated" in note for note in reading.notes)


def test_even_sampling_of_momentary_power_is_said() -> None:
    even = polled(busy, info(period_s=0.001))
    rng = np.random.default_rng(0)
    t = np.sort(np.arange(-3.2, 13.2, 0.01) + rng.uniform(-0.005, 0.005, 1640))
    jittered = series(t, busy(t), info(period_s=0.001))
    assert any("sampled evenly" in note for note in window(even).notes)
    assert not any("sampled evenly" in note for note in window(jittered).notes)
    assert not any(
        "sampled evenly" in note for note in window(replace(even, info=info(averaging_s=0.01))).notes
    )


def test_a_window_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="without length"):
        read_window(polled(busy), Span(5, 5), None, None, 1)
    assert "no inference" in window(polled(busy), inferences=0).withheld["gross"]


# --- several meters, and the length of a window -------------------------------------------------------


def test_meters_of_one_thing_are_compared_and_others_are_not() -> None:
    a = window(polled(busy, info(name="a")))
    b = window(polled(lambda t: 1.2 * busy(t), info(name="b")))
    elsewhere = window(polled(busy, info(name="c", watches="gpu1")))
    dead = window(series([], [], info(name="d")))
    first, second, third, fourth = cross_check([a, b, elsewhere, dead])
    assert first.disagreement == {"b": pytest.approx(0.2 / 1.1)}
    assert second.disagreement == {"a": pytest.approx(0.2 / 1.1)}
    assert third.disagreement == fourth.disagreement == {}
    assert any("differs by 18% from b" in note for note in first.notes)
    close = cross_check([a, window(polled(lambda t: 1.05 * busy(t), info(name="b")))])
    assert close[0].disagreement == {"b": pytest.approx(0.05 / 1.025)}
    assert close[0].notes == a.notes


def test_a_window_of_the_needed_time_has_the_edge_error_that_was_asked_for() -> None:
    assert needed_time_s(info("energy", period_s=0.1), 0.01) == pytest.approx(
        20
    )  # NVML,     assert needed_time_s(info("energy", period_s=0.1), 0.04) == pytest.approx(5)
    assert needed_time_s(info("energy", period_s=0.1), 0.04, clock_error_s=0.1) == pytest.approx(10)
    for period in (0.001, 0.05):
        sensor = made.Sensor(quantity="energy", rate_hz=100, period_s=period, lost=0.0)
        truth = made.make_load("bursts", round(needed_time_s(info("energy", period_s=period), 0.04), 3), 4)
        reading = made.read(truth, made.poll(truth, sensor, np.random.default_rng(2)))
        assert reading.uncertainty["edge_j"] <= 0.04 * reading.energy_gross_j


def test_a_reading_is_json() -> None:
    reading = window(polled(busy, info(calibration=0.01)))
    item = json.loads(json.dumps(reading.to_json(), allow_nan=False))
    assert from_json(Reading, item) == reading
    assert json.dumps(window(series([], [])).to_json(), allow_nan=False)

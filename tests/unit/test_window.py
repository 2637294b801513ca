"""Tests of windows with a meter of known watts: one, and four more for each core that this process keeps busy."""

from __future__ import annotations

import itertools
import os
import sys
import textwrap
import time

import numpy as np
import pytest

from harness.machine.sampler import Sampler
from harness.types import MeterInfo, Metering, MeterUse, Monitor, Stop, Workload
from harness.worker.loadgen.queries import batches
from harness.worker.window import observe

METER = """
import os, random, time

class Counter:
    def __init__(self, info):
        self.path = f"/proc/{os.getppid()}/schedstat"
        self.dies = time.monotonic() + info.details.get("lives_s", 1e9)
    def read(self):
        if time.monotonic() > self.dies:
            raise OSError("cable pulled")
        spent = sum(int(open(f"/proc/{os.getppid()}/task/{t}/schedstat").read().split()[0])
                    for t in os.listdir(f"/proc/{os.getppid()}/task"))
        now = time.monotonic_ns()
        return now, (now + 4 * spent) / 1e9
    def close(self): pass

class Noisy(Counter):  # watts: those of Counter's idle and load, and noise of 2
    def __init__(self, info):
        super().__init__(info)
        self.last = super().read()
        self.chance = random.Random(0)
    def read(self):
        now, joules = super().read()
        before, spent = self.last
        self.last = now, joules
        return now, 1e9 * (joules - spent) / max(1, now - before) + self.chance.gauss(0, 2)

class Double(Counter):
    def read(self):
        now, joules = super().read()
        return now, 2 * joules

def thermometer():
    end = time.monotonic() + float(os.environ["COOLS_IN"])
    return lambda: {"temperature_c": 70.0 if time.monotonic() < end else 45.0}
"""
pytestmark = pytest.mark.clock

IMAGES = np.zeros((4, 1, 2, 2), np.float32)


def busy(images):
    end = time.perf_counter_ns() + 1_000_000
    while time.perf_counter_ns() < end:
        pass


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    (tmp_path / "fake_meter.py").write_text(textwrap.dedent(METER))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    opened = []

    def make(*functions, watches=None, **changes):
        given = {
            "scope": "package",
            "watches": "cpu",
            "provenance": "measured",
            "quantity": "energy",
            "period_s": 0.01,
            "calibration": 0.0,
            **changes,
        }
        meters = [MeterUse(info=MeterInfo(name=one, **given), open=f"fake_meter:{one}") for one in functions]
        opened.append(Sampler(Monitor(meters=tuple(meters), watches=watches or {})))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def measured(*arguments):
    """Return a window without gaps in its readings. A busy machine may cause gaps, so there are five tries."""
    for _ in range(5):
        seen = observe(*arguments)
        if not any(
            "gap" in why or "readings in" in why for one in seen.readings for why in one.withheld.values()
        ):
            break
    return seen


def load(metering=None, **changes):
    stop = {"min_time_s": 0.5, "min_queries": 10, "max_time_s": 4.0, "warmup_max_s": 0.5, **changes}
    return Workload(stop=Stop(**stop), metering=Metering(**{"idle_s": 0.5, **(metering or {})}))


def test_energy_is_what_the_process_spent(sampler):
    seen = measured(busy, batches(IMAGES, 1), load(), sampler("Counter"))
    (reading,) = seen.readings
    assert reading.withheld == {}
    spent, seconds = seen.signals["cpu_s"], seen.signals["wall_s"]
    assert reading.energy_net_j == pytest.approx(4 * spent, abs=reading.u_net_j + 0.1 * 4 * spent)
    assert reading.energy_gross_j == pytest.approx(seconds + 4 * spent, rel=0.1)
    assert reading.energy_net_mj == pytest.approx(1e3 * reading.energy_net_j / len(seen.trace.latency_ns))
    assert reading.idle_w < 2.5
    arrays = seen.report().meters
    assert {
        "span_ns:load",
        "span_ns:before",
        "span_ns:after",
        "meter_ns:Counter",
        "meter_value:Counter",
    } == set(arrays)
    begin, end = arrays["span_ns:load"]
    assert arrays["meter_ns:Counter"][0] < begin < end < arrays["meter_ns:Counter"][-1]


def test_two_meters_of_one_thing_are_compared(sampler):
    seen = measured(busy, batches(IMAGES, 1), load(), sampler("Counter", "Double"))
    one = seen.readings[0]
    assert one.disagreement["Double"] == pytest.approx(2 / 3, rel=0.1)
    assert any("Double" in note for note in one.notes)


def test_the_window_grows_to_the_error_asked_for(sampler):
    short = measured(busy, batches(IMAGES, 1), load(), sampler("Counter", period_s=0.1, calibration=None))
    long = measured(
        busy, batches(IMAGES, 1), load({"error": 0.1}), sampler("Counter", period_s=0.1, calibration=None)
    )
    assert long.readings[0].window_s >= 2.0
    assert long.readings[0].u_gross_j <= 0.1 * long.readings[0].energy_gross_j
    assert short.readings[0].window_s >= 0.5


def test_the_window_grows_for_noise_as_well(sampler):
    seen = measured(
        busy,
        batches(IMAGES, 1),
        load({"error": 0.1, "idle_s": 0.1}, min_time_s=0.2, max_time_s=8.0),
        sampler("Noisy", quantity="power"),
    )
    (reading,) = seen.readings
    edges = 2 * 0.01 / 0.1
    assert reading.window_s > 2 * edges
    assert reading.energy_gross_j is None or reading.u_gross_j <= 0.1 * reading.energy_gross_j


def test_what_no_window_can_reach_is_withheld(sampler):
    seen = measured(
        busy, batches(IMAGES, 1), load({"error": 0.01}, max_time_s=0.6), sampler("Counter", calibration=0.5)
    )
    (reading,) = seen.readings
    assert reading.energy_gross_j is None
    assert "energy_error 1.00%" in reading.withheld["gross"]


def test_a_meter_that_dies_in_the_window_leaves_latency_and_its_reason(sampler):
    seen = observe(
        busy, batches(IMAGES, 1), load(min_time_s=1.5), sampler("Counter", details={"lives_s": 1.2})
    )
    (reading,) = seen.readings
    assert reading.energy_gross_j is None
    assert "cable pulled" in reading.withheld["gross"]
    assert len(seen.trace.latency_ns) > 100


def test_without_a_meter_nothing_waits(sampler):
    begin = time.monotonic()
    seen = observe(busy, batches(IMAGES, 1), load({"idle_s": 20.0}, min_time_s=0.1), None)
    assert time.monotonic() - begin < 15
    assert seen.readings == ()
    assert seen.report().meters == {}


@pytest.mark.parametrize(("cools_in", "limit", "cooled"), [(1.5, 20.0, True), (60.0, 0.3, False)])
def test_cooling_down(sampler, monkeypatch, cools_in, limit, cooled):
    monkeypatch.setenv("COOLS_IN", str(cools_in))
    one = sampler(watches={"board": "fake_meter:thermometer"})
    seen = observe(busy, batches(IMAGES, 1), load({"cool_below_c": 50.0, "cool_limit_s": limit}), one)
    assert seen.cooled is cooled
    assert seen.report().states["board"]["temperature_c"]["most"] == (45.0 if cooled else 70.0)


def test_burst_and_sustained(sampler):
    def tiring(images):
        time.sleep(0.001 if next(calls) < 600 else 0.003)

    warm = load({"idle_s": 0.1}, min_time_s=0.2, warmup_max_s=0.2, sustained_s=4.0)
    meter = sampler("Counter")
    for _ in range(5):  # a busy machine may leave gaps, which withhold the power
        calls = itertools.count()  # in warm-up and window less than 0.5 s of them, each of 1 ms or more
        seen = observe(tiring, batches(IMAGES, 1), warm, meter)
        figures = seen.sustained(warm)
        if figures.power_gross_w["Counter"] is not None:
            break
    assert figures.seconds == pytest.approx(4.0, rel=0.2)
    assert figures.slowdown > 1.5
    assert figures.p50_ms == pytest.approx(figures.slowdown * figures.burst_p50_ms)
    assert figures.power_gross_w["Counter"] >= 0.9
    assert len(seen.lasting_ns()) > 100


def test_presets(sampler):
    seen = measured(busy, batches(IMAGES, 1), load({"method": "devit"}, warmup="one"), sampler("Counter"))
    (reading,) = seen.readings
    mean_s = seen.trace.latency_ns.mean() / 1e9
    assert len(seen.warm.latency_ns) == 1
    assert reading.energy_net_mj == pytest.approx(1e3 * mean_s * (reading.power_gross_w - reading.idle_w))
    seen = measured(busy, batches(IMAGES, 1), load({"method": "mlperf", "idle_s": 0.0}), sampler("Counter"))
    (reading,) = seen.readings
    assert reading.energy_gross_mj > 0
    assert reading.energy_net_mj is None

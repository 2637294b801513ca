"""Tests of contracts of meters and watches while they are read: one that gives a wrong type ends alone."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from harness.contracts.meters import checked_reading, checked_readings, checked_signals
from harness.machine.sampler import Sampler
from harness.types import MeterInfo, MeterUse, Monitor

METERS = """
import time

class Good:
    def __init__(self, info):
        self.reads = 0
    def read(self):
        self.reads += 1
        return time.monotonic_ns(), 5.0
    def close(self):
        pass

class Later(Good):
    def read(self):
        ns, watts = super().read()
        return (ns, watts) if self.reads < 3 else (ns, "5 W")

class Leaves(Good):
    def read(self):
        ns, watts = super().read()
        if self.reads > 2:
            raise SystemExit("no more")
        return ns, watts

def text(info):
    meter = Good(info)
    meter.read = lambda: "5 W"
    return meter

def milliwatts(info):
    meter = Good(info)
    meter.read = lambda: (time.monotonic_ns(), 5e9)
    return meter

def nothing(info):
    return None

def leaves(info):
    raise SystemExit(3)

class Log(Good):
    def fetch(self, begin_ns, end_ns, load):
        return [(begin_ns, 1.0), (end_ns, None)]

def warm():
    return lambda: {"temperature_c": 40.5, "unknown": None}

def arrays():
    import numpy as np
    return lambda: {"temperature_c": np.float32(40)}

def turns():
    seen = []
    def watch():
        seen.append(1)
        return {"mode": 1 if len(seen) < 3 else "max"}
    return watch
"""


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    """Return a function that opens a sampler over meters (name -> function) and watches of the module above."""
    (tmp_path / "wrong_meters.py").write_text(METERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    opened = []

    def make(meters, watches):
        uses = []
        for function in meters:
            info = MeterInfo(
                name=function,
                scope="board",
                watches="board",
                provenance="measured",
                quantity="power",
                period_s=0.01,
            )
            uses.append(MeterUse(info=info, open=f"wrong_meters:{function}"))
        named = {name: f"wrong_meters:{name}" for name in watches}
        opened.append(Sampler(Monitor(meters=tuple(uses), watches=named)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_a_meter_that_gives_a_wrong_type_ends_alone(sampler):
    made = sampler(
        ["Good", "Later", "Leaves", "Log", "text", "milliwatts", "nothing", "leaves"], ["warm", "arrays"]
    )
    expected = {
        "Later": "read gave '5 W' (contract: Meter.read gives (monotonic nanoseconds, joules or watts))",
        "Leaves": "no more",
        "Log": "read gave None (contract: Meter.read gives (monotonic nanoseconds, joules or watts))",
        "text": "read gave '5 W' (contract: Meter.read gives (monotonic nanoseconds, joules or watts))",
        "milliwatts": "read gave 5e+09 W; is it in mW? (contract: watts)",
        "nothing": "'NoneType' object has no attribute 'read'",
        "leaves": "3",
    }
    end = time.monotonic() + 60
    while time.monotonic() < end:  # a busy machine reads late
        made.start()
        time.sleep(0.3)
        now = time.monotonic_ns()
        sampled = made.stop(now - 10**8, now, (now - 10**8, now))
        meters = {meter.info.name: meter for meter in sampled.meters}
        read = meters.pop("Good")
        if read.value and {name: meter.error for name, meter in meters.items()} == expected:
            break
    assert (read.error, set(read.value)) == ("", {5.0})
    assert {name: meter.error for name, meter in meters.items()} == expected
    assert {seen.source for seen in sampled.states} <= {"warm"}
    assert all(seen.signals == {"temperature_c": 40.5} for seen in sampled.states)
    (problem,) = sampled.problems
    assert problem.startswith("arrays: the watch gave {'temperature_c': ")
    assert problem.endswith("(contract: a JSON object)")


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (5.0, "read gave 5.0 (contract"),
        ((1.5, 5.0), "read gave the time 1.5 (contract"),
        ((1, float("nan")), "read gave nan (contract"),
        ((1, True), "read gave True (contract"),
        ((1, 5.0, "W"), "read gave (1, 5.0, 'W') (contract"),
    ],
)
def test_a_reading_is_a_time_and_a_number(reading, reason):
    with pytest.raises(ValueError, match="contract") as caught:
        checked_reading(reading, "power")
    assert str(caught.value).startswith(reason)


def test_readings_of_numpy_are_numbers():
    assert checked_reading((np.int64(3), np.float32(2)), "power") == (3, 2.0)
    assert checked_readings([(1, 2)], "energy") == [(1, 2.0)]
    with pytest.raises(ValueError, match="fetch gave NoneType"):
        checked_readings(None, "energy")


@pytest.mark.parametrize(
    "signals", [None, [1], {"mhz": "fast"}, {"throttle": "thermal"}, {"fans": [1, "two"]}, {"at": time}]
)
def test_signals_are_json_that_can_be_summarised(signals):
    with pytest.raises(ValueError, match="the watch gave"):
        checked_signals(signals)


def test_a_signal_keeps_its_kind(sampler):
    made = sampler([], ["turns"])
    end = time.monotonic() + 60
    problems: tuple[str, ...] = ()
    while not problems and time.monotonic() < end:
        made.start()
        time.sleep(1)
        now = time.monotonic_ns()
        problems = made.stop(now - 10**8, now, (now - 10**8, now)).problems
    assert problems == ("turns: the watch gave mode 'max', before a number",)

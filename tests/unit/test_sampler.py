"""Tests of the sampler: times of readings, and meters that fail, hang or keep a log."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from harness.machine.energy.durations import interval_s
from harness.machine.sampler import Sampler
from harness.types import MeterInfo, MeterUse, Monitor

pytestmark = pytest.mark.clock

METERS = """
import os, time

class Clock:  # one watt: joules are seconds
    def __init__(self, info):
        self.dies = info.details.get("dies_after", 1e9)
        self.reads = 0
    def read(self):
        self.reads += 1
        if self.reads > self.dies:
            raise OSError("cable pulled")
        now = time.monotonic_ns()
        return now, now / 1e9
    def close(self):
        if path := os.environ.get("CLOSED"):
            open(path, "w").close()

class Stuck(Clock):
    def read(self):
        if self.reads:
            time.sleep(3600)
        return super().read()

class Logged:
    clock_error_s = 0.25
    def __init__(self, info): pass
    def fetch(self, begin_ns, end_ns, load):
        return [(begin_ns, 1.0), (load[0], 2.0), (load[1], 3.0), (end_ns, 4.0)]
    def close(self): pass

def missing(info): raise OSError("no such meter")
def crash(info): os._exit(3)
def chatty(info):
    print("a library that prints")
    return Clock(info)
def warm(): return lambda: {"temperature_c": 40.5, "throttle": []}
def nothing(): return None
def broken(): raise RuntimeError("no sensor")
def fails(): return lambda: 1 / 0
"""


def info(name="clock", **changes):
    given = {
        "scope": "board",
        "watches": "board",
        "provenance": "measured",
        "quantity": "energy",
        "period_s": 0.01,
    }
    return MeterInfo(name=name, **{**given, **changes})


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    (tmp_path / "fake_meters.py").write_text(textwrap.dedent(METERS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    opened = []

    def make(*uses, **watches):
        meters = tuple(MeterUse(info=one, open=f"fake_meters:{function}") for function, one in uses)
        opened.append(
            Sampler(Monitor(meters=meters, watches={k: f"fake_meters:{v}" for k, v in watches.items()}))
        )
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def sampled(sampler, seconds=0.5):
    sampler.start()
    begin = time.monotonic_ns()
    time.sleep(seconds)
    end = time.monotonic_ns()
    return sampler.stop(begin, end, (begin, end)), begin, end


def test_readings_have_their_true_times(sampler):
    found, begin, end = sampled(sampler(("Clock", info())))
    (one,) = found.meters
    assert one.error == ""
    assert all(value == pytest.approx(ns / 1e9) for ns, value in zip(one.ns, one.value, strict=True))
    assert begin - 1e9 <= one.ns[0] < one.ns[-1] <= end + 1e9
    assert len(one.ns) > 5


def test_deadlines_are_jittered(sampler):
    found, *_ = sampled(sampler(("Clock", info())), 1.0)
    (one,) = found.meters
    gaps = [later - earlier for earlier, later in zip(one.ns, one.ns[1:], strict=False)]
    assert len(gaps) <= 1.2 * (one.ns[-1] - one.ns[0]) / 1e7  # what was missed is not made up for
    assert statistics.stdev(gaps) > 1e6


def test_a_meter_that_dies_keeps_what_it_read_and_says_why(sampler):
    found, *_ = sampled(sampler(("Clock", info("dying", details={"dies_after": 6})), ("Clock", info("well"))))
    dying, well = found.meters
    assert dying.error == "cable pulled"
    assert len(dying.ns) == 5
    assert well.error == ""
    assert len(well.ns) > 5


def test_a_meter_that_hangs_stops_no_other(sampler):
    found, *_ = sampled(sampler(("Stuck", info("stuck")), ("Clock", info("well"))))
    stuck, well = found.meters
    assert len(stuck.ns) == 0
    assert len(well.ns) > 5


def test_a_log_is_fetched_with_the_load(sampler):
    found, begin, end = sampled(sampler(("Logged", info())), 0.05)
    assert found.meters[0].ns == [begin, begin, end, end]
    assert found.meters[0].value == [1.0, 2.0, 3.0, 4.0]
    assert found.meters[0].clock_error_s == 0.25


def test_one_that_cannot_be_opened_says_why_and_the_rest_is_read(sampler):
    made = sampler(
        ("missing", info("gone")),
        ("chatty", info("well")),
        warm="warm",
        none="nothing",
        bad="broken",
        ends="fails",
    )
    assert made.ready() == {"gone": "no such meter", "bad": "no sensor"}
    found, *_ = sampled(made)
    gone, well = found.meters
    assert gone.error == "no such meter"
    assert len(well.ns) > 5
    assert found.problems == ("bad: no sensor", "ends: division by zero")
    assert {(source, signals["temperature_c"]) for _, source, signals in found.states} == {("warm", 40.5)}


def test_a_process_that_ends_is_named_and_nothing_hangs(sampler):
    made = sampler(("crash", info()))
    found, *_ = sampled(made, 0.01)
    assert found.meters[0].error == "the sampler ended with exit code 3"
    made = sampler(("Clock", info()))
    made.start()
    os.kill(made.pids[0], signal.SIGKILL)
    found = made.stop(0, 1, (0, 1))
    assert found.meters[0].error == "the sampler was ended by SIGKILL (out of memory?)"
    assert found.problems == ("the sampler was ended by SIGKILL (out of memory?)",)


def test_it_closes_its_meters_and_ends_with_its_parent(sampler, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOSED", str(tmp_path / "closed"))
    made = sampler(("Stuck", info("stuck")), ("Clock", info()))
    made.start()
    process = psutil.Process(made.pids[0])
    made.close()
    assert not process.is_running()
    assert (tmp_path / "closed").exists()


def test_one_that_cannot_even_be_killed_is_left(sampler, monkeypatch):
    """Such a process waits in the kernel, for a device."""
    made = sampler(("Clock", info()))
    made.start()
    with monkeypatch.context() as patch:

        def stuck(process, timeout=None):
            raise subprocess.TimeoutExpired(process.args, timeout)

        patch.setattr(subprocess.Popen, "wait", stuck)
        made.close()


def test_a_second_window_starts_empty(sampler):
    made = sampler(("Clock", info()))
    _, _, end = sampled(made, 0.1)
    found, *_ = sampled(made, 0.1)
    assert found.meters[0].ns[0] >= end


@pytest.mark.parametrize(
    ("period", "quantity", "expected"),
    [
        (0.001, "power", 0.01),
        (0.05, "power", 0.05),
        (1.0, "power", 0.1),
        (0.1, "energy", 0.025),
        (1.0, "energy", 0.1),
    ],
)
def test_10_to_100_hz(period, quantity, expected):
    assert interval_s(info(period_s=period, quantity=quantity)) == expected


# --- another host ---------------------------------------------------------------------------------

SSH = """#!{python}
import os, sys
assert sys.argv[1:6] == ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--"], sys.argv
if sys.argv[6] != "bench":
    sys.exit("ssh: Could not resolve hostname " + sys.argv[6])
assert sys.argv[7] == "python3 -m harness.machine.reader"
code = '''
import time
true = time.monotonic_ns
time.monotonic_ns = lambda: true() + 7_000_000_000_000  # booted two hours before us
from harness.machine import reader
reader.main()
'''
os.execv("{python}", ["{python}", "-c", code])
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    path = tmp_path / "ssh"
    path.write_text(SSH.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_a_meter_at_another_host_is_read_on_our_clock(sampler, ssh):
    found, begin, end = sampled(sampler(("Clock", info(host="bench")), ("Clock", info("own"))), 0.5)
    there, own = found.meters
    assert there.error == ""
    assert begin - 1e9 <= there.ns[0] < there.ns[-1] <= end + 1e9
    assert 0 < there.clock_error_s < 2
    assert own.clock_error_s == 0
    offset = there.value[0] - there.ns[0] / 1e9
    assert offset == pytest.approx(7000, abs=there.clock_error_s)


def test_a_host_that_does_not_answer_is_named(sampler, ssh):
    found, *_ = sampled(sampler(("Clock", info(host="elsewhere"))), 0.01)
    assert "at elsewhere" in found.meters[0].error
    assert "Could not resolve" in found.meters[0].error

"""Tests of the machine's state around a window, and of the flags that it gives."""

from __future__ import annotations

import numpy as np
import pytest

from harness.machine.state import Window, over_time, watch
from harness.measure.flags import FLAGS, flags
from harness.types import DeviceReport, LatencyTrace, Samples, WarmUp


def samples(environment=None, *, steady=True, cooled=True, target_qps=None, states=None, **trace):
    return Samples(
        trace=LatencyTrace(
            **{"latency_ns": np.full(100, 1_000_000), "window_ns": 1, "reached": True, **trace}
        ),
        warmup=WarmUp(np.zeros(0, np.int64), steady),
        first_ns=1,
        batch=1,
        cooled=cooled,
        target_qps=target_qps,
        environment=environment or {},
        here=DeviceReport(states=states or {}),
    )


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_window_counts_this_process(tmp_path):
    with Window() as window:
        total = sum(i * i for i in range(3_000_000))
    assert total
    assert 0 < window.signals["cpu_s"] <= window.signals["wall_s"] * 1.5
    assert "involuntary_switches" in window.signals


def test_a_window_without_proc_says_only_what_it_knows(tmp_path):
    with Window(root=tmp_path) as window:
        pass
    assert "foreign_cores" not in window.signals


QUIET = {
    "wall_s": 1.0,
    "cpu_s": 1.0,
    "cores": 2.0,
    "foreign_cores": 0.02,
    "elsewhere_cores": 0.1,
    "steal_cores": 0.0,
    "delay_s": 0.001,
}


@pytest.mark.parametrize(
    ("environment", "changes", "expected"),
    [
        (QUIET, {}, []),
        ({**QUIET, "foreign_cores": 0.3}, {}, []),  # little, and in nobody's way
        ({**QUIET, "foreign_cores": 1.0}, {}, ["contended"]),  # its caches, its clock, its power
        ({**QUIET, "elsewhere_cores": 1.0}, {}, ["contended"]),
        ({**QUIET, "foreign_cores": 0.3, "delay_s": 0.3}, {}, ["contended"]),
        ({**QUIET, "steal_cores": 0.5}, {}, ["contended"]),
        ({k: v for k, v in QUIET.items() if k != "delay_s"} | {"foreign_cores": 0.3}, {}, ["contended"]),
        ({**QUIET, "thermal_events": 2}, {}, ["throttled"]),
        (QUIET, {"states": {"linux": {"throttle": ["cooling device"]}}}, ["throttled"]),
        (QUIET, {"states": {"linux": {"throttle": []}, "nvml": {"power_cap_share": 1.0}}}, []),
        (QUIET, {"cooled": False}, ["unsteady"]),
        ({**QUIET, "swap_in_pages": 5, "major_faults": 3}, {}, ["swapped"]),
        ({**QUIET, "swap_in_pages": 5, "major_faults": 0}, {}, []),
        (QUIET, {"steady": False}, ["unsteady"]),
        (QUIET, {"latency_ns": np.repeat([100, 150], 50)}, ["unsteady"]),
        (QUIET, {"reached": False}, ["short"]),
        (
            QUIET,
            {
                "latency_ns": np.repeat([200, 900], 50),
                "queue_ns": np.repeat([100, 800], 50),
                "target_qps": 9.0,
            },
            [],
        ),
        (QUIET, {"queue_ns": np.zeros(100, np.int64), "target_qps": 1001.0}, ["unsteady"]),  # 1 ms each
        ({}, {}, []),
    ],
)
def test_flags(environment, changes, expected):
    found = flags(samples(environment, **changes))
    assert found == expected
    assert set(found) <= set(FLAGS)


# --- watching -------------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "52500\n")
    for core, clock in enumerate((1_500_000, 600_000)):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{clock}\n")
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", "ondemand\n")
    write(tmp_path, "sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0\n")
    write(tmp_path, "sys/class/thermal/cooling_device0/cur_state", "0\n")
    write(tmp_path, "sys/class/thermal/cooling_device1/type", "pwm-fan\n")
    write(tmp_path, "sys/class/thermal/cooling_device1/cur_state", "3\n")
    return tmp_path


def test_a_board_is_watched(board):
    read = watch()
    assert read() == {
        "temperature_c": 52.5,
        "mhz": 1050.0,
        "mhz_slowest": 600.0,
        "governor": "ondemand",
        "throttle": [],
    }
    write(board, "sys/class/thermal/cooling_device0/cur_state", "2\n")
    assert read()["throttle"] == ["cooling device"]


def test_a_machine_that_tells_nothing_is_not_watched(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    assert watch() is None


def test_states_are_before_after_and_at_the_worst():
    signals = [
        (0, {"temperature_c": 40.0, "throttle": ["thermal"], "power_cap": False, "governor": "a"}),
        (10, {"temperature_c": 41.0, "throttle": [], "power_cap": False, "governor": "a"}),
        (20, {"temperature_c": 60.0, "throttle": ["thermal"], "power_cap": True, "governor": "a"}),
        (30, {"temperature_c": 50.0, "throttle": [], "power_cap": True, "governor": "b"}),
        (40, {"temperature_c": 45.0, "throttle": ["power brake"], "power_cap": True, "governor": "b"}),
    ]
    states = [(ns, "linux", one) for ns, one in signals] + [(25, "gpu", {"mhz": 900})]
    assert over_time(states, 15, 35) == {
        "linux": {
            "temperature_c": {"before": 41.0, "after": 45.0, "least": 50.0, "most": 60.0},
            "throttle": ["thermal"],
            "power_cap_share": 1.0,
            "governor": "b",
        },
        "gpu": {"mhz": {"before": 900, "after": 900, "least": 900, "most": 900}},
    }


def test_a_short_window_is_seen_by_its_neighbours():
    states = [(0, "linux", {"temperature_c": 40.0}), (100, "linux", {"temperature_c": 44.0})]
    assert over_time(states, 40, 60)["linux"]["temperature_c"]["most"] == 44.0
    assert over_time([], 40, 60) == {}

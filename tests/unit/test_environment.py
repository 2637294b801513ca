from __future__ import annotations

import os
import re

import numpy as np
import pytest

from harness.environment import (
    FLAGS,
    Window,
    cpu_capability,
    cpu_model,
    flags,
    governor,
    host,
    machine_id,
    virtualised,
)
from harness.types import Samples


def samples(environment=None, **changes):
    given = {
        "latency_ns": np.full(100, 1_000_000), "warmup_ns": np.zeros(0, np.int64), "first_ns": 1, "window_ns": 1,
        "batch": 1, "steady": True, "reached": True, "environment": environment or {}, **changes,
    }  # fmt: skip
    return Samples(**given)


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_host_is_described_without_names(monkeypatch):
    facts = host()
    assert {"machine_id", "cpu", "cores_logical", "memory_bytes", "python", "versions"} <= facts.keys()
    assert os.uname().nodename not in str(facts)
    assert host()["machine_id"] == facts["machine_id"]


def test_a_machine_without_an_id_keeps_a_random_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    first = machine_id(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert machine_id(tmp_path) == first


@pytest.mark.parametrize(
    ("cpuinfo", "asked", "capability"),
    [
        ("flags : fma avx2 avx512f avx512vl avx512bw avx512dq", "", "avx512"),
        ("flags : fma avx2 avx512f avx512vl avx512bw avx512dq", "avx2", "avx2"),
        ("flags : fma avx2", "", "avx2"),
        ("flags : fma avx2", "default", "default"),
        ("flags : sse2", "", "default"),
        ("Features : fp asimd", "", "neon"),
        ("Features : fp asimd sve", "", "sve"),
    ],
)
def test_cpu_capability(tmp_path, monkeypatch, cpuinfo, asked, capability):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", asked)
    write(tmp_path, "proc/cpuinfo", cpuinfo + "\n")
    assert cpu_capability(tmp_path) == capability


def test_torch_agrees_on_the_capability():
    torch = pytest.importorskip("torch")
    seen = torch.backends.cpu.get_cpu_capability().lower()
    assert cpu_capability() == seen or seen not in ("avx512", "avx2", "default")


def test_a_board_is_named_after_its_device_tree(tmp_path):
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    write(tmp_path, "proc/cpuinfo", "processor : 0\n")
    assert cpu_model(tmp_path) == "Raspberry Pi 5 Model B"
    assert virtualised(tmp_path) is False


def test_governors_are_joined_and_absent_is_none(tmp_path):
    assert governor(tmp_path) is None
    for core, name in enumerate(["powersave", "performance", "powersave"]):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", name + "\n")
    assert governor(tmp_path) == "performance+powersave"


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
    assert "temperature_start_c" not in window.signals


QUIET = {
    "wall_s": 1.0,
    "cpu_s": 1.0,
    "cores": 2.0,
    "foreign_cores": 0.02,
    "steal_cores": 0.0,
    "delay_s": 0.001,
}


@pytest.mark.parametrize(
    ("environment", "changes", "expected"),
    [
        (QUIET, {}, []),
        ({**QUIET, "foreign_cores": 1.0}, {}, []),  # beside it, in nobody's way
        ({**QUIET, "foreign_cores": 1.0, "delay_s": 0.3}, {}, ["contended"]),
        ({**QUIET, "steal_cores": 0.5}, {}, ["contended"]),
        ({k: v for k, v in QUIET.items() if k != "delay_s"} | {"foreign_cores": 1.0}, {}, ["contended"]),
        ({**QUIET, "thermal_events": 2}, {}, ["throttled"]),
        ({**QUIET, "cooling": 1}, {}, ["throttled"]),
        ({**QUIET, "swap_in_pages": 5, "major_faults": 3}, {}, ["swapped"]),
        ({**QUIET, "swap_in_pages": 5, "major_faults": 0}, {}, []),
        (QUIET, {"steady": False}, ["unsteady"]),
        (QUIET, {"latency_ns": np.repeat([100, 150], 50)}, ["unsteady"]),
        (QUIET, {"reached": False}, ["short"]),
        ({}, {}, []),
    ],
)
def test_flags(environment, changes, expected):
    found = flags(samples(environment, **changes))
    assert found == expected
    assert set(found) <= set(FLAGS)

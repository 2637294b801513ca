"""Tests of the memory figures of a process and of a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.machine import memory

SCRIPT = """
import numpy as np
from harness.machine import memory
own = memory.ProcessMemory()
big = np.ones(25_000_000); del big                       # 200 MB before the baseline
own.mark_baseline()
kept = np.ones(5_000_000); transient = np.ones(10_000_000); del transient
print(memory.usage()["peak"] - own.baseline()["rss"])
"""


@pytest.mark.skipif(not memory.usage(), reason="no /proc/self/status on this system")
def test_the_peak_is_that_since_the_baseline():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert 110e6 < int(done.stdout) < 160e6  # 40 MB kept and 80 MB transient, not the 200 MB before


def test_what_cannot_be_read_is_absent(tmp_path):
    assert memory.usage(tmp_path / "status") == {}
    (tmp_path / "status").write_text("Name:\tx\nVmRSS:\t  12 kB\nThreads:\t1\n")
    assert memory.usage(tmp_path / "status") == {"rss": 12 * 1024}


def test_available_is_the_system_s(tmp_path, monkeypatch):
    assert (memory.available() or 2**30) > 2**20  # of this one, if it tells
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    assert memory.available() is None
    meminfo = tmp_path / "proc" / "meminfo"
    meminfo.parent.mkdir()
    meminfo.write_text("MemTotal:  100 kB\n")  # a kernel before 3.14
    assert memory.available() is None
    meminfo.write_text("MemTotal:  100 kB\nMemFree:  5 kB\nMemAvailable:     40 kB\n")
    assert memory.available() == 40 * 1024


@pytest.mark.parametrize(("integrated", "shared"), [(False, {}), (True, {"shared": 300})])
def test_gpu_memory_that_is_shared_is_what_the_system_lost(integrated, shared):
    own = memory.ProcessMemory(free=iter([900, 600]).__next__, gpu=lambda: 30)
    own.mark_baseline()
    assert own.on_gpu(integrated=integrated) == {"process": 30, **shared}


def test_the_baseline_is_before_the_first_model():
    own = memory.ProcessMemory(free=iter([900, 600]).__next__)
    own.mark_baseline()
    own.model_loaded()
    own.mark_baseline()
    assert own.baseline()["available"] == 900

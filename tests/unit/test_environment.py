"""Tests of the description of this machine: host, identity, CPU capability, model and governors."""

from __future__ import annotations

import os
import re
from dataclasses import asdict

import pytest

from harness.machine.environment import cpu_capability, cpu_model, governor, host, machine_id, virtualised


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_host_is_described_without_names(monkeypatch):
    facts = host()
    assert {"machine_id", "cpu", "cores_logical", "memory_bytes", "python", "versions"} <= asdict(
        facts
    ).keys()
    assert os.uname().nodename not in str(facts)
    assert host().machine_id == facts.machine_id


def test_a_machine_without_an_id_keeps_a_random_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    first = machine_id(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert machine_id(tmp_path) == first
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["machine-id"]


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

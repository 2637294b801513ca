"""Tests of a board's description by its agent."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter

from harness.machine.meters import Meters
from harness.plugins import load_plugins
from harness.types import MeterEntry, MeterInfo, Params
from harness_remote.agent import board
from harness_remote.agent.board import OnnxRuntime
from harness_remote.wire.board import BoardDescription

CPUINFO = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "proc/cpuinfo": CPUINFO,
    "proc/sys/kernel/random/boot_id": "d0acfdb6-7386-4de6-859e-7afa4b6ad955\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/class/thermal/thermal_zone0/temp": "61322\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}
JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/cpuinfo": CPUINFO,
    "etc/machine-id": "fedcba9876543210fedcba9876543210\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))

    def make(files):
        for place, text in files.items():
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(text)

    return make


def describe(plugins=None, meters=None, providers=("CPUExecutionProvider",)):
    """Return the description of a board whose ONNX Runtime has these providers."""
    facts = {"version": "1.20.0", "providers": list(providers)}
    return asdict(board.describe(plugins, meters, lambda: facts))


def test_a_raspberry_pi(tree):
    tree(PI)
    facts = describe()
    assert (facts["model"], facts["soc"], facts["kind"]) == (
        "Raspberry Pi 4 Model B Rev 1.4",
        "bcm2711",
        "cpu",
    )
    assert (facts["governor"], facts["cpu_capability"]) == ("ondemand", "neon")
    assert facts["boot_id"] == "d0acfdb6-7386-4de6-859e-7afa4b6ad955"
    assert facts["jetpack"] == {}
    assert "linux" in facts["watches"]
    assert facts["state"]["linux"]["temperature_c"] == 61.322


def test_a_jetson_with_a_gpu_build_of_onnxruntime(tree):
    tree(JETSON)
    facts = describe(providers=["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    assert (facts["soc"], facts["kind"]) == ("tegra234", "cuda")
    assert facts["jetpack"] == {"l4t": "36.4.3", "release": "6"}
    states = [state for state in facts["state"].values() if "power_mode" in state]
    assert [state["power_mode"] for state in states] == ["7W"]


def test_a_jetson_without_one_is_a_cpu(tree):
    tree(JETSON)
    assert describe()["kind"] == "cpu"


def test_a_gpu_build_without_a_gpu_is_a_cpu(tree):
    tree(PI)
    gpu_build = ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert describe(providers=gpu_build)["kind"] == "cpu"
    tree({"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64\n"})
    assert describe(providers=gpu_build)["kind"] == "cuda"


def test_jetpack_by_its_package_where_there_is_one(tree):
    other = "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 9.9\n\n"
    package = "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\nVersion: 6.2-b77\n"
    tree(JETSON | {"var/lib/dpkg/status": other + package})
    assert describe()["jetpack"] == {"l4t": "36.4.3", "release": "6.2"}


def test_an_l4t_of_which_no_jetpack_is_known(tree):
    tree(JETSON | {"etc/nv_tegra_release": "# R99 (release), REVISION: 1.0, GCID: 1\n"})
    assert describe()["jetpack"] == {"l4t": "99.1.0", "release": None}


def test_it_is_json_and_the_fields_of_a_board(tree):
    tree(JETSON)
    facts = describe()
    known = TypeAdapter(BoardDescription)
    assert known.validate_json(json.dumps(facts)) == known.validate_python(facts)
    assert facts["protocol"] == board.PROTOCOL


def test_what_cannot_be_read_is_none(tree):
    tree({"etc/machine-id": PI["etc/machine-id"]})
    facts = describe()
    assert (facts["soc"], facts["product"], facts["governor"], facts["boot_id"]) == (None,) * 4


def test_a_machine_by_its_firmware(tree):
    tree({"sys/class/dmi/id/sys_vendor": "ACME\n", "sys/class/dmi/id/product_name": "Edge 1\n"} | PI)
    assert describe()["product"] == "ACME Edge 1"


def open_meter(info):
    """Stand for the function that opens a meter; a contract demands the top level of a module."""


def test_meters_that_answer_are_listed_with_all_that_opens_them(tree):
    tree(PI)
    info = MeterInfo(
        name="mine:a", scope="board", watches="board", provenance="measured", quantity="power", period_s=0.1
    )
    entry = MeterEntry(name="mine", summary="", params=Params, probe=lambda: [info], open=open_meter)

    class Plugin:
        def harness_meters(self):
            return (entry,)

    from harness.hookspecs import hookimpl

    Plugin.harness_meters = hookimpl(Plugin.harness_meters)
    plugins = load_plugins(extra={"mine": Plugin()})
    facts = describe(plugins)
    assert [TypeAdapter(MeterInfo).validate_python(one) for one in facts["meters"]] == [info]
    assert {one["name"] for one in facts["absent"]} >= {"raspberry-pi"}


def test_a_watch_that_fails_says_why(tree, monkeypatch):
    from harness.machine import state

    def broken():
        raise OSError("no such sensor")

    tree(PI)
    monkeypatch.setattr(state, "watch", broken)
    assert describe()["state"]["linux"] == {"error": "OSError: no such sensor"}


def test_known_meters_are_not_asked_again(tree, monkeypatch):
    tree(PI)
    plugins = load_plugins()
    meters = Meters(plugins)
    first = describe(plugins, meters)
    tree({"sys/class/thermal/thermal_zone0/temp": "70000\n"})
    assert describe(plugins, meters)["state"] == first["state"]
    assert describe(plugins)["state"]["linux"]["temperature_c"] == 70


def test_this_onnxruntime():
    import onnxruntime

    facts = OnnxRuntime().facts()
    assert facts["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in facts["providers"]
    assert facts["opset"] >= 18
    assert facts["ir_version"] >= 8


def test_an_onnxruntime_that_does_not_start_is_tried_again(monkeypatch, tmp_path):
    runtime = OnnxRuntime()
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudnn.so.9: cannot open')")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        facts, impatient = runtime.facts(), OnnxRuntime(again_s=0)
        assert impatient.facts() == facts
    assert facts == {"error": "onnxruntime does not start: ImportError: libcudnn.so.9: cannot open"}
    assert runtime.facts() == facts  # not at every call: one that hangs takes a minute
    assert "version" in impatient.facts()

"""Tests of NVML without a GPU: unmodified pynvml in a separate process, which loads tests/data/nvml_stub.c."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

STUB = Path(__file__).parents[1] / "data" / "nvml_stub.c"
H100 = {
    "init": 0,
    "count": 1,
    "driver": "570.86",
    "0.name": "NVIDIA H100",
    "0.uuid": "GPU-a",
    "0.capability": "9 0",
    "0.memory": "80000 79000 1000",
    "0.energy": 5_000_000,
    "0.usage": 349_000,
    **{f"0.field.{field}.{scope}": 1000 * field + scope for field in (185, 186) for scope in (0, 1, 2)},
    "0.temperature": 61,
    "0.clock.1": 1755,
    "0.clock.2": 2619,
    "0.reasons": 0,
    "0.limit": 700_000,
    "0.processes": "",
}
ABOUT = ("init", "count", "driver", "0.name", "0.uuid", "0.capability")
ORIN = {key: H100[key] for key in ABOUT} | {
    "0.name": "Orin (nvgpu)",
    "0.uuid": "GPU-o",
    "0.capability": "8 7",
}

PRELUDE = """
import dataclasses, json, os, sys
from pathlib import Path

def answers(**changed):
    STATE.update({key.replace("_", "."): value for key, value in changed.items()})
    Path(os.environ["NVML_STUB"]).write_text("".join(f"{k} {v}\\n" for k, v in STATE.items()))

def out(value):
    print(json.dumps(value, default=dataclasses.asdict), flush=True)
"""
# Has imported what the scripts do, NVML's library not yet; each script runs in a fork of it.
SERVER = (
    PRELUDE
    + """
import traceback
import onnxruntime, pynvml
import harness.machine.memory, harness.types, harness_local.nvidia, harness_power.nvml, harness_runtimes.onnx_session
for line in sys.stdin:
    script, STATE, environment = json.loads(line)
    if (pid := os.fork()) == 0:
        os.environ.update(environment)
        try:
            answers()
            exec(script, globals())
        except BaseException:
            out({"raised": traceback.format_exc()})
        os._exit(0)
    os.waitpid(pid, 0)
"""
)
PROBE = "from harness_power import nvml; out(list(nvml.ENTRY.probe()))"
METER = """
from harness.types import MeterInfo
from harness_power import nvml
def opened(name):
    found = {item.name: item for item in nvml.ENTRY.probe() if isinstance(item, MeterInfo)}
    return nvml.ENTRY.open(MeterInfo(**json.loads(json.dumps(dataclasses.asdict(found[name])))))
"""
WATCH = """
from harness_power import nvml
look = nvml.ENTRY.watch()
out(look and look())
"""


def build(folder: Path, *flags: str) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the NVML stub: install gcc, or set CC")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([*compiler.split(), "-shared", "-fPIC", *flags, "-o", library, STUB], check=True)
    return folder


@contextmanager
def python(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that finds NVML's library in ``folder``."""
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "NVML_STUB": str(folder / "answers"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=env, text=True, stdin=pipe, stdout=pipe) as child:
        yield child


@pytest.fixture(scope="module")
def current(tmp_path_factory):
    with python(SERVER, build(tmp_path_factory.mktemp("current"), "-Wall", "-Werror")) as server:
        yield server


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    with python(SERVER, build(tmp_path_factory.mktemp("old"), "-DOLD")) as server:
        yield server


@pytest.fixture(scope="module")
def absent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("absent")
    (folder / "libnvidia-ml.so.1").touch()  # found before any other, and no library
    with python(SERVER, folder) as server:
        yield server


def ask(server, script, state=None, **environment):
    """Run a script under a driver that answers as ``state`` says; what it gives to ``out``."""
    server.stdin.write(json.dumps([script, state or {}, environment]) + "\n")
    server.stdin.flush()
    found = json.loads(server.stdout.readline())
    assert not isinstance(found, dict) or "raised" not in found, found["raised"]
    return found


def split(found):
    meters = {item["name"]: item for item in found if "scope" in item}
    return meters, [item for item in found if "scope" not in item]


def test_a_gpu_that_answers_everything(current):
    meters, missing = split(ask(current, PROBE, H100))
    assert missing == []
    assert {
        name: (m["quantity"], m["scope"], m["watches"], m["averaging_s"]) for name, m in meters.items()
    } == {
        "nvml:0:energy": ("energy", "gpu", "GPU-a", 0.0),
        "nvml:0:power": ("power", "gpu", "GPU-a", 0.025),
        "nvml:0:average": ("power", "gpu", "GPU-a", 1.0),
        "nvml:0:module": ("power", "board", "GPU-a", 0.025),
        "nvml:0:module-average": ("power", "board", "GPU-a", 1.0),
        "nvml:0:memory": ("power", "gpu", "GPU-a/memory", 0.025),
        "nvml:0:memory-average": ("power", "gpu", "GPU-a/memory", 1.0),
    }
    assert {m["period_s"] for m in meters.values()} == {0.1}
    assert {m["provenance"] for m in meters.values()} == {"measured"}
    assert meters["nvml:0:memory"]["details"]["part_of"] == "GPU-a"
    assert meters["nvml:0:energy"]["details"]["driver"] == "570.86"


def test_what_each_meter_reads(current):
    script = (
        METER
        + """
out({name: opened(f"nvml:0:{name}").read()[1] for name in
     ("energy", "power", "average", "module", "module-average", "memory", "memory-average")})"""
    )
    assert ask(current, script, H100) == {
        "energy": 5000.0,
        "power": 186.0,
        "average": 185.0,
        "module": 186.001,
        "module-average": 185.001,
        "memory": 186.002,
        "memory-average": 185.002,
    }


def test_the_counter_advances_with_the_time_of_reading(current):
    script = (
        METER
        + """
import time
meter = opened("nvml:0:energy")
before = time.monotonic_ns()
(t0, e0) = meter.read()
answers(**{"0_energy": 5_012_345})
(t1, e1) = meter.read()
meter.close()
out([before <= t0 <= t1 <= time.monotonic_ns(), e1 - e0])"""
    )
    in_order, joules = ask(current, script, H100)
    assert in_order
    assert joules == pytest.approx(12.345)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"0_energy": 7}, "nvml:0:energy: the counter went back, was the driver reloaded?"),
        ({"0_energy": "!15"}, "nvml:0:energy: NVML answers GpuIsLost"),
    ],
)
def test_a_meter_that_ends_says_why(current, change, says):
    script = (
        METER
        + f"""
from harness.errors import DeviceError
meter = opened("nvml:0:energy")
meter.read()
answers(**{change!r})
try:
    meter.read()
except DeviceError as error:
    out(str(error))"""
    )
    assert ask(current, script, H100) == says


def test_a_gpu_is_found_by_its_uuid_when_numbers_change(current):
    script = (
        METER
        + """
(info, *_) = nvml.ENTRY.probe()
answers(count=2, **{"0_uuid": "GPU-new", "0_energy": 1000, "1_uuid": "GPU-a", "1_energy": 2000})
out(nvml.ENTRY.open(info).read()[1])"""
    )
    assert ask(current, script, H100) == 2.0


def test_a_gpu_gone_before_its_meter_opens(current):
    script = (
        METER
        + """
from harness.errors import DeviceError
(info, *_) = nvml.ENTRY.probe()
answers(**{"0_uuid": "GPU-other"})
try:
    nvml.ENTRY.open(info)
except DeviceError as error:
    out(str(error))"""
    )
    assert ask(current, script, H100) == "nvml:0:energy: NVML answers NotFound"


def test_an_orin_answers_nothing_and_the_fix_names_its_own_meter(current):
    meters, missing = split(ask(current, PROBE, ORIN))
    assert meters == {}
    (only,) = missing
    assert only["name"] == "nvml:0"
    assert only["reason"].startswith("Orin (nvgpu): NotSupported for energy, power, average, module")
    assert "ina3221" in only["fix"]
    assert ask(current, WATCH, ORIN) is None


def test_a_card_without_module_and_memory_power(current):
    card = {key: value for key, value in H100.items() if not key.endswith((".1", ".2")) or "clock" in key}
    meters, missing = split(ask(current, PROBE, card))
    assert list(meters) == ["nvml:0:energy", "nvml:0:power", "nvml:0:average"]
    assert [item["reason"] for item in missing] == [
        "NVIDIA H100: NotSupported for module, module-average, memory, memory-average"
    ]
    assert missing[0]["fix"] == ""


def test_zero_is_no_reading(current):
    meters, missing = split(ask(current, PROBE, H100 | {"0.energy": 0, "0.field.186.2": 0}))
    assert "nvml:0:energy" not in meters
    assert "nvml:0:memory" not in meters
    assert [item["reason"] for item in missing] == ["NVIDIA H100: reads zero for energy, memory"]


@pytest.mark.parametrize(
    ("capability", "averaging"), [("9 0", 1.0), ("8 6", 1.0), ("8 0", 0.025), ("7 0", 0.0)]
)
def test_an_old_driver_has_one_power_and_no_counter(old, capability, averaging):
    meters, missing = split(ask(old, PROBE, H100 | {"0.capability": capability}))
    assert list(meters) == ["nvml:0:power"]
    assert meters["nvml:0:power"]["averaging_s"] == averaging
    (only,) = missing
    assert only["reason"].startswith("NVIDIA H100: FunctionNotFound for energy, average, module")
    assert only["fix"] == "update the NVIDIA driver (570.86)"
    script = METER + 'out(opened("nvml:0:power").read()[1])'
    assert ask(old, script, H100) == 349.0


def test_without_its_architecture_an_old_power_reading_is_not_offered(old):
    meters, _ = split(ask(old, PROBE, H100 | {"0.capability": "!3"}))
    assert meters == {}


def test_one_broken_gpu_does_not_hide_the_other(current):
    two = H100 | {"count": 2, "0.uuid": "!15"}
    two |= {key.replace("0.", "1.", 1): value for key, value in H100.items() if key.startswith("0.")}
    meters, missing = split(ask(current, PROBE, two))
    assert [item["reason"] for item in missing] == ["the driver answers GpuIsLost"]
    assert {m["watches"] for m in meters.values()} == {"GPU-a", "GPU-a/memory"}
    assert all(name.startswith("nvml:1:") for name in meters)


def test_no_driver(absent):
    (only,) = ask(absent, PROBE)
    assert only["reason"] == "no NVIDIA driver answers (LibraryNotFound)"
    assert "nvidia-smi" in only["fix"]
    assert ask(absent, WATCH) is None


def test_a_driver_that_does_not_start_and_one_without_gpus(current):
    (only,) = ask(current, PROBE, {"init": "!9"})
    assert only["reason"] == "no NVIDIA driver answers (DriverNotLoaded)"
    (only,) = ask(current, PROBE, {"init": 0, "count": 0})
    assert only["reason"] == "the NVIDIA driver lists no GPU"


def test_nvidia_ml_py_missing(absent):
    blocked = "sys.modules['pynvml'] = None\n"
    (only,) = ask(absent, blocked + PROBE)
    assert only["reason"] == "nvidia-ml-py is not installed"
    assert "nvidia" in only["fix"]
    assert ask(absent, blocked + WATCH) is None
    assert ask(absent, blocked + "out(harness.machine.memory.on_gpu())") == {}


def test_importing_the_meter_imports_no_optional_package(tmp_path):
    script = "import harness_power.nvml; out([m for m in ('pynvml', 'torch', 'numpy') if m in sys.modules])"
    with python(PRELUDE + script, tmp_path) as child:
        assert json.loads(child.stdout.read()) == []


@pytest.mark.parametrize("library", ["current", "old"])
def test_the_state_of_a_gpu(library, request):
    found = ask(request.getfixturevalue(library), WATCH, H100)
    assert {key: value for key, value in found.items() if key != "gpus"} == {
        "temperature_c": 61,
        "mhz": 1755,
        "throttle": [],
        "power_cap": False,
        "power_mode": "700 W",
    }
    assert found["gpus"]["GPU-a"]["memory_used_bytes"] == 1000
    assert found["gpus"]["GPU-a"]["memory_mhz"] == 2619


@pytest.mark.parametrize(
    ("bits", "throttle", "power_cap"),
    [
        (1, [], False),  # idle
        (2 + 16 + 256, [], False),  # clocks that somebody set
        (4, [], True),
        (4 + 32, ["sw-thermal"], False),  # not the power limit alone
        (8 + 64, ["hw-slowdown", "hw-thermal"], False),
        (8 + 128, ["hw-slowdown", "power-brake"], False),
    ],
)
def test_why_a_clock_is_held_back(current, bits, throttle, power_cap):
    found = ask(current, WATCH, H100 | {"0.reasons": bits})
    assert (found["throttle"], found["power_cap"]) == (throttle, power_cap)


def test_the_state_of_two_gpus_is_the_worst(current):
    two = H100 | {"count": 2, "0.reasons": 32}
    two |= {"1.uuid": "GPU-b", "1.reasons": 1, "1.clock.1": 210, "1.temperature": 80, "1.limit": 300_000}
    found = ask(current, WATCH, two)
    assert found["temperature_c"] == 80
    assert found["mhz"] == 1755  # the idle one's low clock is no news
    assert found["throttle"] == ["sw-thermal"]
    assert found["power_mode"] == "300 W, 700 W"
    assert found["gpus"]["GPU-b"]["mhz"] == 210


def test_a_signal_that_ends_is_left_out(current):
    script = WATCH.replace("out(", "answers(**{'0_temperature': '!15'}); out(")
    found = ask(current, script, H100)
    assert "temperature_c" not in found
    assert found["mhz"] == 1755


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ("12:4096 self:8192 13:5", {"process": 8192}),
        ("self:-", {}),  # usedGpuMemory None
        ("self:0", {}),  # a container, by some drivers
        ("12:4096", {}),  # a container, by others: we are there by another number
        ("", {}),
        ("!3", {}),  # a Jetson
    ],
)
def test_the_gpu_memory_of_this_process(current, processes, expected):
    script = """
from harness_runtimes.onnx_session import OnnxSession
session = object.__new__(OnnxSession)
session.facts = {"provider": "CUDAExecutionProvider"}
out(session.device_memory())"""
    assert ask(current, script, H100 | {"0.processes": processes}) == expected


def test_gpu_memory_is_that_of_all_gpus(current):
    two = H100 | {"count": 2, "0.processes": "self:100", "1.processes": "9:7 self:20"}
    script = (
        "from harness.machine import memory; out([memory.gpu_process_bytes(), memory.gpu_process_bytes()])"
    )
    assert ask(current, script, two) == [120, 120]


def test_on_a_jetson_memory_is_what_the_system_lost(current, tmp_path):
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    script = f"""
from harness.machine import memory
def leave(kilobytes):
    Path({str(tmp_path / "proc" / "meminfo")!r}).write_text(f"MemTotal: 8000 kB\\nMemAvailable: {{kilobytes}} kB\\n")
leave(5000)
memory.mark_baseline()
readings = [memory.on_gpu()]
for kilobytes in (3000, 5500):  # what this process took, and what another gave back
    leave(kilobytes)
    readings.append(memory.on_gpu())
out(readings)"""
    readings = ask(current, script, ORIN, HARNESS_SYSROOT=str(tmp_path))
    assert readings == [{"shared": 0}, {"shared": 2000 * 1024}, {"shared": -500 * 1024}]


def test_the_devices_of_this_machine(current):
    script = "from harness_local import nvidia; out(nvidia.gpus())"
    (card,) = ask(current, script, H100)
    assert (card["model"], card["memory_bytes"]) == ("NVIDIA H100", 80000)
    assert card["details"] == {"index": 0, "uuid": "GPU-a", "driver": "570.86"}
    (board,) = ask(current, script, ORIN)
    assert board["details"]["shared_memory"] is True
    assert board["memory_bytes"] > 2**28

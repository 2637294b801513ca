"""Tests of the jtop meter with unmodified jetson-stats, against a simulated service."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.types import MeterInfo, Unavailable
from harness_power import jtop as meter

_before = multiprocessing.get_start_method(allow_none=True)
service = pytest.importorskip("jtop.service")
multiprocessing.set_start_method(_before, force=True)  # importing jtop sets it

INTERVAL_S = 0.2

SERVICE = """
import json, queue, signal, sys, threading, time
from multiprocessing.managers import SyncManager

class Service(SyncManager):
    pass

socket, key, init, data, mute = *sys.argv[1:3], *map(json.loads, sys.argv[3:5]), sys.argv[5]
commands, event, frozen = queue.Queue(), threading.Event(), threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: frozen.set())

def answer():
    while True:
        control = commands.get()
        if "init" in control:
            commands.put(control)
            time.sleep(0.01)
        elif "interval" in control and not mute:
            commands.put({"init": init})

for rail in [*data["power"]["rail"].values(), data["power"]["tot"]]:
    rail["avg"] = -1

def tick():
    while True:
        if not frozen.is_set():
            power = dict(data["power"], tot=dict(data["power"]["tot"]))
            power["tot"]["power"] += power["tot"].get("step", 0)
            data.update(uptime=time.monotonic(), power=power)  # at once: no client gets half a tick
        event.set()
        time.sleep(init["interval"])

Service.register("get_queue", callable=lambda: commands)
Service.register("sync_data", callable=lambda: data)
Service.register("sync_event", callable=lambda: event)
for work in (answer, tick):
    threading.Thread(target=work, daemon=True).start()
server = Service(address=socket, authkey=key.encode()).get_server()
print("ready", flush=True)
server.serve_forever()
"""


def rail(milliwatts: int, kind: str = "INA3221", **more: object) -> dict[str, object]:
    return {"power": milliwatts, "avg": milliwatts, "type": kind, "online": True, **more}


ORIN_NX = {"rail": {"VDD_CPU_GPU_CV": rail(757), "VDD_SOC": rail(1433)}, "tot": rail(4984, name="VDD_IN")}
AGX_ORIN = {
    "rail": {
        "VDD_GPU_SOC": rail(3186),
        "VDD_CPU_CV": rail(1195),
        "VIN_SYS_5V0": rail(3974),
        "VDDQ_VDD2_1V8AO": rail(695),
        "ups": rail(900, "Battery"),
    },
    "tot": {"power": 9950, "avg": 9950},
}


def init(**changes: object) -> dict[str, object]:
    import jtop

    return {
        "version": jtop.__version__,
        "interval": INTERVAL_S,
        "board": {"hardware": {}},
        "memory": "/",
        "fan": {"pwmfan": ["quiet"]},
        "jc": True,
        "nvpmodel": {"models": ["15W", "25W"], "default": {"name": "15W", "id": 0}},
        **changes,
    }


def state(power: dict[str, Any]) -> dict[str, Any]:
    return {
        "power": power,
        "temperature": {"cpu": {"temp": 51.5, "online": True}, "cv0": {"temp": -256, "online": False}},
        "gpu": {"ga10b": {"type": "integrated", "freq": {"governor": "nvhost_podgov", "cur": 510000}}},
        "cpu": {"cpu": [{"online": True, "freq": {"cur": 1510400}}, {"online": False}]},
        "mem": {"RAM": {}},
        "fan": {"pwmfan": {"speed": [38.4], "rpm": [2140], "profile": "quiet"}},
        "jc": {"enable": True, "thread": "inactive", "config": False, "boot": False},
        "nvp": {"status": [], "thread": False, "model": {"name": "25W", "id": 1}},
    }


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Jetson, as far as one can see."""
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    monkeypatch.setattr(service, "JTOP_PIPE", str(tmp_path / "run/jtop.sock"))
    (tmp_path / "run").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").touch()
    return tmp_path


@pytest.fixture
def start(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(sys.modules["jtop.jtop"], "TIMEOUT_GAIN", 60)  # times the client's interval of 1 s
    running = []

    def run(
        power: dict[str, Any], *, key: str = "", mute: str = "", **changes: object
    ) -> subprocess.Popen[str]:
        words = [str(root / "run/jtop.sock"), key or service.get_key()]
        words += [json.dumps(init(**changes)), json.dumps(state(power)), mute]
        process = subprocess.Popen([sys.executable, "-c", SERVICE, *words], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


LONG = meter.Limits(answer_s=60, silent_intervals=60 / INTERVAL_S)
"""For a machine that is busy."""


def only(limits: meter.Limits = LONG) -> Any:
    (found,) = meter.probe(limits)
    return found


def opened(info: MeterInfo, limits: meter.Limits = LONG) -> Any:
    return meter.open_log(replace(info, details=json.loads(json.dumps(info.details))), limits)


def fetched(log: Any, count: int) -> tuple[int, int, list[tuple[int, float]]]:
    """Return begin, end and samples of a window that begins now and has at least ``count`` samples."""
    begin = end = time.monotonic_ns()
    samples: list[tuple[int, float]] = []
    while len(samples) < count:
        assert end - begin < 60 * 10**9
        end = time.monotonic_ns()
        samples = log.fetch(begin, end, (begin, end))
    return begin, end, samples


def test_a_named_total_is_the_boards_input(start: Start) -> None:
    start(ORIN_NX)
    info = only()
    assert (info.name, info.scope, info.watches) == ("jtop:VDD_IN", "board", "board")
    assert (info.quantity, info.period_s, info.averaging_s) == ("power", INTERVAL_S, 0)
    assert info.details["rails"] == ["VDD_IN"]
    assert set(info.details["inside"]) == {"VDD_CPU_GPU_CV", "VDD_SOC"}


def test_the_log_has_each_tick_once_and_never_the_average(start: Start) -> None:
    start({**ORIN_NX, "tot": rail(4984, name="VDD_IN", step=1)})
    log = opened(only())
    begin, end, samples = fetched(log, 5)
    log.close()
    times, watts = ([sample[i] for sample in samples] for i in range(2))
    assert begin <= times[0]
    assert times[-1] <= end
    assert times == sorted(set(times))
    assert watts == sorted(set(watts))  # each tick has a milliwatt more
    assert 4.984 < watts[0] < watts[-1] < 6


def test_a_sum_leaves_out_overlapping_rails_and_batteries(start: Start) -> None:
    start(AGX_ORIN)
    info = only()
    assert (info.name, info.scope) == ("jtop:rails", "rails")
    assert (
        info.watches == "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
    )  # as the ina3221 meter's, to be checked with it
    assert info.details["inside"] == ["VDDQ_VDD2_1V8AO"]
    log = opened(info)
    assert fetched(log, 1)[2][0][1] == pytest.approx(3.186 + 1.195 + 3.974)
    log.close()


def test_another_named_total_is_taken_as_named(start: Start) -> None:
    start({"rail": {"VDD_GPU": rail(9000)}, "tot": rail(31000, "INA238", name="VIN")})
    info = only()
    assert (info.name, info.scope, info.details["beside"]) == ("jtop:VIN", "board", ["VDD_GPU"])


def test_unknown_rails_without_a_total_make_no_meter(start: Start) -> None:
    start({"rail": {"SYS": rail(1000), "AUX": rail(10)}, "tot": {"power": 1010}})
    found = only()
    assert isinstance(found, Unavailable)
    assert "AUX, SYS" in found.reason


def test_the_state_of_the_board(start: Start) -> None:
    start(ORIN_NX)
    look = meter.watch(LONG)
    assert look is not None
    assert look() == {
        "temperature_c": 51.5,
        "mhz": 510.0,
        "cpu_mhz": 1510.4,
        "power_mode": "25W",
        "jetson_clocks": True,
        "fan_percent": {"pwmfan": 38.4},
    }


def test_a_service_that_dies_ends_the_log_and_the_state(start: Start) -> None:
    process = start(ORIN_NX)
    log, look = opened(only()), meter.watch(LONG)
    process.kill()
    process.wait()
    now = time.monotonic_ns()
    with pytest.raises(HarnessError, match="jtop"):
        log.fetch(now, now + 10**9, (now, now + 10**9))
    assert look is not None
    until = time.monotonic() + 60
    while "jtop" not in look() and time.monotonic() < until:
        time.sleep(0.05)
    assert set(look()) == {"jtop"}


def test_a_service_that_freezes_gives_no_old_values(start: Start) -> None:
    process = start(ORIN_NX)
    log = opened(only(), meter.Limits(answer_s=60, silent_intervals=5))
    process.send_signal(signal.SIGUSR1)
    begin = time.monotonic_ns()
    with pytest.raises(HarnessError, match="silent"):
        log.fetch(begin, begin + 60 * 10**9, (begin, begin))
    log.close()


def refused(reason: str, fix: str, limits: meter.Limits = LONG) -> None:
    found = only(limits)
    assert isinstance(found, Unavailable)
    assert reason in found.reason
    assert "\n" not in found.reason
    assert fix in found.fix
    assert meter.watch(limits) is None


def test_no_service_is_said_with_the_fix(root: Path) -> None:
    refused("jtop.service is not active", "jtop --install-service")


def test_another_version_of_the_service_is_said_with_the_fix(start: Start) -> None:
    start(ORIN_NX, version="3.1.4")
    refused("[3.1.4]", "install the service's version")


def test_another_key_is_said_with_the_fix(start: Start) -> None:
    start(ORIN_NX, key="another")
    refused("Authentication", "install the service's version")


def test_no_permission_is_said_with_the_fix(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(service.JtopManager, "connect", refuse)
    refused("can't access jtop.service", "usermod -aG jtop")


def test_a_mute_service_does_not_hold_up_the_probe(start: Start) -> None:
    start(ORIN_NX, mute="mute")
    refused("does not answer", "systemctl restart", meter.Limits(answer_s=0.5))


def test_without_the_library_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jtop", None)
    refused("jetson-stats", "[jetson]")


def test_off_a_jetson_the_library_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from harness_power import jtop; found, = jtop.probe();"
        "assert found.reason == 'not a Jetson'; assert jtop.watch() is None; assert 'jtop' not in sys.modules"
    )
    env = {"HARNESS_SYSROOT": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_importing_the_library_leaves_the_start_method() -> None:
    code = (
        "import multiprocessing as m; from harness_power import jtop; m.set_start_method('spawn');"
        "jtop.load_library(); assert m.get_start_method() == 'spawn'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})

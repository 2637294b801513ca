"""Tests of the Joulescope: the maker's unmodified package, over a driver that answers as the real one does.

The real driver is compiled and uses libusb itself. Here it is a double of its interface
(``pyjoulescope_driver.Driver``: paths, open, publish, subscribe). joulescope before 1.6 asks the driver for the
paths. Later versions watch for devices, and use the contexts that ``open`` and ``subscribe`` return.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from harness.types import MeterInfo, Unavailable
from harness_power.joulescope import ENTRY, FIRST_S, LATE_S, Clock, JoulescopeParams, describe, open_meter

backend = pytest.importorskip("joulescope.v1.driver")
bindings = pytest.importorskip("pyjoulescope_driver")
DeviceContext = getattr(bindings, "DeviceContext", lambda *_: None)
SubscribeContext = getattr(bindings, "SubscribeContext", lambda *_: None)

START_S = 1000.0
ANCIENT_J = 500.0  # the instrument has been adding up since before


class Driver:
    """Instruments by path ("u/js220/001234"); ``watts(seconds)`` is what goes through each."""

    def __init__(self, *paths, watts=lambda _: 5.0, silent=False, busy=False):
        self.paths, self.watts, self.silent, self.busy = paths, watts, silent, busy
        self.published: list[tuple[str, object]] = []
        self.subscribed: dict[str, object] = {}
        self.threads: list[threading.Thread] = []
        self.closed: list[str] = []
        self.now, self.until = START_S, START_S + 0.6  # its clock, as fast as it can, up to there
        self.log_level = ""

    def device_paths(self):
        return list(self.paths)

    def device_watch(self, on_add, on_remove):
        for path in self.paths:
            on_add(bindings.DevicePath(path))
        return SimpleNamespace(unsubscribe=lambda: None)

    def open(self, path, mode=None, timeout=None):
        if self.busy:
            raise RuntimeError("jsdrv_open failed: IN_USE")
        return DeviceContext(self, path)

    def close(self, path, timeout=None):
        self.closed.append(path)

    def finalize(self):
        pass

    def publish(self, topic, value, timeout=None):
        self.published.append((topic, value))

    def unsubscribe(self, topic, fn, timeout=None):
        self.subscribed.pop(topic, None)

    def subscribe(self, topic, flags, fn, timeout=None):
        self.subscribed[topic] = fn
        if topic.endswith("stats/value") and not self.silent:
            counts = dict(self.published).get(topic.replace("/s/stats/value", "/s/stats/scnt"))
            seconds = counts / 1_000_000 if counts else 0.5
            thread = threading.Thread(target=self._serve, args=(topic, seconds), daemon=True)
            self.threads.append(thread)
            thread.start()
        return SubscribeContext(self, [(topic, fn)])

    def _serve(self, topic, seconds):
        done, joules = 0, ANCIENT_J
        while topic in self.subscribed:
            if self.now >= self.until:
                time.sleep(0.002)
                continue
            start = done * seconds
            done += 1
            joules += (
                float(np.mean([self.watts(start + x * seconds) for x in np.linspace(0, 1, 20, False)]))
                * seconds
            )
            self.now = START_S + done * seconds
            self.subscribed.get(topic, lambda *_: None)(topic, self._statistics(start, seconds, joules))

    @staticmethod
    def _statistics(start, length, joules):
        of = {key: {"value": 1.0, "units": ""} for key in ("avg", "std", "min", "max", "p2p")}
        return {
            "time": {
                "samples": {"value": [round((start + x) * 2e6) for x in (0, length)], "units": "samples"}
            },
            "signals": {name: dict(of) for name in ("current", "voltage", "power")},
            "accumulators": {
                "charge": {"value": joules / 5, "units": "C"},
                "energy": {"value": joules, "units": "J"},
            },
            "source": "sensor",
        }


@pytest.fixture
def plugged(monkeypatch, tmp_path):
    """Return a function that plugs instruments in: sysfs lists them, and the driver finds them."""

    def plug(*paths, **more):
        driver = Driver(*paths, **more)
        for number, path in enumerate(paths):
            _, model, serial = path.split("/")
            device = tmp_path / f"sys/bus/usb/devices/1-{number}"
            device.mkdir(parents=True)
            product = {"js220": "10ba", "js110": "0e88"}[model]
            for name, text in {
                "idVendor": "16d0",
                "idProduct": product,
                "busnum": "1",
                "devnum": str(number),
                "serial": serial,
            }.items():
                (device / name).write_text(text + "\n")
            node = tmp_path / f"dev/bus/usb/001/00{number}"
            node.parent.mkdir(parents=True, exist_ok=True)
            node.touch()
        monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
        clock = SimpleNamespace(monotonic_ns=lambda: round(driver.now * 1e9))
        monkeypatch.setattr("harness_power.joulescope.time", clock)
        monkeypatch.setattr(backend, "Driver", lambda: driver)
        monkeypatch.setattr(backend.DriverWrapper, "__singleton__", None)
        monkeypatch.setattr(backend.atexit, "register", lambda *_: None)
        return driver

    return plug


def opened(first_s=FIRST_S, late_s=LATE_S, **params):
    (info,) = describe(JoulescopeParams(**params))
    return open_meter(MeterInfo(**json.loads(json.dumps(asdict(info)))), first_s, late_s)


def test_joules_of_a_load(plugged):
    driver = plugged("u/js220/001234", watts=lambda at: 3.0 + 6.0 * (0.6 <= at < 1.0))
    log = opened(frequency=20)
    driver.until = START_S + 1.0
    begin, end = (round((START_S + at) * 1e9) for at in (0.42, 0.78))
    samples = log.fetch(begin, end, (begin, end))
    log.close()
    ns, joules = (np.array(column) for column in zip(*samples, strict=True))
    assert ns[0] <= begin < ns[1]
    assert ns[-2] < end <= ns[-1]
    assert np.all(np.diff(ns) > 0)
    used = np.diff(np.interp([begin, end], ns, joules))[0]
    assert used == pytest.approx(0.36 * 3 + 0.18 * 6, rel=0.01)
    assert driver.closed == ["u/js220/001234"]


def test_a_js220_is_set_to_its_rate_and_to_add_up(plugged):
    driver = plugged("u/js220/001234")
    opened(frequency=20).close()
    settings = dict(
        driver.published[: [topic for topic, _ in driver.published].index("u/js220/001234/s/stats/ctrl") + 1]
    )
    assert settings["u/js220/001234/s/stats/scnt"] == 50_000
    assert settings["u/js220/001234/s/stats/ctrl"] == 1
    assert ("u/js220/001234/s/i/range/mode", "auto") in driver.published


def test_a_js110_adds_up_in_its_sensor_twice_a_second(plugged):
    driver = plugged("u/js110/000042")
    (info,) = describe(JoulescopeParams())
    assert info.period_s == 0.5
    log = open_meter(info)
    assert "u/js110/000042/s/sstats/value" in driver.subscribed
    assert "u/js110/000042/s/i/range/select" in dict(driver.published)
    log.close()


def test_a_js110_has_no_other_rate(plugged):
    plugged("u/js110/000042")
    with pytest.raises(ValueError, match="a JS110 has 2 only"):
        describe(JoulescopeParams(frequency=50))
    (there,) = describe(JoulescopeParams(host="bench"))
    with pytest.raises(OSError, match="write frequency: 2"):
        open_meter(there)


def test_one_of_several_by_its_serial(plugged):
    plugged("u/js220/000001", "u/js220/000002")
    with pytest.raises(ValueError, match="name one of 000001, 000002"):
        describe(JoulescopeParams())
    (info,) = describe(JoulescopeParams(serial="000002"))
    assert info.name == "joulescope:000002"


def test_one_in_use_is_an_error_that_says_so(plugged):
    plugged("u/js220/001234", busy=True)
    with pytest.raises(OSError, match=r"joulescope:001234: .*IN_USE"):
        opened()


def test_one_that_the_driver_does_not_find(plugged):
    driver = plugged("u/js220/001234")
    driver.paths = ()
    with pytest.raises(OSError, match="in use by another program"):
        opened()


def test_one_that_says_nothing_is_given_up_and_closed(plugged):
    driver = plugged("u/js220/001234", silent=True)
    with pytest.raises(OSError, match="no reading came"):
        opened(first_s=0.1)
    assert driver.closed == ["u/js220/001234"]


def test_one_that_falls_silent_is_an_error(plugged):
    driver = plugged("u/js220/001234")
    log = opened(late_s=0.2)
    driver.subscribed.clear()
    for thread in driver.threads:
        thread.join()
    with pytest.raises(OSError, match="no reading came"):
        log.fetch(round(START_S * 1e9), round(2 * START_S * 1e9), (0, 1))


def test_late_statistics_do_not_move_its_clock():
    chance = random.Random(0)
    clock, offset = Clock(), 10**12
    errors = []
    for number in range(1, 500):
        true = offset + number * 20_000_000
        late = int(abs(chance.gauss(0, 1e6)) + (chance.random() < 0.1) * 1e8)
        errors.append(clock.at(number * 0.02, true + late) - true)
    assert max(errors[50:]) < 0.5e6
    assert min(errors) >= 0


def test_its_clock_follows_a_drift():
    clock = Clock()
    errors = [clock.at(n * 0.02 * (1 + 50e-6), n * 20_000_000) - n * 20_000_000 for n in range(1, 20_000)]
    assert max(abs(error) for error in errors) < 0.5e6


def test_what_it_is_said_to_be(plugged):
    plugged("u/js220/001234")
    (info,) = describe(JoulescopeParams(frequency=100, calibration=0.005, watches="pi5"))
    assert (info.name, info.scope, info.watches) == ("joulescope:001234", "board", "pi5")
    assert (info.quantity, info.provenance, info.period_s) == ("energy", "measured", 0.01)
    (said,) = ENTRY.probe()
    assert isinstance(said, Unavailable)
    assert "'001234'" in said.fix


def test_no_access_is_said_with_the_rule(plugged, monkeypatch):
    plugged("u/js220/001234")
    monkeypatch.setattr("os.access", lambda *_: False)
    for said in (*ENTRY.probe(), *describe(JoulescopeParams())):
        assert isinstance(said, Unavailable)
        assert said.reason == "no access to /dev/bus/usb/001/000"
        assert 'ATTR{idVendor}=="16d0"' in said.fix


def test_nothing_plugged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    for said in (*ENTRY.probe(), *describe(JoulescopeParams())):
        assert isinstance(said, Unavailable)
        assert said.reason == "no Joulescope on USB"


def test_at_another_host_it_is_taken_as_the_suite_says():
    (info,) = describe(JoulescopeParams(serial="001234", host="bench"))
    assert (info.name, info.host, info.details["serial"]) == ("joulescope:001234", "bench", "001234")


def test_a_rate_that_it_has_not_is_refused():
    with pytest.raises(ValidationError):
        JoulescopeParams(frequency=30)

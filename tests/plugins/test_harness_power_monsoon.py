"""Tests of the Monsoon HVPM: the maker's unmodified package drives a USB device that speaks its protocol.

The device is a backend of pyusb, so only the transfers are simulated.
"""

from __future__ import annotations

import array
import json
import random
import struct
import time
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from harness.types import MeterInfo, Unavailable
from harness_power.monsoon import ENTRY, FIRST_S, MonsoonParams, describe, open_meter

pytest.importorskip("Monsoon.sampleEngine")
usb = pytest.importorskip("usb.core")
usb_backend = pytest.importorskip("usb.backend")

VOLTS, ZERO = 5.1, 100
RATE, PER_PACKET = 5000, 3
START_S, READY_S = 1000.0, 0.3  # its clock, which runs as fast as the packets are read, and stops on demand
MEASURED, ZERO_CAL, REF_CAL = 0x00, 0x10, 0x30
ONE_MILLIAMPERE = 6400  # the coarse scale, so that a step of the converter is 1 mA
SET_VOLTAGE, SERIAL, MODEL, FIRMWARE, STATUS = 0x41, 0x42, 0x45, 0xC0, 0xC4


class Backend(usb_backend.IBackend):
    """One HVPM on a bus. ``milliamperes(seconds since it began)`` is what its board draws."""

    def __init__(
        self, milliamperes, *, volts=VOLTS, gone_after=None, calibrates=True, model=2, late=lambda: 0.0
    ):
        self.milliamperes, self.volts = milliamperes, volts
        self.gone_after, self.calibrates = gone_after, calibrates
        self.model, self.late = model, late
        self.sampling = False
        self.sent = 0
        self.now, self.until = START_S, START_S + READY_S
        self.commands: list[tuple[int, int]] = []
        self.resets = 0

    # descriptors: one configuration, one interface, an endpoint in and one out
    def enumerate_devices(self):
        return [self]

    def get_device_descriptor(self, _):
        return SimpleNamespace(
            bLength=18,
            bDescriptorType=1,
            bcdUSB=0x200,
            bDeviceClass=0,
            bDeviceSubClass=0,
            bDeviceProtocol=0,
            bMaxPacketSize0=64,
            idVendor=0x2AB9,
            idProduct=1,
            bcdDevice=0,
            iManufacturer=0,
            iProduct=0,
            iSerialNumber=3,
            bNumConfigurations=1,
            address=5,
            bus=1,
            port_number=1,
            port_numbers=(1,),
            speed=2,
        )

    def get_configuration_descriptor(self, *_):
        return SimpleNamespace(
            bLength=9,
            bDescriptorType=2,
            wTotalLength=32,
            bNumInterfaces=1,
            bConfigurationValue=1,
            iConfiguration=0,
            bmAttributes=0x80,
            bMaxPower=50,
            extra_descriptors=[],
        )

    def get_interface_descriptor(self, _, interface, alternate, __):
        if interface or alternate:
            raise IndexError
        return SimpleNamespace(
            bLength=9,
            bDescriptorType=4,
            bInterfaceNumber=0,
            bAlternateSetting=0,
            bNumEndpoints=2,
            bInterfaceClass=255,
            bInterfaceSubClass=0,
            bInterfaceProtocol=0,
            iInterface=0,
            extra_descriptors=[],
        )

    def get_endpoint_descriptor(self, _, endpoint, *__):
        return SimpleNamespace(
            bLength=7,
            bDescriptorType=5,
            bEndpointAddress=(0x81, 0x02)[endpoint],
            bmAttributes=2,
            wMaxPacketSize=64,
            bInterval=0,
            bRefresh=0,
            bSynchAddress=0,
            extra_descriptors=[],
        )

    def open_device(self, device):
        return device

    def _nothing(self, *_):
        return None

    close_device = set_configuration = claim_interface = release_interface = detach_kernel_driver = _nothing

    def get_configuration(self, _):
        return 1

    def get_parent(self, _):
        return None

    def reset_device(self, _):
        self.resets += 1

    # what it says
    def ctrl_transfer(self, _, kind, request, value, index, data, __):
        if kind == 0x80:  # a string: the languages, or the serial number
            text = struct.pack("<H", 0x409) if value & 0xFF == 0 else "12345".encode("utf-16-le")
            return self._answer(bytes([len(text) + 2, 3]) + text, data)
        if kind == 0xC0:
            code = index & 0xFF
            values = {
                SERIAL: 12345,
                MODEL: self.model,
                FIRMWARE: 32,
                STATUS: 0x80 * self.sampling,
                0x1B: ONE_MILLIAMPERE,
                0x1A: 36500,
                0x88: 0xE000,
                0x89: 0xC800,
            }
            return self._answer(struct.pack("<I", values.get(code, 0)), data)
        if request == 0x02:
            self.sampling, self.sent, self.began = True, 0, self.now
        elif request == 0x03:
            self.sampling = False
        elif request == 0x01:
            self.commands.append((index & 0xFF, struct.unpack("<I", data.tobytes())[0]))
        return len(data)

    def _answer(self, answer, data):
        count = min(len(answer), len(data))
        data[:count] = array.array("B", answer[:count])
        return count

    def bulk_read(self, _, __, ___, buffer, ____):
        assert self.sampling
        if self.gone_after is not None and self.now - self.began > self.gone_after:
            raise usb.USBError("No such device (it may have been disconnected)", -4, 19)
        if self.now >= self.until:
            time.sleep(0.002)
            buffer[:64] = array.array("B", bytes(64))  # no observation
            return 64
        self.now = self.began + (self.sent + 1) * PER_PACKET / RATE
        packet = struct.pack("<HBB", 0, 0, PER_PACKET)
        for i in range(PER_PACKET):
            packet += self._observation(self.sent * PER_PACKET + i)
        self.sent += 1
        buffer[:64] = array.array("B", packet.ljust(64, b"\0"))
        return 64

    def _observation(self, number):
        """Eight big-endian words (coarse, fine of main, usb, aux; volts of main, usb), the kind last but one."""
        calibrating = number < 30 or number % 500 < 4  # some at first, then now and then
        if calibrating and self.calibrates:
            kind, raw = (ZERO_CAL, ZERO) if number % 2 else (REF_CAL, ZERO + ONE_MILLIAMPERE)
            words = [raw] * 8
        else:
            kind = MEASURED
            raw = round(self.milliamperes(number / RATE)) + ZERO
            words = [raw, 65000, 0, 0, 0, 0, round(self.volts / (62.5e-6 * 4)), 0]
        return struct.pack(">8H", *words) + bytes([0, kind])


@pytest.fixture
def plugged(monkeypatch, tmp_path):
    """Return a function that plugs a monitor in: sysfs lists it, and pyusb finds it."""

    def plug(milliamperes=lambda _: 1000.0, **more):
        backend = Backend(milliamperes, **more)
        device = tmp_path / "sys/bus/usb/devices/1-1"
        device.mkdir(parents=True)
        for name, text in {
            "idVendor": "2ab9",
            "idProduct": "0001",
            "busnum": "1",
            "devnum": "5",
            "serial": "12345",
        }.items():
            (device / name).write_text(text + "\n")
        node = tmp_path / "dev/bus/usb/001/005"
        node.parent.mkdir(parents=True)
        node.touch()
        monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
        clock = SimpleNamespace(
            time=lambda: 1.7e9 + backend.now + backend.late(), monotonic_ns=lambda: round(backend.now * 1e9)
        )
        monkeypatch.setattr("harness_power.monsoon.time", clock)
        monkeypatch.setattr("Monsoon.sampleEngine.time", clock)
        monkeypatch.setattr("usb.backend.libusb1.get_backend", lambda *_, **__: backend)
        return backend

    return plug


def opened(first_s=FIRST_S, **more):
    (info,) = describe(MonsoonParams(**{"vout": VOLTS} | more))
    return open_meter(MeterInfo(**json.loads(json.dumps(asdict(info)))), first_s)


def at(seconds):
    return round((START_S + seconds) * 1e9)


def test_watts_at_five_kilohertz(plugged):
    backend = plugged(lambda now: 1000 + 1000 * (now % 0.2 > 0.1))
    log = opened()
    backend.until = START_S + 1.2
    samples = log.fetch(at(0.3), at(0.9), (at(0.4), at(0.8)))
    log.close()
    ns, watts = (np.array(column) for column in zip(*samples, strict=True))
    assert ns[0] <= at(0.3) < ns[1]
    assert ns[-2] < at(0.9) <= ns[-1]
    assert len(ns) == pytest.approx(0.6 * RATE, rel=0.02)
    assert np.all(np.diff(ns) > 0)
    assert set(np.round(watts, 6)) == {5.1, 10.2}
    seconds = np.diff(ns) / 1e9
    assert np.sum(watts[1:] * seconds) == pytest.approx(0.6 * 7.65, rel=0.01)


def test_its_clock_is_ours(plugged):
    backend = plugged(lambda now: 1000 + 1000 * (now > 0.5))
    log = opened()
    backend.until = START_S + 1.2
    samples = log.fetch(at(0.4), at(0.6), (0, 1))
    log.close()
    assert next(ns for ns, watts in samples if watts > 7) == pytest.approx(at(0.5), abs=2e6)


def test_readings_that_come_late_stay_in_order(plugged):
    chance = random.Random(0)
    backend = plugged(late=lambda: chance.uniform(0, 0.03))
    log = opened()
    backend.until = START_S + 1.2
    ns = np.array([ns for ns, _ in log.fetch(at(0.3), at(0.9), (0, 1))])
    log.close()
    assert np.all(np.diff(ns) > 0)
    assert len(ns) == pytest.approx(0.6 * RATE, rel=0.05)


def test_a_running_board_stays_on_and_its_voltage_is_left_alone(plugged):
    backend = plugged()
    opened().close()
    assert backend.commands == []
    assert backend.resets == 0
    assert not backend.sampling


def test_another_voltage_than_the_suites_is_refused(plugged):
    backend = plugged(volts=3.7)
    with pytest.raises(OSError, match=r"its output is at 3\.70 V, vout says 5\.1 V"):
        opened()
    assert backend.commands == []
    assert not backend.sampling


def test_an_output_that_was_off_is_switched_on_and_said(plugged):
    backend = plugged(volts=0.0)
    with pytest.raises(OSError, match=r"it is on now at 5\.1 V: run again when the board is up"):
        opened()
    assert backend.commands == [(SET_VOLTAGE, int(5.1 * 1048576))]


def test_one_that_was_left_sampling_is_stopped_first(plugged):
    backend = plugged()
    backend.sampling = True
    log = opened()
    assert backend.sampling
    log.close()


def test_the_low_voltage_model_is_refused(plugged):
    plugged(model=1)
    with pytest.raises(OSError, match="monsoon:12345 is no HVPM"):
        opened()


def test_one_that_is_pulled_out_ends_with_the_reason(plugged):
    backend = plugged(gone_after=0.4)
    log = opened()
    backend.until = START_S + 1.2
    with pytest.raises(OSError, match="No such device"):
        log.fetch(at(0.2), at(0.8), (0, 1))


def test_one_that_never_calibrates_is_given_up(plugged):
    plugged(calibrates=False)
    with pytest.raises(OSError, match=r"no reading came for 0\.3 s"):
        opened(first_s=0.3)


def test_lost_readings_are_not_passed_over(plugged):
    plugged()
    log = opened()
    with pytest.raises(OSError, match=r"only \d+ of 2000 readings"):
        log.fetch(at(-0.3), at(0.1), (0, 1))  # it began at 0
    log.close()


def test_what_it_is_said_to_be(plugged):
    plugged()
    (info,) = describe(MonsoonParams(vout=5.1, serial=12345, calibration=0.01, watches="pi4"))
    assert (info.name, info.scope, info.watches) == ("monsoon:12345", "board", "pi4")
    assert (info.quantity, info.provenance, info.period_s) == ("power", "measured", 1 / RATE)
    assert info.calibration == 0.01
    (said,) = ENTRY.probe()
    assert isinstance(said, Unavailable)
    assert "serial: 12345" in said.fix


def test_no_access_is_said_with_the_rule(plugged, monkeypatch):
    plugged()
    monkeypatch.setattr("os.access", lambda *_: False)
    for said in (*ENTRY.probe(), *describe(MonsoonParams(vout=5.1))):
        assert isinstance(said, Unavailable)
        assert said.reason == "no access to /dev/bus/usb/001/005"
        assert 'ATTR{idVendor}=="2ab9"' in said.fix


def test_nothing_plugged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    for said in (*ENTRY.probe(), *describe(MonsoonParams(vout=5.1))):
        assert isinstance(said, Unavailable)
        assert "on USB" in said.reason


def test_at_another_host_it_is_taken_as_the_suite_says():
    (info,) = describe(MonsoonParams(vout=5.1, serial=7, host="bench"))
    assert (info.name, info.host, info.details["vout"]) == ("monsoon:7", "bench", 5.1)


@pytest.mark.parametrize("wrong", [{}, {"vout": 48}, {"vout": 5.1, "channel": "usb"}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValidationError):
        MonsoonParams(**wrong)

"""Tests of INA219, INA226 and INA228 with unmodified smbus2, over a simulated ioctl with register maps."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.errors import HarnessError
from harness.types import MeterInfo, Unavailable
from harness_power import ina2xx

smbus2 = pytest.importorskip("smbus2.smbus2")


class Chip:
    """A register map. ``amps`` through ``shunt`` ohm and ``volts`` on the bus become registers when read."""

    reset: ClassVar[dict[int, int]]

    def __init__(self, *, amps: float = 0.0, volts: float = 5.0, shunt: float = 0.1) -> None:
        self.amps, self.volts, self.shunt = amps, volts, shunt
        self.registers = dict(self.reset)

    def write(self, register: int, value: int) -> None:
        if register == 0 and value & 0x8000:
            self.registers = dict(self.reset)
        else:
            self.registers[register] = value

    def shunt_steps(self, step_v: float, least: int, most: int) -> int:
        return min(max(round(self.amps * self.shunt / step_v), least), most)

    def value(self, register: int) -> int:
        return self.registers[register]


class Ina219(Chip):
    reset: ClassVar[dict[int, int]] = {0x00: 0x399F, 0x05: 0}

    def value(self, register: int) -> int:
        full = 4000 << (self.registers[0x00] >> 11 & 3)
        steps = self.shunt_steps(10e-6, -full, full)
        if register == 0x01:
            return steps
        if register == 0x02:
            return round(self.volts / 4e-3) << 3 | 0b10 | self.registers.get(-1, 0)  # conversion ready, OVF
        return super().value(register)


class Ina226(Chip):
    reset: ClassVar[dict[int, int]] = {0x00: 0x4127, 0x05: 0, 0x06: 0, 0xFE: 0x5449, 0xFF: 0x2260}

    def value(self, register: int) -> int:
        if register == 0x01:
            return self.shunt_steps(2.5e-6, -0x8000, 0x7FFF)
        return round(self.volts / 1.25e-3) if register == 0x02 else super().value(register)


class Ina228(Chip):
    reset: ClassVar[dict[int, int]] = {
        0x00: 0,
        0x01: 0xFB68,
        0x02: 0x1000,
        0x0B: 1,
        0x3E: 0x5449,
        0x3F: 0x2281,
    }
    joules = 0.0

    @property
    def step_a(self) -> float:
        wide = 4 if self.registers[0x00] & 1 << 4 else 1
        return self.registers[0x02] / (13107.2e6 * self.shunt * wide)

    def value(self, register: int) -> int:
        if register == 0x07:
            return min(max(round(self.amps / self.step_a), -(2**19)), 2**19 - 1) << 4
        if register == 0x09:
            return math.floor(self.joules / (16 * 3.2 * self.step_a)) % 2**40
        return super().value(register)


SIZES = {0x07: 3, 0x09: 5}
Bus = dict[int, Chip]


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """Return chips by address on /dev/i2c-1, behind a simulation of the kernel's interface (i2c-dev.h)."""
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/i2c-1").touch()
    chips: Bus = {}
    address = [0]

    def ioctl(descriptor: int, request: int, argument: Any) -> int:
        os.fstat(descriptor)  # still open
        if request == smbus2.I2C_SLAVE:
            address[0] = argument
        elif request == smbus2.I2C_SMBUS:
            if address[0] not in chips:
                raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
            chip, block = chips[address[0]], argument.data.contents.block
            if argument.read_write == smbus2.I2C_SMBUS_WRITE:
                assert block[0] == 2
                chip.write(argument.command, block[1] << 8 | block[2])
            else:
                size = SIZES.get(argument.command, 2) if isinstance(chip, Ina228) else 2
                assert block[0] == size
                data = (chip.value(argument.command) % 256**size).to_bytes(size, "big")
                for place, byte in enumerate(data, 1):
                    block[place] = byte
        return 0

    monkeypatch.setattr(smbus2, "ioctl", ioctl)
    return chips


CHIPS = {"ina219": Ina219, "ina226": Ina226, "ina228": Ina228}


def params(chip: str = "ina226", **changes: Any) -> ina2xx.Ina2xxParams:
    return ina2xx.Ina2xxParams(**{"chip": chip, "shunt_ohm": 0.002, "max_current_a": 10, **changes})


def described(**changes: Any) -> Any:
    (found,) = ina2xx.describe(params(**changes))
    return found


def opened(info: MeterInfo) -> Any:
    return ina2xx.open_meter(replace(info, details=json.loads(json.dumps(info.details))))


# The worked examples in the datasheets' application sections


@pytest.mark.parametrize(("chip", "shunt", "bus_"), [("ina219", 0x07D0, 0x5D98), ("ina226", 0x1F40, 0x2570)])
def test_the_datasheets_examples_are_read_as_they_say(bus: Bus, chip: str, shunt: int, bus_: int) -> None:
    bus[0x40] = board = CHIPS[chip]()
    meter = opened(described(chip=chip))
    board.value = {0x01: shunt, 0x02: bus_, 0x06: 0}.__getitem__  # type: ignore[method-assign]
    assert meter.read()[1] == pytest.approx(10 * 11.98)


def test_the_ina228s_example_is_read_as_it_says(bus: Bus) -> None:
    bus[0x40] = board = Ina228(amps=6, volts=48, shunt=0.0162)
    meter = opened(described(chip="ina228", shunt_ohm=0.0162))
    assert board.registers[0x02] == 4050
    registers = {0x09: 1061683200, 0x07: 314572 << 4, 0x0B: 0}
    board.value = registers.__getitem__  # type: ignore[method-assign]
    assert meter.read()[1] == pytest.approx(1036800)


# Known currents


@pytest.mark.parametrize("amps", [0.0, 0.013, 1.5, 9.9, -2.0])
@pytest.mark.parametrize("chip", ["ina219", "ina226"])
def test_power_is_signed_as_the_current(bus: Bus, chip: str, amps: float) -> None:
    bus[0x40] = CHIPS[chip](amps=amps, volts=5.1, shunt=0.002)
    meter = opened(described(chip=chip))
    before = time.monotonic_ns()
    when, watts = meter.read()
    assert before <= when <= time.monotonic_ns()
    step_a = {"ina219": 10e-6, "ina226": 2.5e-6}[chip] / 0.002
    assert watts == pytest.approx(amps * 5.1, abs=step_a / 2 * 5.1 + abs(amps) * 2e-3)


@pytest.mark.parametrize(("shunt", "most"), [(0.002, 10.0), (0.1, 0.4), (0.015, 10.0), (0.0005, 3.217)])
def test_energy_grows_as_the_chip_counts(bus: Bus, shunt: float, most: float) -> None:
    bus[0x40] = board = Ina228(amps=most / 2, shunt=shunt)
    info = described(chip="ina228", shunt_ohm=shunt, max_current_a=most)
    assert (info.quantity, info.averaging_s) == ("energy", 0)
    meter = opened(info)
    board.joules = 100.0
    first = meter.read()[1]
    board.joules = 350.0
    assert meter.read()[1] - first == pytest.approx(250, rel=1e-5)
    assert board.step_a * 2**19 >= most * (1 - 1e-9)  # the greatest current fits


def test_a_wrapping_energy_register_is_unwrapped(bus: Bus) -> None:
    bus[0x40] = board = Ina228(amps=1, shunt=0.002)
    meter = opened(described(chip="ina228"))
    whole = 2**40 * 16 * 3.2 * board.step_a
    board.joules = whole - 1000
    before = meter.read()[1]
    board.joules = whole + 500
    assert meter.read()[1] - before == pytest.approx(1500)


# What goes wrong while reading


def saturate(chip: Chip) -> None:
    chip.amps = 1000


def flag(chip: Chip) -> None:
    chip.registers[{Ina219: -1, Ina226: 0x06, Ina228: 0x0B}[type(chip)]] = {
        Ina219: 1,
        Ina226: 4,
        Ina228: 1 << 9,
    }[type(chip)]


@pytest.mark.parametrize("spoil", [saturate, flag])
@pytest.mark.parametrize("chip", CHIPS)
def test_an_overflow_is_no_reading(bus: Bus, chip: str, spoil: Callable[[Chip], None]) -> None:
    bus[0x40] = board = CHIPS[chip](amps=1, shunt=0.002)
    meter = opened(described(chip=chip))
    meter.read()
    spoil(board)
    with pytest.raises(HarnessError, match="over the range"):
        meter.read()


def test_negative_saturation_is_an_overflow_too(bus: Bus) -> None:
    bus[0x40] = board = Ina226(amps=1, shunt=0.002)
    meter = opened(described())
    board.amps = -1000
    with pytest.raises(HarnessError, match="over the range"):
        meter.read()


def test_energy_of_a_backward_current_is_refused(bus: Bus) -> None:
    bus[0x40] = board = Ina228(amps=0.0, shunt=0.002)
    meter = opened(described(chip="ina228"))
    board.amps = -0.01  # noise around nothing
    meter.read()
    board.amps = -2
    with pytest.raises(HarnessError, match="IN\\+ and IN-"):
        meter.read()


def test_a_chip_that_goes_away_is_an_error(bus: Bus) -> None:
    bus[0x40] = Ina226()
    meter = opened(described())
    bus.clear()
    with pytest.raises(OSError, match="Remote I/O"):
        meter.read()


def test_closing_closes_the_bus(bus: Bus) -> None:
    bus[0x40] = Ina226()
    meter = opened(described())
    meter.close()
    with pytest.raises((OSError, TypeError)):
        meter.read()


# Settings


@pytest.mark.parametrize(
    ("chip", "rate", "config", "period"),
    [
        ("ina219", 350, 0x3CCF, 2120e-6),  # 2 averages of 12 bits
        ("ina219", 1000, 0x3917, 552e-6),  # 11 bits
        ("ina226", 350, 0x4127, 2200e-6),
        ("ina226", 100, 0x4327, 8800e-6),  # 4 averages of 1.1 ms
        ("ina228", 350, 0xBB40, 2104e-6),
    ],
)
def test_conversions_are_as_long_as_the_rate_allows(
    bus: Bus, chip: str, rate: float, config: int, period: float
) -> None:
    bus[0x40] = board = CHIPS[chip](shunt=0.01)
    info = described(chip=chip, shunt_ohm=0.01, max_current_a=16 if chip != "ina226" else 8, rate_hz=rate)
    opened(info)
    written = board.registers[0x01 if chip == "ina228" else 0x00]
    if chip == "ina219":
        written = written & ~(3 << 11) | 3 << 11
    assert f"{written:#06x}" == f"{config:#06x}"
    assert info.period_s == pytest.approx(period)
    assert info.averaging_s == (0 if chip == "ina228" else info.period_s)


@pytest.mark.parametrize("chip", CHIPS)
def test_350_conversions_a_second_are_kept_by_the_slowest_chip(chip: str) -> None:
    info = described(chip=chip, host="pi")
    assert info.period_s * {"ina219": 586 / 532, "ina226": 1.1, "ina228": 1.005}[chip] <= 1 / 350


@pytest.mark.parametrize(("amps", "gain"), [(0.4, 0), (0.5, 1), (1.6, 2), (3.2, 3)])
def test_the_ina219_takes_the_smallest_range_that_fits(bus: Bus, amps: float, gain: int) -> None:
    bus[0x40] = board = Ina219()
    info = described(chip="ina219", shunt_ohm=0.1, max_current_a=amps)
    opened(info)
    assert board.registers[0x00] >> 11 & 3 == gain
    assert info.details["range_v"] == pytest.approx(0.04 * 2**gain)


def test_a_current_beyond_the_range_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^ina219: 5 A over 0.1 ohm is 0.5 V.*at most 3.2 A") as error:
        described(chip="ina219", shunt_ohm=0.1, max_current_a=5)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"0\.08192 V"):
        described(chip="ina226", shunt_ohm=0.1, max_current_a=1)
    with pytest.raises(ValueError, match=r"0\.16384 V"):
        described(chip="ina228", shunt_ohm=0.1, max_current_a=2)


@pytest.mark.parametrize(
    "wrong", [{"address": 0x30}, {"shunt_ohm": 0}, {"chip": "ina3221"}, {"scope": "gpu"}]
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        params(**wrong)


def test_the_error_is_the_datasheets_and_the_shunts(bus: Bus) -> None:
    bus[0x40] = Ina226()
    bare, known = described(), described(shunt_tolerance=0.01)
    assert bare.calibration == pytest.approx(0.002)
    assert "unknown" in bare.details["calibration_from"]
    assert known.calibration == pytest.approx(0.012)
    assert known.details["offset_a"] == pytest.approx(0.005)  # 10 uV over 2 milliohm


@pytest.mark.parametrize(
    ("scope", "watches"), [("wall", "board"), ("board", "board"), ("rails", "rail at ina226:1-41")]
)
def test_the_user_says_what_the_shunt_carries(bus: Bus, scope: str, watches: str) -> None:
    bus[0x41] = Ina226()
    info = described(scope=scope, address=0x41)
    assert (info.name, info.scope, info.watches) == ("ina226:1-41", scope, watches)
    assert info.provenance == "measured"


def test_a_chip_on_another_host_is_looked_at_there(bus: Bus) -> None:
    info = described(host="pi@meter")
    assert isinstance(info, MeterInfo)
    assert info.host == "pi@meter"
    bus[0x40] = Ina226(amps=1, shunt=0.002)
    assert opened(info).read()[1] == pytest.approx(5, rel=1e-3)


# What is not there


def unavailable(reason: str, fix: str, **changes: Any) -> None:
    found = described(**changes)
    assert isinstance(found, Unavailable)
    assert reason in found.reason
    assert fix in found.fix
    with pytest.raises(HarnessError, match=reason[-12:]):  # and so it is on another host
        opened(described(**changes, host="there"))


def test_nobody_at_the_address(bus: Bus) -> None:
    unavailable("i2c-1 address 0x40: nothing answers", "i2cdetect -y 1")


def test_another_maker(bus: Bus) -> None:
    bus[0x40] = board = Ina226()
    board.registers[0xFE] = 0x1234
    unavailable("is no ina226: manufacturer 0x1234, device 0x2260", "`chip`")


@pytest.mark.parametrize(
    ("asked", "there"), [("ina228", "ina226"), ("ina219", "ina226"), ("ina226", "ina228")]
)
def test_another_chip(bus: Bus, asked: str, there: str) -> None:
    board = CHIPS[there]()
    board.registers = dict.fromkeys(range(256), 0) | board.registers
    bus[0x40] = board
    unavailable(f"is no {asked}", "`chip`", chip=asked)


def test_what_does_not_reset_as_an_ina219_is_none(bus: Bus) -> None:
    bus[0x40] = board = Ina219()
    board.reset = {0x00: 0x0000, 0x05: 0}  # type: ignore[misc]
    with pytest.raises(HarnessError, match="after a reset Configuration reads 0x0000"):
        opened(described(chip="ina219"))


def test_no_bus(bus: Bus, tmp_path: Path) -> None:
    unavailable("no /dev/i2c-3", "dtparam=i2c_arm=on", bus=3)


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.EACCES, "usermod -aG i2c"), (errno.EBUSY, "kernel driver has it")]
)
def test_a_bus_that_refuses(bus: Bus, monkeypatch: pytest.MonkeyPatch, number: int, fix: str) -> None:
    def refuse(*words: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(smbus2, "ioctl", refuse)
    unavailable(os.strerror(number), fix)


def test_without_smbus2(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbus2", None)
    unavailable("smbus2", "[i2c]")


def test_the_probe_touches_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    (nothing,) = ina2xx.probe()
    assert "no I2C bus" in nothing.reason
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/i2c-1").touch()
    monkeypatch.setattr(smbus2, "ioctl", None)
    (found,) = ina2xx.probe()
    assert "ina2xx: {chip" in found.fix

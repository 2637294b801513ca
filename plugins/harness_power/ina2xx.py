"""INA219, INA226 and INA228 on an I2C bus: a shunt in a board's supply line, as on many small breakout boards.

Registers are from the datasheets SBOS448G (INA219), SBOS547B (INA226) and SLYS021A (INA228); all are big-endian.
Power is shunt voltage / shunt x bus voltage. The INA228 adds energy up itself, so no energy is lost between two
readings. Not tried on the hardware: tested with unmodified smbus2 on register maps and the datasheets' examples.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from harness.devices import install_command, sysfs
from harness.errors import HarnessError
from harness.types import MeterEntry, MeterInfo, Params, Unavailable

__all__ = ["ENTRY", "Ina2xxParams", "describe", "open_meter", "probe"]

_TI = 0x5449  # "TI", the Manufacturer ID register of INA226 and INA228
_RESET = 0x8000
_CONVERSIONS_US = {
    "ina226": (140, 204, 332, 588, 1100, 2116, 4156, 8244),  # Table 7-4
    "ina228": (50, 84, 150, 280, 540, 1052, 2074, 4120),  # 7.6.1.2
}
_AVERAGES = (1, 4, 16, 64, 128, 256, 512, 1024)  # INA226 Table 7-3
_INA219_ADC_US = {  # 8.6.2.1, BADC and SADC: code of 9 to 12 bits, then of 2 to 128 averages
    0: 84,
    1: 148,
    2: 276,
    3: 532,
    9: 1060,
    10: 2130,
    11: 4260,
    12: 8510,
    13: 17020,
    14: 34050,
    15: 68100,
}


@dataclass(frozen=True, kw_only=True)
class _Chip:
    """The limits and errors of a chip, from its datasheet.

    ``ranges_v``: full scale of the shunt input -> greatest offset, both in volts. ``slow``: a conversion takes up to
    this factor longer than nominal. ``error``: greatest relative error.
    """

    ranges_v: dict[float, float]
    slow: float
    error: float
    error_from: str


_CHIPS = {
    "ina219": _Chip(
        ranges_v={0.04: 100e-6, 0.08: 125e-6, 0.16: 150e-6, 0.32: 200e-6},
        slow=1.11,
        error=0.02,
        error_from="SBOS448G 7.5: 1% current and 1% bus voltage, over temperature",
    ),
    "ina226": _Chip(
        ranges_v={0.08192: 10e-6},
        slow=1.1,
        error=0.002,
        error_from="SBOS547B 5.5: 0.1% shunt and 0.1% bus voltage gain error, at 25 C",
    ),
    "ina228": _Chip(
        ranges_v={0.04096: 1e-6, 0.16384: 1e-6},
        slow=1.005,
        error=0.01,
        error_from="SLYS021A 6.5: 1% total error of energy, at full scale",
    ),
}


class Ina2xxParams(Params):
    """The address of the chip on its bus, and its wiring."""

    chip: Literal["ina219", "ina226", "ina228"] = Field(description="the chip, as printed on it")
    shunt_ohm: float = Field(gt=0, le=10, description="ohms of the shunt: R100 is 0.1, R002 is 0.002")
    max_current_a: float = Field(gt=0, le=1000, description="greatest current of the board in amperes")
    bus: int = Field(default=1, ge=0, description="number of the bus: N of /dev/i2c-N")
    address: int = Field(0x40, ge=0x40, le=0x4F, description="address on the bus, as i2cdetect shows it")
    scope: Literal["wall", "board", "rails"] = Field(
        default="board",
        description="whose current the shunt carries: wall: all that the plug gives; board: the board's input; rails: less",
    )
    rate_hz: float = Field(
        350,
        ge=10,
        le=1000,
        description="least conversions per second; the chip averages as far as they allow",
    )
    shunt_tolerance: float | None = Field(
        default=None,
        ge=0,
        le=0.2,
        description="relative tolerance of the shunt, 0.01 for 1%; without it, the stated error is that of the chip alone",
    )
    host: str = Field(default="", description="machine with the bus, as ssh names it; empty: this machine")


def probe() -> Iterable[MeterInfo | Unavailable]:
    """Yield only a reason: a suite must name the chip, because reading unknown I2C devices can upset them."""
    if any((sysfs.root() / "dev").glob("i2c-*")):
        yield Unavailable(
            name="ina2xx",
            reason="is not looked for: reading unknown I2C devices can upset them",
            fix="name it in the suite: meters: [{ina2xx: {chip: ina226, shunt_ohm: 0.002, max_current_a: 5}}]",
        )
    else:
        yield Unavailable(name="ina2xx", reason="no I2C bus here (/dev/i2c-*)")


def describe(params: Ina2xxParams) -> Iterable[MeterInfo | Unavailable]:
    """Yield the chip as a meter, or the reason why it does not answer. A chip at another host is not read here.

    Raises ``ValueError`` if the chip cannot measure what the parameters ask for.
    """
    info = _plan(params)
    if params.host:  # the chip is first read when it is opened there
        yield info
        return
    try:
        with _Port(info.details) as port:
            port.identify()
    except (OSError, ImportError, HarnessError) as error:
        yield Unavailable(name=info.name, reason=_reason(error, info), fix=_fix(error, params.bus))
    else:
        yield info


def _plan(params: Ina2xxParams) -> MeterInfo:
    """Return the meter, with the register values that set the chip up.

    Raises:
        ValueError: the chip cannot measure what the parameters ask for.
    """
    chip, volts = _CHIPS[params.chip], params.max_current_a * params.shunt_ohm
    top = max(chip.ranges_v)
    if volts > top * (1 + 1e-9):
        raise ValueError(
            f"{params.chip}: {params.max_current_a:g} A over {params.shunt_ohm:g} ohm is {volts:g} V, above its range "
            f"of {top:g} V: at most {top / params.shunt_ohm:.3g} A with this shunt, or a smaller one"
        )
    full_v = min(scale for scale in chip.ranges_v if volts <= scale * (1 + 1e-9))
    setup, period_s = _SETUPS[params.chip](params, full_v)
    energy = params.chip == "ina228"
    return MeterInfo(
        name=f"{params.chip}:{params.bus}-{params.address:02x}",
        scope=params.scope,
        watches=f"rail at {params.chip}:{params.bus}-{params.address:02x}"
        if params.scope == "rails"
        else "board",
        provenance="measured",
        quantity="energy" if energy else "power",
        period_s=period_s,
        averaging_s=0.0 if energy else period_s,
        calibration=chip.error + (params.shunt_tolerance or 0.0),
        host=params.host,
        details={
            **params.model_dump(include={"chip", "bus", "address", "shunt_ohm", "max_current_a"}),
            "setup": setup,
            "range_v": full_v,
            "offset_a": chip.ranges_v[full_v] / params.shunt_ohm,
            "calibration_from": chip.error_from
            + (
                "; and the shunt's tolerance"
                if params.shunt_tolerance is not None
                else "; the shunt's is unknown"
            ),
        },
    )


_Setup = tuple[list[list[int]], float]  # [register, value] pairs, and the seconds between two results


def _ina219(params: Ina2xxParams, full_v: float) -> _Setup:
    """Return the setup of an INA219.

    Configuration (8.6.2.1): BRNG 32 V, PGA, BADC = SADC, shunt and bus continuously. Calibration (8.5.1): 4096, with
    which the Current register equals the Shunt Voltage register.
    """
    limit_us = 1e6 / params.rate_hz / _CHIPS["ina219"].slow / 2
    code = max(
        (code for code, us in _INA219_ADC_US.items() if us <= limit_us), key=_INA219_ADC_US.__getitem__
    )
    gain = sorted(_CHIPS["ina219"].ranges_v).index(full_v)
    config = 1 << 13 | gain << 11 | code << 7 | code << 3 | 0b111
    return [[0x00, config], [0x05, 4096]], 2 * _INA219_ADC_US[code] * 1e-6


def _ina226(params: Ina2xxParams, full_v: float) -> _Setup:
    """Return the setup of an INA226.

    Configuration (7.1.1): AVG, VBUSCT = VSHCT, shunt and bus continuously. Calibration (6.5.1): 2048, with which the
    Current register equals the Shunt Voltage register.
    """
    times, limit_us = _CONVERSIONS_US["ina226"], 1e6 / params.rate_hz / _CHIPS["ina226"].slow / 2
    averages, _, mean, time_ = max(
        (samples * us, us, mean, time_)
        for mean, samples in enumerate(_AVERAGES)
        for time_, us in enumerate(times)
        if samples * us <= limit_us
    )
    return [[0x00, 0x4000 | mean << 9 | time_ << 6 | time_ << 3 | 0b111], [0x05, 2048]], 2 * averages * 1e-6


def _ina228(params: Ina2xxParams, full_v: float) -> _Setup:
    """Return the setup of an INA228.

    CONFIG (7.6.1.1): RSTACC, ADCRANGE. ADC_CONFIG (7.6.1.2): shunt and bus continuously, VBUSCT = VSHCT, no
    averaging, because it does not affect energy (7.3.2). SHUNT_CAL (8.1.2, equation 2), rounded up to hold the
    current.
    """
    limit_us = 1e6 / params.rate_hz / _CHIPS["ina228"].slow / 2
    time_, us = max(pair for pair in enumerate(_CONVERSIONS_US["ina228"]) if pair[1] <= limit_us)
    narrow = full_v < max(_CHIPS["ina228"].ranges_v)
    lsb_a = params.max_current_a / 2**19
    shunt_cal = math.ceil(round(13107.2e6 * lsb_a * params.shunt_ohm * (4 if narrow else 1), 6))
    return [
        [0x00, 1 << 14 | narrow << 4],
        [0x01, 0xB << 12 | time_ << 9 | time_ << 6],
        [0x02, shunt_cal],
    ], 2 * us * 1e-6


_SETUPS = {"ina219": _ina219, "ina226": _ina226, "ina228": _ina228}


class _Port:
    """A chip on its bus."""

    def __init__(self, details: Any) -> None:
        from smbus2 import SMBus

        self.details = details
        self.chip, self._address = details["chip"], details["address"]
        self._bus = SMBus(str(sysfs.root() / f"dev/i2c-{details['bus']}"))

    def read(self, register: int, size: int = 2, *, signed: bool = False) -> int:
        data = self._bus.read_i2c_block_data(self._address, register, size)
        return int.from_bytes(bytes(data), "big", signed=signed)

    def write(self, register: int, value: int) -> None:
        self._bus.write_i2c_block_data(self._address, register, list(value.to_bytes(2, "big")))

    def identify(self) -> None:
        """Check that the chip is the expected one, without changing it. Raises ``HarnessError`` for another chip."""
        if self.chip == "ina219":  # no identity register; bit 14 of Configuration is 0, the INA226's is 1
            config = self.read(0x00)
            if config & 1 << 14:
                raise HarnessError(f"is no ina219: Configuration reads {config:#06x}")
            return
        maker, device = (0xFE, 0xFF) if self.chip == "ina226" else (0x3E, 0x3F)
        found = self.read(maker), self.read(device)
        if found[0] != _TI or f"{found[1] >> 4:x}" != self.chip[3:]:
            raise HarnessError(f"is no {self.chip}: manufacturer {found[0]:#06x}, device {found[1]:#06x}")

    def set_up(self) -> None:
        """Reset the chip and write its setup. Raises ``HarnessError`` for another chip."""
        self.identify()
        self.write(0x00, _RESET)
        if self.chip == "ina219" and self.read(0x00) != 0x399F:
            raise HarnessError(f"is no ina219: after a reset Configuration reads {self.read(0x00):#06x}")
        for register, value in self.details["setup"]:
            self.write(register, value)

    def overflow(self) -> HarnessError:
        """Return the error for a current above the range."""
        limit = self.details["range_v"] / self.details["shunt_ohm"]
        return HarnessError(
            f"{self.chip}: the current went over the range of {limit:.3g} A (max_current_a is "
            f"{self.details['max_current_a']:g}): give the true maximum, or take a smaller shunt"
        )

    def close(self) -> None:
        self._bus.close()

    def __enter__(self) -> _Port:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Power:
    """A :class:`~harness.types.Meter` of an INA219 or INA226: watts, negative if the current flows backwards."""

    def __init__(self, port: _Port) -> None:
        self._port = port
        self._shunt_ohm, full_v = port.details["shunt_ohm"], port.details["range_v"]
        self._step_v = 10e-6 if port.chip == "ina219" else 2.5e-6
        self._full = min(round(full_v / self._step_v), 0x7FFF)

    def read(self) -> tuple[int, float]:
        begin = time.monotonic_ns()
        shunt = self._port.read(0x01, signed=True)
        bus = self._port.read(0x02)
        if self._port.chip == "ina219":  # 8.6.3.2: 4 mV steps from bit 3 on, bit 0 is OVF
            volts, over = (bus >> 3) * 4e-3, bus & 1
        else:  # 7.1.3: 1.25 mV steps; Mask/Enable (7.1.7) bit 2 is OVF
            volts, over = bus * 1.25e-3, self._port.read(0x06) & 1 << 2
        when = (begin + time.monotonic_ns()) // 2
        if over or abs(shunt) >= self._full:
            raise self._port.overflow()
        return when, shunt * self._step_v / self._shunt_ohm * volts

    def close(self) -> None:
        self._port.close()


class _Energy:
    """A :class:`~harness.types.Meter` of an INA228: joules since its setup (8.1.2, equations 2 to 6)."""

    def __init__(self, port: _Port) -> None:
        self._port = port
        narrow, shunt_cal = port.details["setup"][0][1] & 1 << 4, port.details["setup"][2][1]
        lsb_a = shunt_cal / (13107.2e6 * port.details["shunt_ohm"] * (4 if narrow else 1))
        self._step_j = 16 * 3.2 * lsb_a
        self._last = self._total = 0

    def read(self) -> tuple[int, float]:
        begin = time.monotonic_ns()
        raw = self._port.read(0x09, 5)
        when = (begin + time.monotonic_ns()) // 2
        current = self._port.read(0x07, 3, signed=True) >> 4
        if self._port.read(0x0B) & 1 << 9 or abs(current) >= 0x7FFFF:  # DIAG_ALRT: MATHOF
            raise self._port.overflow()
        if current < -(2**19) / 100:
            raise HarnessError(
                "ina228: the current flows backwards, and its energy has no sign: swap the wires at IN+ and IN-"
            )
        self._total += (raw - self._last) % 2**40
        self._last = raw
        return when, self._total * self._step_j

    def close(self) -> None:
        self._port.close()


def open_meter(info: MeterInfo) -> _Power | _Energy:
    """Set the chip up and wait for its first result. Raises ``HarnessError`` with a fix if it does not answer."""
    try:
        port = _Port(info.details)
        try:
            port.set_up()
        except BaseException:
            port.close()
            raise
    except (OSError, ImportError, HarnessError) as error:
        raise HarnessError(f"{_reason(error, info)}; {_fix(error, info.details['bus'])}") from None
    time.sleep(2 * info.period_s)  # until there is a first result
    return _Energy(port) if port.chip == "ina228" else _Power(port)


def _reason(error: Exception, info: MeterInfo) -> str:
    where = f"i2c-{info.details['bus']} address {info.details['address']:#04x}"
    if isinstance(error, FileNotFoundError):
        return f"no /dev/i2c-{info.details['bus']}"
    if isinstance(error, OSError) and error.errno in {errno.EREMOTEIO, errno.ENXIO}:
        return f"{where}: nothing answers"
    return f"{where}: {error}"


def _fix(error: Exception, bus: int) -> str:
    if isinstance(error, ImportError):
        return install_command("i2c")
    if isinstance(error, FileNotFoundError):
        return (
            "on a Raspberry Pi: dtparam=i2c_arm=on in /boot/firmware/config.txt (or sudo raspi-config nonint "
            "do_i2c 0), reboot; elsewhere sudo modprobe i2c-dev"
        )
    if isinstance(error, PermissionError):
        return "sudo usermod -aG i2c $USER, then log in again"
    if isinstance(error, OSError) and error.errno == errno.EBUSY:
        return "a kernel driver has it: sudo rmmod ina2xx, or leave it out of the device tree"
    return f"check the wires, `chip` and `address` (i2cdetect -y {bus} shows who is there)"


ENTRY = MeterEntry(
    name="ina2xx",
    summary="INA219, INA226 or INA228 at a shunt, over I2C",
    params=Ina2xxParams,
    probe=probe,
    describe=describe,
    open=open_meter,
    requires=("smbus2",),
    extra="i2c",
)

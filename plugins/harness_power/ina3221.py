"""The INA3221 and INA238 power monitors on NVIDIA Jetson boards, read through sysfs.

There are two layouts: hwmon (JetPack 5 and newer; the kernel's Documentation/hwmon/ina3221.rst) and iio (JetPack 4;
NVIDIA's driver ina3221x). AGX Thor also has an INA238 at its input (the kernel's drivers/hwmon/ina238.c). Not tried on
the hardware: paths, units and rails are from the drivers' sources and NVIDIA's guides, and are tested on trees of files that jetson-stats reads with the same result.

Some rails feed others. Rails are added only if their relation is known; otherwise no sum is given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devices import sysfs
from harness.types import MeterEntry, MeterInfo, Unavailable
from harness_power.jetson import compose, is_jetson, number, watch

__all__ = ["ENTRY", "open_meter", "probe"]

# INA3221 datasheet (SBOS576), Configuration register: averages, and conversion times in microseconds
_SAMPLES = (1, 4, 16, 64, 128, 256, 512, 1024)
_CONVERSION_US = (140, 204, 332, 588, 1100, 2116, 4156, 8244)
_HWMON_CONFIG = 0x7127  # the hwmon driver's: 3 channels, no averaging, 1.1 ms a conversion
_INA238_S = 3 * 16 * 1052e-6  # drivers/hwmon/ina238.c: 16 averages, 1052 us for each of 3 channels
_IIO_CONFIG = {"ti,continuous-config": 0x7727, "ti,trigger-config": 0x7003}  # the iio driver's own defaults


@dataclass(frozen=True, kw_only=True)
class _Rail:
    """A rail and its files: a pair of millivolts and milliamperes, or one of milliwatts."""

    name: str
    files: tuple[Path, ...]
    period_s: float
    averaging_s: float
    timing: str
    step_ma: float | None = None


class _File:
    """A sysfs attribute that is kept open. Each read queries the driver."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def value(self) -> float:
        text = os.pread(self._descriptor, 64, 0).decode()
        try:
            return float(text.split()[0])  # JetPack 4 appends a unit to some values
        except (IndexError, ValueError):
            raise OSError(f"{self.path} holds {text.strip()!r}, not a number") from None

    def close(self) -> None:
        os.close(self._descriptor)


class _Rails:
    """A :class:`~harness.types.Meter` of watts: the sum of rails."""

    def __init__(self, rails: Iterable[Iterable[str | Path]]) -> None:
        self._rails: list[list[_File]] = []
        try:
            for paths in rails:
                self._rails.append([])
                for path in paths:
                    self._rails[-1].append(_File(path))
        except OSError:
            self.close()
            raise

    def read(self) -> tuple[int, float]:
        begin = time.monotonic_ns()
        watts = 0.0
        for files in self._rails:
            values = [file.value() for file in files]
            watts += values[0] * values[1] * 1e-6 if len(values) == 2 else values[0] * 1e-3
        return (begin + time.monotonic_ns()) // 2, watts

    def close(self) -> None:
        for file in (file for files in self._rails for file in files):
            file.close()
        self._rails = []


def open_meter(info: MeterInfo) -> _Rails:
    """Open the files of the meter's rails. Raises ``OSError`` if one cannot be opened."""
    return _Rails(info.details["files"].values())


def probe() -> Iterable[MeterInfo | Unavailable]:
    """Yield the board's power as a meter after reading it once, or the reason why there is none."""
    chips = _chips()
    if not chips:
        yield _no_chip()
        return
    try:
        rails = {rail.name: rail for chip in chips for rail in _rails(chip)}
    except OSError as error:
        yield _refused(error)
        return
    made = compose(rails)
    if made is None:
        yield _unavailable(
            f"how the rails {', '.join(sorted(rails)) or '(none)'} feed each other is not known: no sum is made up",
            "measure this board with an external meter (ina2xx, monsoon, joulescope, csv)",
        )
        return
    used = [rails[name] for name in made.add]
    try:
        meter = _Rails(rail.files for rail in used)
        try:
            meter.read()
        finally:
            meter.close()
    except OSError as error:
        yield _refused(error)
        return
    slowest = max(used, key=lambda rail: rail.period_s)
    details: dict[str, Any] = {
        "files": {rail.name: [str(file) for file in rail.files] for rail in used},
        "holds": made.note,
        "inside": list(made.inside),
        "beside": list(made.beside),
        "other_files": {
            name: [str(file) for file in rails[name].files] for name in (*made.inside, *made.beside)
        },
        "period_from": slowest.timing,
        "step_ma": {rail.name: rail.step_ma for rail in used if rail.step_ma is not None},
    }
    yield MeterInfo(
        name=f"ina3221:{made.name}",
        scope=made.scope,
        watches=made.watches,
        provenance="measured",
        quantity="power",
        period_s=slowest.period_s,
        averaging_s=max(rail.averaging_s for rail in used),
        details=details,
    )


def _no_chip() -> Unavailable:
    if not is_jetson():
        return _unavailable("not a Jetson: no INA3221 in /sys/bus/i2c/devices")
    return _unavailable(
        "no INA3221 in /sys/bus/i2c/devices (the Jetson Nano 2GB and some carrier boards have none)",
        "load its driver (sudo modprobe ina3221), show the container /sys, or measure with an external meter",
    )


def _refused(error: OSError) -> Unavailable:
    where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, PermissionError):
        folder = os.path.dirname(str(error.filename))
        fix = f"sudo chmod a+r {folder}/* (a udev rule with RUN+= keeps it over a reboot), or run as root"
    else:
        fix = (
            "see `dmesg | grep ina3221`; a rail switched off answers again after `echo 1` into its in*_enable"
        )
    return _unavailable(where, fix)


def _unavailable(reason: str, fix: str = "") -> Unavailable:
    return Unavailable(name="ina3221", reason=reason, fix=fix)


def _chips() -> list[Path]:
    """Return the folders of the I2C devices that are INA3221 or INA238 chips."""
    chips = []
    for name in sorted((sysfs.root() / "sys/bus/i2c/devices").glob("*/name")):
        with suppress(OSError):
            if name.read_text().strip().lower().startswith(("ina3221", "ina238")):
                chips.append(name.parent)
    return chips


def _rails(chip: Path) -> Iterator[_Rail]:
    for folder in sorted(chip.glob("hwmon/hwmon*")):
        yield from _ina238_rail(folder) if _is_ina238(chip) else _hwmon_rails(folder)
    for folder in sorted(chip.glob("iio:device*")):
        yield from _iio_rails(folder, chip / "of_node")


def _hwmon_rails(folder: Path) -> Iterator[_Rail]:
    """Yield the rails of the hwmon driver: in1 to in3 are the channels, in4 to in6 shunt voltages, in7 their sum."""
    interval, samples = number(folder / "update_interval"), number(folder / "samples") or 1
    period_s = interval * 1e-3 if interval else _duration_s(_HWMON_CONFIG)
    timing = "update_interval" if interval else "3 channels x 2 x 1.1 ms, as the driver configures the chip"
    for channel in (1, 2, 3):
        label = folder / f"in{channel}_label"
        if not label.exists() or number(folder / f"in{channel}_enable") == 0:
            continue
        name = label.read_text().strip()
        if name == "NC":  # not connected
            continue
        shunt_uohm = number(folder / f"shunt{channel}_resistor")
        yield _Rail(
            name=name,
            files=(folder / f"in{channel}_input", folder / f"curr{channel}_input"),
            period_s=period_s,
            averaging_s=period_s if samples > 1 else 0.0,
            timing=timing,
            step_ma=40_000 / shunt_uohm if shunt_uohm else None,  # 40 uV, the shunt ADC's step
        )


def _is_ina238(chip: Path) -> bool:
    return (chip / "name").read_text().strip().lower().startswith("ina238")


def _ina238_rail(folder: Path) -> Iterator[_Rail]:
    """Yield the rail of an INA238: in1 is its bus voltage, in0 its shunt voltage. Thor's driver gives it no name."""
    interval = number(folder / "update_interval")
    period_s = interval * 1e-3 if interval else _INA238_S
    label = folder / "label"
    yield _Rail(
        name=label.read_text().strip() if label.exists() else "VIN",
        files=(folder / "in1_input", folder / "curr1_input"),
        period_s=period_s,
        averaging_s=period_s,
        timing="update_interval"
        if interval
        else "16 averages x 3 x 1052 us, as the driver configures the chip",
    )


def _iio_rails(folder: Path, node: Path) -> Iterator[_Rail]:
    """Yield the rails of the industrial I/O driver.

    In triggered mode each read makes a conversion. In continuous mode the chip averages as the device tree says.
    """
    triggered = number(folder / "running_mode") == 0
    key = "ti,trigger-config" if triggered else "ti,continuous-config"
    config, source = _IIO_CONFIG[key], f"the driver's default for {key}"
    with suppress(OSError):
        config, source = int.from_bytes((node / key).read_bytes()[:4], "big"), key
    period_s = _duration_s(config)
    for label in sorted(folder.glob("rail_name_*")):
        name, channel = label.read_text().strip(), label.name.rpartition("_")[2]
        power = folder / f"in_power{channel}_input"
        pair = (folder / f"in_voltage{channel}_input", folder / f"in_current{channel}_input")
        yield _Rail(
            name=name,
            files=(power,) if power.exists() else pair,
            period_s=period_s,
            averaging_s=0.0 if triggered else period_s,
            timing=f"{source} = {config:#06x}",
        )


def _duration_s(config: int) -> float:
    """Return the seconds that one round of conversions takes: averages x channels x (bus + shunt)."""
    channels = bin(config >> 12 & 7).count("1")
    once = _CONVERSION_US[config >> 6 & 7] + _CONVERSION_US[config >> 3 & 7]
    return _SAMPLES[config >> 9 & 7] * channels * once * 1e-6


ENTRY = MeterEntry(
    name="ina3221",
    summary="NVIDIA Jetson's own power monitors, through sysfs",
    probe=probe,
    open=open_meter,
    watch=watch,
)

"""Joulescope JS220 and JS110: joules that the instrument itself adds up, with the time of its own counter.

It uses the maker's package ``joulescope``. It was not tried on the hardware: it follows the source of that package,
and is tested with the package over a driver that answers as the real driver does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from harness.types import MeterEntry, MeterInfo, Params, Unavailable
from harness_power.usb_bus import UsbDevice, attached, udev_rule

__all__ = ["ENTRY", "JoulescopeLog", "JoulescopeParams", "describe", "open_meter", "probe"]

VENDOR = "16d0"
MODELS = {"10ba": "js220", "0e88": "js110"}
JS110_HZ = 2  # the only rate at which a JS110's sensor gives the energy that it adds up itself
COUNTS_PER_S = 2_000_000  # rate of the sample counter, at any rate of readings
FIRST_S, LATE_S = 5.0, 5.0


class JoulescopeParams(Params):
    """The instrument, its rate of readings, and the board that it supplies."""

    serial: str = Field("", description="serial number of the instrument, if there are several")
    frequency: Literal[1, 2, 5, 10, 20, 50, 100] = Field(
        50, description="readings per second (a JS110 has 2)"
    )
    calibration: float | None = Field(
        None, gt=0, lt=1, description="greatest relative error that the maker states"
    )
    watches: str = Field("board", min_length=1, description="the board whose supply goes through it")
    host: str = Field(
        "", description="machine to which the instrument is connected, as ssh names it; empty: this machine"
    )


def probe() -> Iterable[Unavailable]:
    """Return only reasons: a suite must name this instrument, because nothing shows which board it supplies."""
    found = list(attached(VENDOR, tuple(MODELS)))
    if not found:
        return (Unavailable(name="joulescope", reason="no Joulescope on USB"),)
    return [
        _closed(device)
        or Unavailable(
            name=_name(device),
            reason="it is connected, and is read only if a suite names it",
            fix=f"meters: [{{joulescope: {{serial: {device.serial!r}}}}}]",
        )
        for device in found
    ]


def describe(params: JoulescopeParams) -> Iterable[MeterInfo | Unavailable]:
    """Return the instrument as a meter, or the reason why it cannot be used.

    An instrument at another host is not looked for here. Raises ``ValueError`` if ``serial`` is needed to choose
    among several, or if a JS110 cannot give the frequency.
    """
    if params.host:
        return (_info(params, params.serial, f"joulescope:{params.serial}".rstrip(":"), params.frequency),)
    found = [device for device in attached(VENDOR, tuple(MODELS)) if params.serial in ("", device.serial)]
    if not found:
        what = f"no Joulescope {params.serial}".rstrip()
        return (Unavailable(name="joulescope", reason=f"{what} on USB", fix="plug it in"),)
    if len(found) > 1:
        raise ValueError(
            f"serial: several instruments are connected; name one of {', '.join(device.serial for device in found)}"
        )
    hertz: int = params.frequency
    if MODELS[found[0].product] == "js110":
        if "frequency" in params.model_fields_set and hertz != JS110_HZ:
            raise ValueError(f"frequency: a JS110 has {JS110_HZ} only")
        hertz = JS110_HZ
    return (_closed(found[0]) or _info(params, found[0].serial, _name(found[0]), hertz),)


def _name(device: UsbDevice) -> str:
    return f"joulescope:{device.serial}".rstrip(":")


def _closed(device: UsbDevice) -> Unavailable | None:
    """Return the reason why this user cannot open the device, or None if the user can."""
    if device.open_to_us:
        return None
    fix = udev_rule(VENDOR, "joulescope")
    return Unavailable(name=_name(device), reason=f"no access to {device.node}", fix=fix)


def _info(params: JoulescopeParams, serial: str, name: str, hertz: int) -> MeterInfo:
    return MeterInfo(
        name=name,
        scope="board",
        watches=params.watches,
        provenance="measured",
        quantity="energy",
        period_s=1 / hertz,
        calibration=params.calibration,
        host=params.host,
        details={"serial": serial, "hertz": hertz},
    )


def open_meter(info: MeterInfo, first_s: float = FIRST_S, late_s: float = LATE_S) -> JoulescopeLog:
    """Open the instrument and wait for its first reading. Raises ``OSError`` if none comes."""
    return JoulescopeLog(info.name, info.details["serial"], info.details["hertz"], first_s, late_s)


class JoulescopeLog:
    """A :class:`~harness.types.Log` of joules. The driver's thread delivers the running sum ``hertz`` times a second.

    A reading must come within ``first_s`` after opening, and within ``late_s`` after the end of a fetched window.
    """

    def __init__(
        self, name: str, serial: str, hertz: int, first_s: float = FIRST_S, late_s: float = LATE_S
    ) -> None:
        import joulescope

        from harness_power.stream import Stream  # numpy is not loaded for planning

        self._late_s = late_s

        self._name, self._serial = name, serial
        self._stream = Stream(name)
        self._clock = Clock()
        found = [d for d in joulescope.scan() if serial in ("", d.serial_number)]
        if len(found) != 1:
            there = ", ".join(d.serial_number for d in found) or "none"
            raise OSError(
                f"{name}: not one Joulescope {serial}, but {there}: is it in use by another program?"
            )
        self._device = found[0]
        js110 = self._device.model == "js110"
        if js110 and hertz != JS110_HZ:
            raise OSError(f"{name}: a JS110 gives {JS110_HZ} readings a second: write frequency: {JS110_HZ}")
        self._device.config = "off" if js110 else "auto"  # no stream of samples: the sensor adds up
        if not js110:
            self._device.parameter_set("reduction_frequency", hertz)
        self._device.statistics_callback_register(self._on_statistics, "sensor")
        try:
            self._device.open()
            if js110:
                self._device.parameter_set("i_range", "auto")
                self._device.parameter_set("v_range", "15V")
            self._stream.wait(0, first_s + 2 / hertz)
        except RuntimeError as error:
            raise OSError(f"{name}: {error}") from None
        except OSError:
            self.close()
            raise

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """Wait for the end of the window and return its readings. Raises ``OSError`` if no reading comes in time."""
        self._stream.wait(end_ns, self._late_s)
        return self._stream.window(begin_ns, end_ns)

    def close(self) -> None:
        """Close the instrument."""
        self._device.close()

    def _on_statistics(self, statistics: Mapping[str, Any]) -> None:
        count = statistics["time"]["samples"]["value"][1]
        at = self._clock.at(count / COUNTS_PER_S, time.monotonic_ns())
        self._stream.add([at], [statistics["accumulators"]["energy"]["value"]])


class Clock:
    """Converts the instrument's time to monotonic time; the reading with the shortest delay gives the offset.

    Readings can arrive late if the machine is busy, but never early. The offset is found over the last ``span``
    readings, a time in which the two clocks do not drift apart.
    """

    def __init__(self, span: int = 200) -> None:
        self._offsets: deque[int] = deque(maxlen=span)
        self._last = 0

    def at(self, seconds: float, arrival_ns: int) -> int:
        """Return the monotonic nanoseconds of a reading at ``seconds`` of the instrument. Results always increase."""
        own = round(seconds * 1e9)
        self._offsets.append(arrival_ns - own)
        self._last = max(own + min(self._offsets), self._last + 1)
        return self._last


ENTRY = MeterEntry(
    name="joulescope",
    summary="Joulescope JS220 or JS110 in a board's supply: its own sum of joules",
    params=JoulescopeParams,
    probe=probe,
    describe=describe,
    open=open_meter,
    requires=("joulescope",),
    extra="joulescope",
)

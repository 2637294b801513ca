"""Monsoon High Voltage Power Monitor (HVPM). It powers the board, and streams 5,000 readings a second.

It uses the maker's package ``Monsoon``, and the monitor's main channel. It was not tried on the hardware: it follows
the source of that package, and is tested with the package against a USB device that speaks its protocol.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field

from harness.types import MeterEntry, MeterInfo, Params, Unavailable
from harness_power.usb_bus import UsbDevice, attached, udev_rule

__all__ = ["ENTRY", "HvpmLog", "MonsoonParams", "describe", "open_meter", "probe"]

VENDOR, PRODUCT = "2ab9", "0001"
PERIOD_S = 1 / 5000
DRAIN_S = 0.1
FIRST_S, LATE_S = 20.0, 5.0  # it calibrates itself before the first reading
OFF_V = 0.5
TOLERANCE = 0.05  # relative; the voltage drops in the cables
WHOLE = 0.95  # share of the readings that must arrive; the monitor omits some while it calibrates itself


class MonsoonParams(Params):
    """The monitor, the voltage of its output, and the board that it powers."""

    vout: float = Field(ge=0.8, le=13.5, description="voltage at which the monitor powers the board")
    serial: int | None = Field(None, ge=0, description="serial number of the monitor, if there are several")
    calibration: float | None = Field(
        None, gt=0, lt=1, description="greatest relative error that the maker states"
    )
    watches: str = Field("board", min_length=1, description="the board that the monitor powers")
    host: str = Field(
        "", description="machine to which the monitor is connected, as ssh names it; empty: this machine"
    )


def probe() -> Iterable[Unavailable]:
    """Return only reasons: a suite must name this monitor, with the voltage at which it powers the board."""
    found = list(attached(VENDOR, (PRODUCT,)))
    if not found:
        return (Unavailable(name="monsoon", reason="no Monsoon power monitor on USB"),)
    return [
        _closed(device)
        or Unavailable(
            name=_name(device),
            reason="it is connected, and is read only if a suite names it",
            fix=f"meters: [{{monsoon: {{vout: ..., serial: {device.serial}}}}}]",
        )
        for device in found
    ]


def describe(params: MonsoonParams) -> Iterable[MeterInfo | Unavailable]:
    """Return the monitor as a meter, or the reason why it cannot be used.

    A monitor at another host is not looked for here. Raises ``ValueError`` if ``serial`` is needed to choose among
    several.
    """
    wanted = "" if params.serial is None else str(params.serial)
    if params.host:
        return (_info(params, wanted, f"monsoon:{wanted}".rstrip(":")),)
    found = [device for device in attached(VENDOR, (PRODUCT,)) if wanted in ("", device.serial)]
    if not found:
        what = f"no Monsoon power monitor {wanted}".rstrip()
        return (Unavailable(name="monsoon", reason=f"{what} on USB", fix="connect it, and its power supply"),)
    if len(found) > 1:
        raise ValueError(
            f"serial: several monitors are connected; name one of {', '.join(device.serial for device in found)}"
        )
    return (_closed(found[0]) or _info(params, found[0].serial, _name(found[0])),)


def _name(device: UsbDevice) -> str:
    return f"monsoon:{device.serial}".rstrip(":")


def _closed(device: UsbDevice) -> Unavailable | None:
    """Return the reason why this user cannot open the device, or None if the user can."""
    if device.open_to_us:
        return None
    return Unavailable(
        name=_name(device), reason=f"no access to {device.node}", fix=udev_rule(VENDOR, "monsoon")
    )


def _info(params: MonsoonParams, serial: str, name: str) -> MeterInfo:
    return MeterInfo(
        name=name,
        scope="board",
        watches=params.watches,
        provenance="measured",
        quantity="power",
        period_s=PERIOD_S,
        calibration=params.calibration,
        host=params.host,
        details={"serial": serial, "vout": params.vout, "channel": "main"},
    )


def open_meter(info: MeterInfo, first_s: float = FIRST_S) -> HvpmLog:
    """Open the monitor and wait for its first reading.

    Raises ``OSError`` if the monitor does not answer, or if its output does not have the voltage ``vout``. If the
    output is off, it is switched on before the error is raised.
    """
    return HvpmLog(info.name, info.details["serial"], info.details["vout"], first_s)


class HvpmLog:
    """A :class:`~harness.types.Log` of watts: the main channel's current times its voltage.

    A thread runs the package's engine, which asks the monitor for one packet after the other. The readings are copied
    between two packets. The first reading must come within ``first_s``. The output stays on after closing.
    """

    def __init__(self, name: str, serial: str, vout: float, first_s: float = FIRST_S) -> None:
        from Monsoon import Operations, pmapi, sampleEngine

        from harness_power.stream import Stream  # numpy is not loaded for planning

        self._name = name
        self._stream = Stream(name)
        self._volts = 0.0
        self._monitor = _tapped(self._between_packets)
        protocol = pmapi.USB_protocol()
        self._monitor.setup_usb(serial or None, protocol)
        if protocol.DEVICE is None:
            raise OSError(f"no Monsoon power monitor {serial} on USB")
        self._monitor.stopSampling()  # a killed process may have left it sampling
        if protocol.getValue(Operations.OpCodes.HardwareModel, 2) != Operations.HardwareModel.HVPM:
            raise OSError(f"{name} is no HVPM: other models are not supported")
        self._engine = sampleEngine.SampleEngine(self._monitor, errorMode=sampleEngine.ErrorHandlingModes.off)
        self._engine.ConsoleOutput(False)
        self._forever = sampleEngine.triggers.SAMPLECOUNT_INFINITE
        self._closing = False
        self._end_ns = self._drained_ns = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        try:
            self._check(vout, first_s)
        except BaseException:
            self.close()
            raise

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """Wait for the end of the window and return its readings.

        Raises ``OSError`` if no reading comes in time, or if less than 95% of the readings of the window arrived.
        """
        self._stream.wait(end_ns, LATE_S)
        samples = self._stream.window(begin_ns, end_ns)
        due = int((end_ns - begin_ns) / 1e9 / PERIOD_S)
        if len(samples) < WHOLE * due:
            raise OSError(
                f"{self._name}: only {len(samples)} of {due} readings came: USB or its host is too slow"
            )
        return samples

    def close(self) -> None:
        """Close the device and leave its output as it is. The package's own close would reset a device under load."""
        import usb.util

        self._halt()
        usb.util.dispose_resources(self._monitor.Protocol.DEVICE)

    def _halt(self) -> None:
        self._closing = True
        self._thread.join(LATE_S)
        self._monitor.stopSampling()

    def _check(self, vout: float, first_s: float) -> None:
        """Check the voltage of the output. Raises ``OSError`` if it is not ``vout``.

        The voltage is never changed while a board runs. An output that is off is switched on.
        """
        self._stream.wait(0, first_s)
        volts = self._volts
        if volts < OFF_V:
            self._halt()
            self._monitor.setVout(vout)
            raise OSError(
                f"{self._name}: its output was off; it is on now at {vout:g} V: run again when the board is up"
            )
        if abs(volts - vout) > TOLERANCE * vout:
            raise OSError(
                f"{self._name}: its output is at {volts:.2f} V, vout says {vout:g} V: correct one of them"
            )

    def _run(self) -> None:
        try:
            self._engine.startSampling(self._forever)
            self._stream.fail("it could not calibrate itself")
        except _ClosingError:
            self._stream.fail("it was closed")
        except Exception as error:  # noqa: BLE001 - after any error of the package no more readings come
            self._stream.fail(str(error) or type(error).__name__)

    def _between_packets(self) -> None:
        """Copy the engine's readings, in the engine's thread, while its lists do not change."""
        now = time.monotonic_ns()
        if self._closing:
            raise _ClosingError
        if now - self._drained_ns < DRAIN_S * 1e9:
            return
        self._drained_ns = now
        stamps, milliamperes, _, _, volts, _ = self._engine.getSamples()
        if not stamps:
            return
        import numpy as np  # here, because planning does not need it

        # the engine stamps a packet by the wall clock, in seconds since its own start
        end = now - int((time.time() - self._monitor.started_wall_s - float(stamps[-1])) * 1e9)
        end = max(end, self._end_ns + len(stamps))
        length = int(len(stamps) * PERIOD_S * 1e9)
        begin = self._end_ns if end - self._end_ns < 2 * length else end - length
        self._end_ns = end
        ns = np.linspace(begin, end, len(stamps) + 1)[1:].astype(np.int64)
        self._volts = float(np.median(volts))
        self._stream.add(ns, np.asarray(milliamperes) / 1000 * np.asarray(volts))


class _ClosingError(Exception):
    """Ends the engine, which has no other way to stop between two packets."""


def _tapped(between_packets: Any) -> Any:
    """Return the package's monitor, extended: it calls ``between_packets`` and records when the engine began."""
    from Monsoon import HVPM

    class Tapped(HVPM.Monsoon):  # type: ignore[misc]
        def StartSampling(self, *args: Any, **more: Any) -> None:
            self.started_wall_s = time.time()  # the engine reads the clock just before
            super().StartSampling(*args, **more)

        def BulkRead(self) -> Any:
            between_packets()
            return super().BulkRead()

    return Tapped()


ENTRY = MeterEntry(
    name="monsoon",
    summary="Monsoon HVPM, which powers the board: watts of its main channel, 5 kHz",
    params=MonsoonParams,
    probe=probe,
    describe=describe,
    open=open_meter,
    requires=("Monsoon", "usb"),
    extra="monsoon",
)

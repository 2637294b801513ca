"""Raspberry Pi: the power rails of a Pi 5, and throttling, temperature and clock of a Pi 4 or 5.

The Pi 5's power chip gives current and voltage of twelve rails (``vcgencmd pmic_read_adc``). Their sum omits the
regulators' own loss and the power of USB devices and the header. It is not the board's input power, and its error is
unknown. There are two meters, both uncalibrated:

- ``raspberry-pi:rails``, scope rails, measured: the sum of volts times amperes.
- ``raspberry-pi:input-fit``, scope board, fitted: 1.1451 times the sum plus 0.5879 W. One user fitted this line
  to readings of a meter at the USB-C input of one board. Another board has another line.

A Pi 4 and older measure no current.

In ``get_throttled``, bits 0 to 3 are the causes now, and bits 16 to 19 the causes since boot, which stay set. If one
of bits 16 to 19 appears between two readings, the cause occurred between them and is reported. Causes that were set
before the first reading are reported separately, because they hide later events.

Not tried on the hardware: tests put their own ``vcgencmd`` on PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness.devices import sysfs
from harness.types import MeterEntry, MeterInfo, Unavailable, Watch

__all__ = ["ENTRY", "open_meter", "probe", "watch"]

PERIOD_S = 0.1
TIMEOUT_S = 0.5
SLOPE, INTERCEPT_W = 1.1451, 0.5879
RAIL = re.compile(
    r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(-?\d+\.?\d*(?:[eE][+-]?\d+)?)\2\s*$", re.MULTILINE
)
CAUSES = {0: "under-voltage", 1: "frequency-capped", 2: "throttled", 3: "soft-thermal-limit"}


def probe(period_s: float = PERIOD_S, timeout_s: float = TIMEOUT_S) -> Iterable[MeterInfo | Unavailable]:
    """Yield the two meters of a Pi 5, or the reason why there are none."""
    model = _model()
    if model is None:
        yield Unavailable(name="raspberry-pi", reason="this is no Raspberry Pi")
        return
    if not _has_pmic(model):
        yield Unavailable(
            name="raspberry-pi",
            reason=f"{model}: no current sensing",
            fix="use an external meter, read from another host (INA226, Joulescope, Monsoon, csv)",
        )
        return
    try:
        rails = sorted(_rails(_vcgencmd("pmic_read_adc", timeout_s=timeout_s)))
    except OSError as error:
        yield Unavailable(name="raspberry-pi", reason=f"{model}: {error}", fix=_fix(str(error)))
        return
    facts = {"model": model, "rails": rails, "calibrated": False}
    yield MeterInfo(
        name="raspberry-pi:rails",
        scope="rails",
        watches="board",
        provenance="measured",
        quantity="power",
        period_s=period_s,
        details={**facts, "slope": 1.0, "intercept_w": 0.0},
    )
    yield MeterInfo(
        name="raspberry-pi:input-fit",
        scope="board",
        watches="board",
        provenance="fitted",
        quantity="power",
        period_s=period_s,
        details={**facts, "slope": SLOPE, "intercept_w": INTERCEPT_W},
    )


def open_meter(info: MeterInfo, timeout_s: float = TIMEOUT_S) -> Rails:
    """Open one of the two meters and read it once. Raises ``OSError`` if ``vcgencmd`` fails."""
    line = {key: info.details[key] for key in ("rails", "slope", "intercept_w")}
    return Rails(**line, period_s=info.period_s, timeout_s=timeout_s)


class Rails:
    """A :class:`~harness.types.Meter` of watts: ``slope`` times the sum of the rails plus ``intercept_w``."""

    def __init__(
        self, rails: Iterable[str], slope: float, intercept_w: float, period_s: float, timeout_s: float
    ) -> None:
        self._chip = _chip(frozenset(rails), shutil.which("vcgencmd"), period_s, timeout_s)
        self._slope, self._intercept = slope, intercept_w
        self._last = 0
        self.read()

    def read(self) -> tuple[int, float]:
        """Return monotonic nanoseconds and watts. Raises ``OSError`` if ``vcgencmd`` fails or the rails have
        changed.
        """
        self._last, watts = self._chip.read(newer_than=self._last)
        return self._last, self._slope * watts + self._intercept

    def close(self) -> None:
        """Do nothing: no file is kept open."""


class _Chip:
    """The power chip, read by ``program``. Both meters share its readings, because each reading starts a process.

    A reading is shared for half of ``period_s``. ``program`` must answer within ``timeout_s``.
    """

    def __init__(self, rails: frozenset[str], program: str | None, period_s: float, timeout_s: float) -> None:
        self._rails, self._program = rails, program
        self._period_s, self._timeout_s = period_s, timeout_s
        self._lock = threading.Lock()
        self._time, self._watts = 0, 0.0

    def read(self, newer_than: int) -> tuple[int, float]:
        """Return monotonic nanoseconds and the watts of all rails, from a reading later than ``newer_than``."""
        with self._lock:
            began = time.monotonic_ns()
            if self._time <= newer_than or began - self._time > self._period_s / 2 * 1e9:
                watts = _rails(_vcgencmd("pmic_read_adc", timeout_s=self._timeout_s, program=self._program))
                if watts.keys() != self._rails:
                    differing = ", ".join(sorted(self._rails ^ watts.keys()))
                    raise OSError(
                        f"vcgencmd pmic_read_adc: the rails differ from those of the first reading ({differing})"
                    )
                self._time, self._watts = (began + time.monotonic_ns()) // 2, sum(watts.values())
            return self._time, self._watts


_chip = cache(_Chip)


def _rails(text: str) -> dict[str, float]:
    """Return rail -> watts, for the rails with a current and a voltage.

    The 5 V input and the battery have no current. Raises ``OSError`` if the text holds no rail, or a rail has no
    voltage.
    """
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for name, unit, value in RAIL.findall(text):
        found[unit][name] = float(value)
    lonely = found["A"].keys() - found["V"].keys()
    if not found["A"] or lonely:
        what = f"no voltage of {', '.join(sorted(lonely))}" if lonely else "no rail"
        raise OSError(f"vcgencmd pmic_read_adc shows {what}: {' '.join(text.split())[:80]!r}")
    return {name: amperes * found["V"][name] for name, amperes in found["A"].items()}


# --- state --------------------------------------------------------------------------------------


def watch(timeout_s: float = TIMEOUT_S) -> Watch | None:
    """Return a watch of the board's state, or None if this is not a Raspberry Pi."""
    model = _model()
    return None if model is None else State(model, timeout_s)


class State:
    """A :data:`~harness.types.Watch` of a Raspberry Pi.

    It adds these keys: ``model``, ``governor``, ``get_throttled``, ``throttle_hidden`` (causes set since boot before
    the first reading; later short events of these causes cannot be seen) and, if ``vcgencmd`` fails, ``vcgencmd``
    (the reason).
    """

    def __init__(self, model: str, timeout_s: float = TIMEOUT_S) -> None:
        self._model, self._timeout_s = model, timeout_s
        self._first: int | None = None
        self._last = 0
        with suppress(OSError):
            self._throttle()

    def __call__(self) -> Mapping[str, Any]:
        from harness.devices import governor

        root = sysfs.root()
        state: dict[str, Any] = {"model": self._model, "governor": governor(root)}
        heat = [_thousandths(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp")]
        if known := [value for value in heat if value is not None]:
            state["temperature_c"] = max(known)
        try:
            state |= self._throttle()
            state["mhz"] = (
                _measured(
                    _vcgencmd("measure_clock", "arm", timeout_s=self._timeout_s), r"frequency\(\d+\)=(\d+)"
                )
                / 1e6
            )
        except OSError as error:
            state["vcgencmd"] = str(error)
        return state

    def _throttle(self) -> dict[str, Any]:
        bits = _measured(_vcgencmd("get_throttled", timeout_s=self._timeout_s), r"throttled=(0x[0-9a-fA-F]+)")
        if self._first is None:
            self._first = self._last = bits
        appeared = (bits & ~self._last) >> 16
        self._last = bits
        return {
            "throttle": _causes(bits | appeared),
            "throttle_hidden": _causes(self._first >> 16),
            "get_throttled": hex(bits),
        }


def _measured(text: str, pattern: str) -> int:
    match = re.fullmatch(pattern, text.strip())
    if not match:
        raise OSError(f"vcgencmd answers {text.strip()[:80]!r}")
    return int(match[1], 0)


def _causes(bits: int) -> list[str]:
    return [cause for bit, cause in CAUSES.items() if bits >> bit & 1]


def _thousandths(path: Path) -> float | None:
    try:
        return int(path.read_text()) / 1000
    except (OSError, ValueError):
        return None


# --- the board ----------------------------------------------------------------------------------


def _model() -> str | None:
    """Return a name like "Raspberry Pi 5 Model B Rev 1.0", or None on another machine."""
    try:
        text = (sysfs.root() / "proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None
    return text if text.startswith("Raspberry Pi") else None


def _has_pmic(model: str) -> bool:
    """Return whether the board has the power chip, as boards with a BCM2712 do (Pi 5, 500, Compute Module 5)."""
    try:
        tree = (sysfs.root() / "proc/device-tree/compatible").read_text(errors="replace").split("\0")
    except OSError:
        tree = []
    return "brcm,bcm2712" in tree or bool(re.match(r"Raspberry Pi (5|Compute Module 5)", model))


def _vcgencmd(*words: str, timeout_s: float, program: str | None = None) -> str:
    """Return the firmware's answer. Raises ``OSError`` if there is no answer or it is an error."""
    program = program or shutil.which("vcgencmd")
    if program is None:
        raise FileNotFoundError("vcgencmd is not installed")
    command = " ".join(("vcgencmd", *words))
    try:
        done = subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command}: no answer within {timeout_s} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode or text.startswith("error="):
        said = " ".join(f"{text} {done.stderr.decode(errors='replace')}".split())[:120]
        raise OSError(f"{command} failed ({done.returncode}): {said}")
    return text


def _fix(error: str) -> str:
    if "not installed" in error:
        return "sudo apt install raspi-utils"
    if "vcio" in error or "ermission" in error or "VCHI" in error:
        return "sudo usermod -aG video $USER, then log in again (/dev/vcio belongs to that group)"
    return "sudo apt full-upgrade (firmware and raspi-utils of the same age)"


ENTRY = MeterEntry(
    name="raspberry-pi",
    summary="the rails of a Raspberry Pi 5; throttling, heat and clock of a 4 or 5",
    probe=probe,
    open=open_meter,
    watch=watch,
)

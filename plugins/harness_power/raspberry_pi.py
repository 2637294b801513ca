"""Raspberry Pi: the power rails of a Pi 5, and the throttling, heat and clock of a Pi 4 or 5.

The Pi 5's power chip tells current and voltage of twelve rails (``vcgencmd pmic_read_adc``). Their sum leaves
out the regulators' own loss and what USB and the header draw: it is no board input, and no error is stated
for it. Two meters come of it, both uncalibrated:

- ``raspberry-pi:rails``, scope rails, measured: the sum of volts times amperes.
- ``raspberry-pi:input-fit``, scope board, fitted: 1.1451 times the sum plus 0.5879 W, one user's straight
  line through readings of a meter at the USB-C input of one board. Another board has another line.

A Pi 4 and older measure no current at all.

``get_throttled`` has bits 0 to 3 for now and 16 to 19 for "since boot", which stay set. A bit of the latter
that appears between two looks is an event that no look saw, and counts as one; what was set before the first
look is reported apart, since it hides such events.

Not tried on the hardware: tests put a ``vcgencmd`` of their own on PATH.
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

__all__ = ["ENTRY"]

PERIOD_S = 0.1
TIMEOUT_S = 0.5
SLOPE, INTERCEPT_W = 1.1451, 0.5879
RAIL = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(-?\d+\.?\d*)\2\s*$", re.MULTILINE)
CAUSES = {0: "under-voltage", 1: "frequency-capped", 2: "throttled", 3: "soft-thermal-limit"}


def probe() -> Iterable[MeterInfo | Unavailable]:
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
        rails = sorted(_rails(_vcgencmd("pmic_read_adc")))
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
        period_s=PERIOD_S,
        details={**facts, "slope": 1.0, "intercept_w": 0.0},
    )
    yield MeterInfo(
        name="raspberry-pi:input-fit",
        scope="board",
        watches="board",
        provenance="fitted",
        quantity="power",
        period_s=PERIOD_S,
        details={**facts, "slope": SLOPE, "intercept_w": INTERCEPT_W},
    )


def open_meter(info: MeterInfo) -> Rails:
    return Rails(**{key: info.details[key] for key in ("rails", "slope", "intercept_w")})


class Rails:
    """A :class:`~harness.types.Meter`: a line through the sum of the rails, in watts."""

    def __init__(self, rails: Iterable[str], slope: float, intercept_w: float) -> None:
        self._chip = _chip(frozenset(rails), shutil.which("vcgencmd"), PERIOD_S)
        self._slope, self._intercept = slope, intercept_w
        self._last = 0
        self.read()

    def read(self) -> tuple[int, float]:
        self._last, watts = self._chip.read(newer_than=self._last)
        return self._last, self._slope * watts + self._intercept

    def close(self) -> None: ...


class _Chip:
    """The power chip, as the ``program`` reads it. Both meters share its readings: each costs the board a process.

    A reading is shared for half of ``period_s``.
    """

    def __init__(self, rails: frozenset[str], program: str | None, period_s: float) -> None:
        self._rails, self._program, self._period_s = rails, program, period_s
        self._lock = threading.Lock()
        self._time, self._watts = 0, 0.0

    def read(self, newer_than: int) -> tuple[int, float]:
        with self._lock:
            began = time.monotonic_ns()
            if self._time <= newer_than or began - self._time > self._period_s / 2 * 1e9:
                watts = _rails(_vcgencmd("pmic_read_adc", program=self._program))
                if watts.keys() != self._rails:
                    missing = ", ".join(sorted(self._rails ^ watts.keys()))
                    raise OSError(f"vcgencmd pmic_read_adc: other rails than at first ({missing})")
                self._time, self._watts = (began + time.monotonic_ns()) // 2, sum(watts.values())
            return self._time, self._watts


_chip = cache(_Chip)


def _rails(text: str) -> dict[str, float]:
    """Return the watts of each rail with a current and a voltage (the 5 V input and the battery have no current)."""
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for name, unit, value in RAIL.findall(text):
        found[unit][name] = float(value)
    lonely = found["A"].keys() - found["V"].keys()
    if not found["A"] or lonely:
        what = f"no voltage of {', '.join(sorted(lonely))}" if lonely else "no rail"
        raise OSError(f"vcgencmd pmic_read_adc shows {what}: {' '.join(text.split())[:80]!r}")
    return {name: amperes * found["V"][name] for name, amperes in found["A"].items()}


# --- state --------------------------------------------------------------------------------------


def watch() -> Watch | None:
    """Return a watch of the board's state, also for boards without a meter."""
    model = _model()
    return None if model is None else State(model)


class State:
    """A :data:`~harness.types.Watch`. Beside the keys of every watch: ``model``, ``governor``, ``get_throttled``,
    ``throttle_hidden`` (causes that were set since boot before the first look, so that short events of theirs
    can't be seen) and, where something is missing, ``vcgencmd``: why it did not answer.
    """

    def __init__(self, model: str) -> None:
        self._model = model
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
            state["mhz"] = _measured(_vcgencmd("measure_clock", "arm"), r"frequency\(\d+\)=(\d+)") / 1e6
        except OSError as error:
            state["vcgencmd"] = str(error)
        return state

    def _throttle(self) -> dict[str, Any]:
        bits = _measured(_vcgencmd("get_throttled"), r"throttled=(0x[0-9a-fA-F]+)")
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
    """Return whether the board has the power chip: the Pi 5, 500 and Compute Module 5, those with a BCM2712."""
    try:
        tree = (sysfs.root() / "proc/device-tree/compatible").read_text(errors="replace").split("\0")
    except OSError:
        tree = []
    return "brcm,bcm2712" in tree or bool(re.match(r"Raspberry Pi (5|Compute Module 5)", model))


def _vcgencmd(*words: str, program: str | None = None) -> str:
    """Return the firmware's answer. Raises ``OSError`` if there is none, or an error."""
    program = program or shutil.which("vcgencmd")
    if program is None:
        raise FileNotFoundError("vcgencmd is not installed")
    command = " ".join(("vcgencmd", *words))
    try:
        done = subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command}: no answer within {TIMEOUT_S} s") from None
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

"""Jetson boards without a library: how the power rails feed each other, and the state that sysfs gives.

Not tried on the hardware: names, paths and units are from the kernel's sources and NVIDIA's guides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devices import sysfs
from harness.types import Scope, Watch

__all__ = ["Composition", "compose", "is_jetson", "number", "watch"]

_INPUTS = {  # the first one that is there; VDD_IN: Orin NX and Nano, Xavier NX, TX2, TX1
    "VIN": "the carrier board's input (AGX Thor)",
    "POM_5V_IN": "the board's 5 V input (Jetson Nano)",
    "VDD_IN": "the module's input: what the carrier board takes for itself is not in it",
}
_SUMS = (
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier: side by side (design guide DG-09840, 5.6.2)
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
)
_FED_BY = {  # rail -> the rail upstream of it whose power already contains its own
    **dict.fromkeys(("POM_5V_GPU", "POM_5V_CPU"), "POM_5V_IN"),
    **dict.fromkeys(("VDD_CPU_GPU_CV", "VDD_SOC", "VDD_CPU_GPU", "VDD_GPU", "VDD_CPU"), "VDD_IN"),
    **dict.fromkeys(("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR"), "VDD_IN"),
    "VDDQ_VDD2_1V8AO": "VIN_SYS_5V0",  # NVIDIA's guide on AGX Orin's rails; jtop's `tot` counts it twice
}
_SUM_NOTE = "a sum of rails, not the board's input: the carrier board and regulator loss are not in it"


def is_jetson() -> bool:
    """Return whether this machine is a Jetson. In a container only the second or third sign is visible."""
    return (
        "nvidia,tegra" in _text(sysfs.root() / "proc/device-tree/compatible")
        or _text(sysfs.root() / "sys/devices/soc0/family") == "Tegra"
        or (sysfs.root() / "etc/nv_tegra_release").exists()
    )


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The rails whose power is added up, and their relation to the other rails.

    ``inside`` are rails that the added rails feed, ``beside`` are all others, ``note`` says what the sum contains.
    """

    scope: Scope
    add: tuple[str, ...]
    inside: tuple[str, ...]
    beside: tuple[str, ...]
    note: str

    @property
    def name(self) -> str:
        """The name of the input rail, or ``rails`` for a sum."""
        return self.add[0] if self.scope == "board" else "rails"

    @property
    def watches(self) -> str:
        """The thing whose power this is (``MeterInfo.watches``): ``board``, or the names of the added rails."""
        return "board" if self.scope == "board" else "+".join(self.add)


def compose(rails: Iterable[str]) -> Composition | None:
    """Return the board's input rail if there is one, else a sum of rails that do not overlap, else None."""
    names = sorted(set(rails))
    entry = next((name for name in _INPUTS if name in names), None)
    if entry:
        scope: Scope = "board"
        add: tuple[str, ...] = (entry,)
        note = _INPUTS[entry]
    else:
        add = next((group for group in _SUMS if set(group) <= set(names)), ())
        scope, note = "rails", _SUM_NOTE
    if not add:
        return None
    inside = tuple(name for name in names if _FED_BY.get(name) in add)
    beside = tuple(name for name in names if name not in {*add, *inside})
    return Composition(scope=scope, add=add, inside=inside, beside=beside, note=note)


def number(path: Path) -> float | None:
    """Return the number at the beginning of a sysfs attribute, or None if it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        return float(path.read_text().split()[0])
    return None


def watch() -> Watch | None:
    """Return a watch of power mode, GPU clock, temperatures and causes of throttling, or None off a Jetson."""
    return _State() if is_jetson() else None


_OVER_CURRENT = {"oc1": "under-voltage", "oc2": "over-current", "oc3": "over-current"}  # average, momentary


class _State:
    """A :data:`~harness.types.Watch` of a Jetson, from the thermal, devfreq and hwmon folders of sysfs."""

    def __init__(self) -> None:
        sys = sysfs.root() / "sys/class"
        self._zones = [
            zone / "temp"
            for zone in sorted(sys.glob("thermal/thermal_zone*"))
            if "PMIC" not in _text(zone / "type")  # shows a constant 100 C on TX and Nano
        ]
        self._cooling = {
            f"{_text(device / 'type')}#{device.name.removeprefix('cooling_device')}": device / "cur_state"
            for device in sorted(sys.glob("thermal/cooling_device*"))
            if not re.search("fan|alert", _text(device / "type"))
        }
        gpus = (f for f in sorted(sys.glob("devfreq/*")) if re.search(r"gpu|\.g[a-z]\d\d[a-z]$", f.name))
        self._gpu = next(gpus, None)
        self._events = {
            file: number(file)
            for chip in sys.glob("hwmon/hwmon*")
            if _text(chip / "name") == "soctherm_oc"
            for file in sorted(chip.glob("oc[123]_event_cnt"))
        }

    def __call__(self) -> Mapping[str, Any]:
        state: dict[str, Any] = {}
        degrees = [value / 1000 for zone in self._zones if (value := number(zone)) is not None]
        if degrees:  # zones of engines that are off do not answer
            state["temperature_c"] = max(degrees)
        state |= self._clock() | _power_mode()
        cooling = {name: int(level) for name, file in self._cooling.items() if (level := number(file))}
        causes = self._over_current()
        if cooling:
            state["cooling"] = cooling
            causes.add("thermal")
        if self._cooling or self._events:
            state["throttle"] = sorted(causes)
        return state

    def _clock(self) -> dict[str, Any]:
        if self._gpu is None:
            return {}
        now, least, most = (number(self._gpu / f"{name}_freq") for name in ("cur", "min", "max"))
        clock: dict[str, Any] = {} if now is None else {"mhz": now / 1e6}
        if least is not None and most is not None:
            clock["clocks_pinned"] = least == most  # as jetson_clocks leaves them
        return clock

    def _over_current(self) -> set[str]:
        """Return the causes whose event counter has increased since the last call."""
        causes = set()
        for file, before in self._events.items():
            now = number(file)
            if before is not None and now is not None and now > before:
                causes.add(_OVER_CURRENT[file.name[:3]])
            self._events[file] = now
        return causes


def _power_mode() -> dict[str, str]:
    """Return the name of nvpmodel's mode.

    Its status file holds the number (``pmode:0002``), and its configuration the names.
    """
    found = re.search(r"pmode:0*(\d+)", _text(sysfs.root() / "var/lib/nvpmodel/status"))
    if not found:
        return {}
    names = re.search(
        rf"^\s*<\s*POWER_MODEL\s+ID={found[1]}\s+NAME=(\S+)", _text(sysfs.root() / "etc/nvpmodel.conf"), re.M
    )
    return {"power_mode": names[1] if names else found[1]}


def _text(path: Path) -> str:
    return sysfs.text(path) or ""

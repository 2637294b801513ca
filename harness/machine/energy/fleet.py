"""Energy of a fleet: the sum of its machines' readings in one window, or the reason why there is no sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import hypot
from statistics import fmean
from typing import Protocol, get_args

from harness.types import SCOPES, Provenance
from harness.types.blocks import FleetMember
from harness.types.figures import EnergyReading

__all__ = ["has_figure", "main_meter", "readings_of"]

FIGURES = {"energy_gross_mj": "gross", "energy_net_mj": "net", "power_gross_w": "gross", "idle_w": "net"}
"""Figures that are summed over machines -> the key of ``withheld`` with the reason why the figure is null."""


class Figures(Protocol):
    """A reading, or its figures alone."""

    @property
    def meter(self) -> str | None:
        """Return the name of the meter."""
        ...

    @property
    def provenance(self) -> str | None:
        """Return whether it is measured, fitted, modelled or emulated."""
        ...

    @property
    def quantity(self) -> str | None:
        """Return ``energy`` or ``power``."""
        ...

    @property
    def energy_gross_mj(self) -> float | None:
        """Return the energy of one inference."""
        ...

    @property
    def energy_net_mj(self) -> float | None:
        """Return that energy without idle energy."""
        ...

    @property
    def energy_u_mj(self) -> float | None:
        """Return its uncertainty."""
        ...


def readings_of(energy: Sequence[EnergyReading], devices: Sequence[FleetMember]) -> list[EnergyReading]:
    """Return the readings of one window that cover a whole machine or fleet.

    Args:
        energy: all readings of the window. A reading that watches THING/part covers only the part, so it is left out.
        devices: the devices of the fleet that took part; empty for a single device.

    Returns:
        For one machine its readings. For a fleet of several machines one sum for each scope in which a machine was
        read; a meter that reads the whole fleet replaces the sum.
    """
    whole = [reading for reading in energy if "/" not in (reading.watches or "")]
    machines: dict[str, list[str]] = {}
    for device in devices:
        machines.setdefault(str(device.machine), []).append(str(device.name))
    if len(machines) < 2:
        return whole
    sums: list[EnergyReading] = []
    for scope in (scope for scope in SCOPES if any(reading.scope == scope for reading in whole)):
        fitting = [reading for reading in whole if reading.scope == scope]
        of_fleet = [reading for reading in fitting if reading.details.get("of_fleet")]
        if of_fleet:
            sums += of_fleet
            continue
        each: dict[str, EnergyReading | None] = {}
        for names in machines.values():
            own = [reading for reading in fitting if reading.device in names]
            meter = main_meter(own) if own else None
            each[names[0]] = next((reading for reading in own if reading.meter == meter), None)
        sums.append(_sum(scope, each))
    return sums


def main_meter(readings: Sequence[Figures]) -> str:
    """Return the name of the meter whose readings count if several meters read the same thing.

    Measured readings come before modelled ones. After that, a counter of energy comes before integrated power, then
    the meter with more figures, then the one with the smaller mean uncertainty.
    """
    count = Counter(reading.meter for reading in readings if has_figure(reading))
    counters = {reading.meter for reading in readings if reading.quantity == "energy"}
    measured = {reading.meter for reading in readings if reading.provenance == "measured"}

    def worth(name: str) -> tuple[bool, bool, bool, int, float]:
        own = [r.energy_u_mj for r in readings if r.meter == name and r.energy_u_mj is not None]
        error = fmean(own) if own else float("inf")
        return count[name] > 0, name in measured, name in counters, count[name], -error

    return max(sorted({str(reading.meter) for reading in readings}), key=worth)


def has_figure(reading: Figures) -> bool:
    """Return whether a reading has the gross or the net energy of one inference."""
    return reading.energy_gross_mj is not None or reading.energy_net_mj is not None


def _sum(scope: str, each: Mapping[str, EnergyReading | None]) -> EnergyReading:
    """Return the sum of the machines' readings. A figure that one machine lacks is null in the sum."""
    present = [reading for reading in each.values() if reading is not None]
    methods = sorted({str(reading.method) for reading in present})
    withheld: dict[str, str] = {}
    figures: dict[str, float | None] = {}
    for name, kind in FIGURES.items():
        values = [None if reading is None else getattr(reading, name) for reading in each.values()]
        known = [float(value) for value in values if value is not None]
        figures[name] = sum(known) if len(known) == len(values) and len(methods) == 1 else None
        if figures[name] is None:
            lacking = [device for device, value in zip(each, values, strict=True) if value is None]
            withheld.setdefault(kind, _why(scope, each, lacking, kind, methods))
    known = [float(reading.energy_u_mj) for reading in present if reading.energy_u_mj is not None]
    return EnergyReading(
        meter=" + ".join(sorted({str(reading.meter) for reading in present})),
        scope=scope,
        watches="fleet",
        method=methods[0],
        withheld=withheld,
        quantity="energy" if all(reading.quantity == "energy" for reading in present) else "power",
        provenance=max((str(reading.provenance) for reading in present), key=get_args(Provenance).index),
        energy_gross_mj=figures["energy_gross_mj"],
        energy_net_mj=figures["energy_net_mj"],
        power_gross_w=figures["power_gross_w"],
        idle_w=figures["idle_w"],
        energy_u_mj=hypot(*known) if known and len(known) == len(each) else None,
    )


def _why(
    scope: str,
    each: Mapping[str, EnergyReading | None],
    lacking: Sequence[str],
    kind: str,
    methods: Sequence[str],
) -> str:
    if not lacking:
        return f"the devices' readings follow different rules: {', '.join(methods)}"
    reasons = []
    for device in lacking:
        reading = each[device]
        why = (reading.withheld.get(kind) if reading is not None else None) or "not read"
        reasons.append(f"{device}: {why}")
    return f"no sum over the fleet's {scope}: {'; '.join(reasons)}"

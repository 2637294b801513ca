"""Energy of a fleet: the sum of its machines' readings of one window, or why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import hypot
from statistics import fmean
from typing import Any, get_args

from harness.types import SCOPES, Provenance

__all__ = ["fleet_readings", "readings_of"]

Reading = Mapping[str, Any]
Choose = Callable[[Sequence[Reading]], str]

FIGURES = ("energy_gross_mj", "energy_net_mj", "power_gross_w", "idle_w")


def fleet_readings(
    devices: Sequence[Mapping[str, Any]], whole: Sequence[Reading], choose: Choose
) -> list[Reading]:
    """One reading per scope that any machine of a fleet was read in; of a single machine, its own.

    ``devices`` as a record has them, ``whole`` its readings of whole things; ``choose`` names the one meter of a
    machine that counts. A meter of the whole fleet counts alone.
    """
    machines: dict[str, list[str]] = {}
    for one in devices:
        machines.setdefault(one["machine"], []).append(one["name"])
    if len(machines) < 2:
        return list(whole)
    found: list[Reading] = []
    for scope in (scope for scope in SCOPES if any(one["scope"] == scope for one in whole)):
        fitting = [one for one in whole if one["scope"] == scope]
        together = [one for one in fitting if (one.get("details") or {}).get("of_fleet")]
        if together:
            found += together
            continue
        each: dict[str, Reading | None] = {}
        for names in machines.values():
            mine = [one for one in fitting if one.get("device") in names]
            meter = choose(mine) if mine else None
            each[names[0]] = next((one for one in mine if one["meter"] == meter), None)
        found.append(_sum(scope, each))
    return found


def _sum(scope: str, each: Mapping[str, Reading | None]) -> Reading:
    """The machines' readings as one; a figure that one of them lacks, the fleet lacks."""
    given = [one for one in each.values() if one is not None]
    meters = " + ".join(sorted({str(one["meter"]) for one in given}))
    methods = sorted({str(one["method"]) for one in given})
    total: dict[str, Any] = {
        "meter": meters,
        "scope": scope,
        "watches": "fleet",
        "method": methods[0],
        "withheld": {},
        "quantity": "energy" if all(one["quantity"] == "energy" for one in given) else "power",
        "provenance": max((str(one["provenance"]) for one in given), key=get_args(Provenance).index),
    }
    for name in FIGURES:
        values = [None if one is None else one.get(name) for one in each.values()]
        known = [float(value) for value in values if value is not None]
        total[name] = sum(known) if len(known) == len(values) and len(methods) == 1 else None
        if total[name] is None:
            kind = "gross" if name in ("energy_gross_mj", "power_gross_w") else "net"
            lacking = [device for device, value in zip(each, values, strict=True) if value is None]
            total["withheld"].setdefault(kind, _why(scope, each, lacking, kind, methods))
    parts = [one.get("energy_u_mj") for one in given]
    known = [float(part) for part in parts if part is not None]
    total["energy_u_mj"] = hypot(*known) if known and len(known) == len(each) else None
    return total


def _why(
    scope: str, each: Mapping[str, Reading | None], lacking: Sequence[str], kind: str, methods: Sequence[str]
) -> str:
    if not lacking:
        return f"the devices' readings follow different rules: {', '.join(methods)}"
    said = []
    for device in lacking:
        one = each[device]
        why = "not read" if one is None else (one.get("withheld") or {}).get(kind) or "not read"
        said.append(f"{device}: {why}")
    return f"no sum over the fleet's {scope}: {'; '.join(said)}"


def _meter(readings: Sequence[Reading]) -> str:
    count = Counter(one["meter"] for one in readings if _figures(one))
    counters = {one["meter"] for one in readings if one["quantity"] == "energy"}
    measured = {one["meter"] for one in readings if one["provenance"] == "measured"}
    names: list[str] = sorted({one["meter"] for one in readings})

    def worth(name: str) -> tuple[bool, bool, bool, int, float]:
        return count[name] > 0, name in measured, name in counters, count[name], -_error(readings, name)

    return max(names, key=worth)


def _error(readings: Sequence[Reading], meter: str) -> float:
    own = [
        one["energy_u_mj"] for one in readings if one["meter"] == meter and one.get("energy_u_mj") is not None
    ]
    return fmean(own) if own else float("inf")


def readings_of(energy: Sequence[Reading], devices: Sequence[Mapping[str, Any]]) -> list[Reading]:
    """Readings of one window; of a fleet of several machines, their sums. ``devices`` as a record has them."""
    return fleet_readings(devices, _whole(energy), _meter)


def _whole(readings: Sequence[Reading]) -> list[Reading]:
    """Those of a whole thing: THING/part stands for no more than the part."""
    return [one for one in readings if "/" not in one["watches"]]


def _figures(one: Reading) -> bool:
    return one.get("energy_gross_mj") is not None or one.get("energy_net_mj") is not None

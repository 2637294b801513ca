"""Energy columns of a row, and which meter a board shows: one scope for all its rows, and it says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness import stats
from harness.machine.energy.fleet import _figures, _meter, readings_of
from harness.types import SCOPES
from harness.types.record import Record

__all__ = ["board_scope", "energy_columns", "scopes_of"]

NAMES = (
    "energy_gross_mj",
    "energy_net_mj",
    "energy_u_mj",
    "power_gross_w",
    "idle_w",
    "energy_scope",
    "energy_provenance",
    "energy_meter",
    "energy_method",
)
REPEATS = 5

Reading = Mapping[str, Any]


def scopes_of(records: Sequence[Record]) -> list[str]:
    """Scopes in which at least one record has a figure, the widest first; what is not measured only if nothing is."""
    found = [one for record in records for one in _readings(record) if _figures(one)]
    measured = [one for one in found if one["provenance"] == "measured"]
    given = {one["scope"] for one in measured or found}
    return [scope for scope in SCOPES if scope in given]


def board_scope(rows: Sequence[Sequence[str]]) -> str | None:
    """The scope that most rows have, the widest of these; ``rows`` are the scopes of each. ``None``: no meter."""
    count = Counter(scope for scopes in rows for scope in scopes)
    return max(SCOPES, key=lambda scope: (count[scope], -SCOPES.index(scope))) if count else None


def energy_columns(records: Sequence[Record], scope: str | None) -> dict[str, Any | tuple[str]]:
    """Column -> value, or a tuple with the reason why there is none. Medians over the cells of a row.

    One meter is read off in all cells: measured before modelled, counters before integrated power, then what
    more cells have. With
    5 processes or more the spread over them (its 95% t-interval) joins the meter's own uncertainty.
    """
    readings = [one for record in records for one in _readings(record)]
    if not readings:
        told = {str(record.state.get("no_meter") or "") for record in records} - {""}
        return dict.fromkeys(NAMES, ("; ".join(sorted(told)) or "no meter",))
    if not any(map(_figures, readings)):
        said = (f"{one['meter']}: {reason}" for one in readings for reason in one["withheld"].values())
        return dict.fromkeys(NAMES, ("; ".join(dict.fromkeys(said)) or "no meter gave a figure",))
    fitting = [one for one in readings if one["scope"] == scope]
    if not fitting:
        other = ", ".join(dict.fromkeys(one["scope"] for one in readings))
        return dict.fromkeys(NAMES, (f"measured as {other}; this board shows {scope or 'none'}",))
    meter = _meter(fitting)
    mine = [one for one in fitting if one["meter"] == meter]
    found: dict[str, Any] = {
        "energy_scope": scope,
        "energy_meter": meter,
        "energy_provenance": _same(mine, "provenance"),
        "energy_method": _same(mine, "method"),
    }
    for name, withheld in (
        ("energy_gross_mj", "gross"),
        ("energy_net_mj", "net"),
        ("power_gross_w", "gross"),
        ("idle_w", "net"),
    ):
        values = [one[name] for one in mine if one.get(name) is not None]
        why = dict.fromkeys(str((one.get("withheld") or {}).get(withheld) or "not read") for one in mine)
        found[name] = median(values) if values else ("; ".join(why),)
    found["energy_u_mj"] = _uncertainty(mine)
    return found


def _uncertainty(mine: Sequence[Reading]) -> Any:
    own = [one["energy_u_mj"] for one in mine if one.get("energy_u_mj") is not None]
    if not own:
        return ("no figure to be uncertain of",)
    key = "energy_net_mj" if any(one.get("energy_net_mj") is not None for one in mine) else "energy_gross_mj"
    values = [one[key] for one in mine if one.get(key) is not None]
    interval = stats.t_interval(values) if len(values) >= REPEATS else None
    spread = (interval[1] - interval[0]) / 2 if interval else 0.0
    return (median(own) ** 2 + spread**2) ** 0.5


def _readings(record: Record) -> list[Reading]:
    return readings_of(record.energy, record.device.get("devices") or ())


def _same(readings: Sequence[Reading], key: str) -> Any:
    values = sorted({str(one[key]) for one in readings})
    return values[0] if len(values) == 1 else (f"differs between cells: {', '.join(values)}",)

"""The energy columns of a row, and the scope of a table, which is the same for all its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from harness import stats
from harness.machine.energy.fleet import has_figure, main_meter
from harness.results.leaderboard.why import Why
from harness.results.summary import Reading, Summary
from harness.types import SCOPES
from harness.types.columns import Value

__all__ = ["REPEATS", "energy_columns", "meterless", "own_readings", "scopes_of", "table_scope"]

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
"""Smallest number of processes whose spread is a part of the uncertainty, beside the meter's own."""


def scopes_of(records: Sequence[Summary]) -> list[str]:
    """Return the scopes in which a record has a figure, the widest first.

    Readings that are not measured count only if no reading is measured.
    """
    readings = [reading for record in records for reading in record.readings if has_figure(reading)]
    measured = [reading for reading in readings if reading.provenance == "measured"]
    scopes = {reading.scope for reading in measured or readings}
    return [scope for scope in SCOPES if scope in scopes]


def table_scope(rows: Sequence[Sequence[str]]) -> str | None:
    """Return the scope that most rows have, or ``None`` if no row has a meter.

    If several scopes have equally many rows, it is the widest of them. ``rows`` has the scopes of each row.
    """
    count = Counter(scope for scopes in rows for scope in scopes)
    return max(SCOPES, key=lambda scope: (count[scope], -SCOPES.index(scope))) if count else None


def energy_columns(records: Sequence[Summary], scope: str | None) -> Mapping[str, Value | Why]:
    """Return the energy columns of a row: medians over its cells, or the reason why there is no value.

    The figures of all cells are from the same meter. Measured readings come before modelled ones, counters before
    integrated power, and then the meter that more cells have. With :data:`REPEATS` or more processes, the 95%
    t-interval of their spread is added to the meter's own uncertainty.
    """
    readings = [reading for record in records for reading in record.readings]
    if not readings:
        reasons = {reason.partition(" (")[0] for reason in meterless(records)}  # the whole: once per table
        return dict.fromkeys(NAMES, Why("; ".join(sorted(reasons)) or "no meter"))
    if not any(map(has_figure, readings)):
        lines = (f"{reading.meter}: {why}" for reading in readings for why in reading.withheld.values())
        return dict.fromkeys(NAMES, Why("; ".join(dict.fromkeys(lines)) or "no meter gave a figure"))
    fitting = [reading for reading in readings if reading.scope == scope]
    if not fitting:
        other = ", ".join(dict.fromkeys(str(reading.scope) for reading in readings))
        return dict.fromkeys(NAMES, Why(f"measured as {other}; this board shows {scope or 'none'}"))
    own = [reading for _, reading in own_readings(records, scope)]
    return {
        "energy_gross_mj": _median(own, [reading.energy_gross_mj for reading in own], "gross"),
        "energy_net_mj": _median(own, [reading.energy_net_mj for reading in own], "net"),
        "energy_u_mj": _uncertainty(own),
        "power_gross_w": _median(own, [reading.power_gross_w for reading in own], "gross"),
        "idle_w": _median(own, [reading.idle_w for reading in own], "net"),
        "energy_scope": scope,
        "energy_provenance": _same([str(reading.provenance) for reading in own]),
        "energy_meter": own[0].meter,
        "energy_method": _same([str(reading.method) for reading in own]),
    }


def own_readings(records: Sequence[Summary], scope: str | None) -> list[tuple[int, Reading]]:
    """Return the readings that the energy columns of a row are made from, each with the index of its record."""
    fitting = [
        (index, reading)
        for index, record in enumerate(records)
        for reading in record.readings
        if reading.scope == scope
    ]
    meter = main_meter([reading for _, reading in fitting]) if fitting else None
    return [(index, reading) for index, reading in fitting if reading.meter == meter]


def meterless(records: Sequence[Summary]) -> set[str]:
    """Return why no meter was read, in full, for each meter that was looked for; empty if one was read."""
    if any(record.readings for record in records):
        return set()
    return {record.no_meter for record in records if record.no_meter}


def _median(own: Sequence[Reading], values: Sequence[float | None], kind: str) -> float | Why:
    """Return the median of the known values, or the reason under the key ``kind`` of ``withheld``."""
    known = [value for value in values if value is not None]
    if known:
        return median(known)
    return Why("; ".join(dict.fromkeys(str(reading.withheld.get(kind) or "not read") for reading in own)))


def _uncertainty(readings: Sequence[Reading]) -> float | Why:
    own = [reading.energy_u_mj for reading in readings if reading.energy_u_mj is not None]
    if not own:
        return Why("no figure to be uncertain of")
    net = [reading.energy_net_mj for reading in readings if reading.energy_net_mj is not None]
    gross = [reading.energy_gross_mj for reading in readings if reading.energy_gross_mj is not None]
    values = net or gross
    interval = stats.t_interval(values) if len(values) >= REPEATS else None
    spread = (interval[1] - interval[0]) / 2 if interval else 0.0
    return float((median(own) ** 2 + spread**2) ** 0.5)


def _same(values: Sequence[str]) -> str | Why:
    different = sorted(set(values))
    return different[0] if len(different) == 1 else Why(f"differs between cells: {', '.join(different)}")

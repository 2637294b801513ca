"""Contracts of meters and watches: their descriptions, their readings, and the signals that a watch reads.

Planning uses them, so numpy is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

from harness.contracts.json import is_json_object
from harness.contracts.need import Need
from harness.types import MeterInfo, Provenance, Unavailable
from harness.types.json import Signals
from harness.types.meters import SCOPES

__all__ = ["checked_meters", "checked_reading", "checked_readings", "checked_signals", "kind_of"]

GREATEST_W = 1e7
"""Largest power in watts that a reading may have. A device of the edge takes far less."""


def checked_meters(need: Need, found: Any, function: str) -> list[MeterInfo | Unavailable]:
    """Return the answers of ``probe`` or ``describe`` as a list, each checked."""
    is_iterable = isinstance(found, Iterable) and not isinstance(found, str | Mapping)
    need(is_iterable, f"{function} gave {type(found).__name__}", f"{function} gives an iterable")
    answers = list(found)
    for answer in answers:
        _check_info(need, answer, function)
    return answers


def _check_info(need: Need, info: Any, function: str) -> None:
    is_answer = isinstance(info, MeterInfo | Unavailable)
    need(is_answer, f"{function} gave {type(info).__name__}", f"{function} gives MeterInfo or Unavailable")
    need(isinstance(info.name, str) and bool(info.name), f"its name is {info.name!r}", "name: a text")
    if isinstance(info, Unavailable):
        need(isinstance(info.reason, str), f"reason is {info.reason!r}", "Unavailable.reason: a text")
        return
    for field, allowed in (
        ("scope", SCOPES),
        ("provenance", get_args(Provenance)),
        ("quantity", ("energy", "power")),
    ):
        value = getattr(info, field)
        need(value in allowed, f"{field} is {value!r}", f"MeterInfo.{field}: one of {', '.join(allowed)}")
    for field in ("watches", "host"):
        value = getattr(info, field)
        need(isinstance(value, str), f"{field} is {value!r}", f"MeterInfo.{field}: a text")
    period = _is_number(info.period_s) and info.period_s > 0
    need(period, f"period_s is {info.period_s!r}", "MeterInfo.period_s: seconds above 0")
    averaging = _is_number(info.averaging_s) and info.averaging_s >= 0
    need(averaging, f"averaging_s is {info.averaging_s!r}", "MeterInfo.averaging_s: seconds from 0")
    stated = info.calibration
    share = stated is None or (_is_number(stated) and 0 <= stated <= 1)
    need(share, f"calibration is {stated!r}", "MeterInfo.calibration: a share, 0.01 is 1%, or None")
    need(is_json_object(info.details), "details are not JSON", "MeterInfo.details: a JSON object")


def checked_reading(reading: Any, quantity: str) -> tuple[int, float]:
    """Return a reading as nanoseconds, and joules or watts.

    Raises:
        ValueError: it is not a pair of a time on the monotonic clock and a finite number in the meter's range.
    """
    contract = "Meter.read gives (monotonic nanoseconds, joules or watts)"
    if not isinstance(reading, tuple | list) or len(reading) != 2:
        raise ValueError(f"read gave {_short(reading)} (contract: {contract})")
    ns, value = reading
    if isinstance(ns, bool) or not isinstance(ns, Integral):
        raise ValueError(f"read gave the time {_short(ns)} (contract: {contract})")
    if not _is_number(value):
        raise ValueError(f"read gave {_short(value)} (contract: {contract})")
    if quantity == "power" and abs(value) > GREATEST_W:
        raise ValueError(f"read gave {value:g} W; is it in mW? (contract: watts)")
    return int(ns), float(value)


def checked_readings(readings: Any, quantity: str) -> list[tuple[int, float]]:
    """Return the readings that a log gave.

    Raises:
        ValueError: they are not a sequence of readings.
    """
    if not isinstance(readings, Sequence) or isinstance(readings, str):
        raise ValueError(f"fetch gave {type(readings).__name__} (contract: a sequence of readings)")
    return [checked_reading(reading, quantity) for reading in readings]


def checked_signals(signals: Any) -> Signals:
    """Return the signals that a watch read, without those that are ``None``, which are unknown.

    Raises:
        ValueError: they are not a JSON object, or a signal has a type that cannot be summarised over time.
    """
    if not is_json_object(signals):
        raise ValueError(f"the watch gave {_short(signals)} (contract: a JSON object)")
    known = {key: value for key, value in signals.items() if value is not None}
    for key in ("temperature_c", "mhz"):
        if key in known and kind_of(known[key]) != "number":
            raise ValueError(f"the watch gave {key} {_short(known[key])} (contract: a number)")
    for key, value in known.items():
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if (isinstance(value, list) or key == "throttle") and not texts:
            raise ValueError(f"the watch gave {key} {_short(value)} (contract: a list of texts)")
    return known


def kind_of(value: Any) -> str:
    """Return the kind of a signal's value: number, switch, text, list or object."""
    if isinstance(value, bool):
        return "switch"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "object"


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

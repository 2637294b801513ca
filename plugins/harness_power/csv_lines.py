"""Lines of a meter's log: the meaning of the columns, and the time and power of each line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.errors import nearest

__all__ = ["Column", "Layout", "find_layout", "moment", "reading"]

Column = str | int  # a name in the header, or a position from 0

UNITS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}
ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?\s*(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)
MONTH_FIRST = re.compile(r"(\d\d)[-/](\d\d)[-/](\d{4}) (.*)")


@dataclass(frozen=True)
class Layout:
    """The columns of a log that hold time and power.

    ``power`` is one column of watts, or two columns (amperes, volts) whose values are multiplied. ``before`` holds
    the lines at the start of the log that contain no data: a preamble and the header.
    """

    delimiter: str
    time: int
    power: tuple[int, ...]
    before: frozenset[str]


def cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line without surrounding spaces and quotes."""
    return [cell.strip().strip('"').strip() for cell in line.split(delimiter)]


def delimiter_of(line: str) -> str:
    """Return the delimiter of a line: a tab or a semicolon if the line contains one, else a comma."""
    return next((mark for mark in "\t;" if mark in line), ",")


def find_layout(head: Sequence[str], time: Column, power: Sequence[Column]) -> Layout:
    """Return the layout of a log that begins with the lines ``head``. Raises ``ValueError`` if columns are missing.

    The header is the first line that contains all names. Upper and lower case are equal, and a ``#`` at the start of
    the line is ignored. Positions need no header.
    """
    wanted = [time, *power]
    names = [column.strip().casefold() for column in wanted if isinstance(column, str)]
    if not names:
        return _numbered(head, [int(column) for column in wanted])
    for at, line in enumerate(head):
        delimiter = delimiter_of(line)
        found = [cell.casefold() for cell in cells(line.lstrip("# "), delimiter)]
        if all(name in found for name in names):
            places = [found.index(c.strip().casefold()) if isinstance(c, str) else c for c in wanted]
            return Layout(delimiter, places[0], tuple(places[1:]), frozenset(head[: at + 1]))
    header = cells(head[0].lstrip("# "), delimiter_of(head[0]))
    missing = next((name for name in names if name not in [cell.casefold() for cell in header]), names[0])
    if all(_is_number(cell) for cell in header):
        raise ValueError(f"no column {missing!r}: the log has no header; give positions, from 0, not names")
    raise ValueError(f"no column {missing!r}; {nearest(missing, header)}")


def _numbered(head: Sequence[str], wanted: Sequence[int]) -> Layout:
    """Return the layout of a log whose columns are given by position. Raises ``ValueError`` if no line has them."""
    for at, line in enumerate(head):
        delimiter = delimiter_of(line)
        found = cells(line, delimiter)
        if len(found) > max(wanted) and all(_is_number(found[place]) for place in wanted[1:]):
            return Layout(delimiter, wanted[0], tuple(wanted[1:]), frozenset(head[:at]))
    columns = len(cells(head[-1], delimiter_of(head[-1])))
    raise ValueError(
        f"no line has numbers in columns {list(wanted[1:])}; the log has columns 0 to {columns - 1}"
    )


def reading(line: str, layout: Layout, time: Callable[[str], int]) -> tuple[int, float]:
    """Return a line's time in nanoseconds of the log's clock, and its watts. Raises ``ValueError`` with the reason."""
    found = cells(line, layout.delimiter)
    if len(found) <= max(layout.time, *layout.power):
        raise ValueError(f"{len(found)} columns only")
    value = 1.0
    for place in layout.power:
        value *= _number(found[place])
    return time(found[layout.time]), value


def moment(clock: str, unit: str) -> Callable[[str], int]:
    """Return a function that turns a cell into nanoseconds.

    The nanoseconds count from 1970 for the clocks ``unix``, ``iso`` and ``month-day-year``, else from the start of the
    log's clock.
    """
    if clock == "month-day-year":
        return _month_first
    if clock == "iso":
        return _iso
    factor = UNITS[unit]
    return lambda text: round(_number(text) * factor)


def _month_first(text: str) -> int:
    """Return the nanoseconds since 1970 of a time such as ``01-31-2026 13:35:07.085``, which is local time.

    SPEC PTDaemon writes its log so.
    """
    match = MONTH_FIRST.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time MM-DD-YYYY HH:MM:SS")
    month, day, year, rest = match.groups()
    return _iso(f"{year}-{month}-{day} {rest}")


def _number(text: str) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _iso(text: str) -> int:
    """Return the nanoseconds since 1970 of an ISO 8601 time. A time without a zone is local time of this machine.

    Python 3.10 reads only few forms of ISO 8601.
    """
    match = ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an ISO 8601 time")
    day, hour, fraction, zone = match.groups()
    zone = {"": "", "Z": "+00:00"}.get((zone or "").upper(), zone or "")
    if zone and zone[-3] != ":":
        zone = f"{zone[:-2]}:{zone[-2:]}"
    seconds = datetime.fromisoformat(f"{day}T{hour}{zone}").timestamp()
    return int(seconds) * 1_000_000_000 + int((fraction or "").ljust(9, "0"))

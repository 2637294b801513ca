"""Find a column by the text with which a person names it: its name or its heading."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

from harness.errors import SuiteError
from harness.types.columns import COLUMNS

__all__ = [
    "NEAR",
    "check_columns",
    "check_rank",
    "column_named",
    "column_of",
    "heading_pattern",
    "near_columns",
    "sort_order",
]

NEAR = 5
"""Number of columns that the message about an unknown column lists."""


def column_named(text: str) -> str | None:
    """Return the column that ``text`` names, or ``None``.

    A text is a name (``latency_p50_ms``), a heading (``p50``), or a heading with its unit (``Weights MiB``). Case,
    spaces, hyphens and underscores do not matter. If two columns have a heading, it names the first one.
    """
    return _BY_FORM.get(_bare(text))


def column_of(text: str, where: str, allowed: Collection[str] = COLUMNS) -> str:
    """Return the column in ``allowed`` that ``text`` names.

    Raises:
        SuiteError: there is no such column. The message begins with ``where`` and lists the nearest ones.
    """
    name = column_named(text)
    if name is None and (source := _AGAINST_BASELINE.get(_bare(text))):
        raise SuiteError(f"{where}: {text!r} is against the baseline and is no column; use {source}")
    if name is None or name not in allowed:
        raise SuiteError(f"{where}: no column {text[:80]!r}: {near_columns(text, allowed)}")
    return name


def check_columns(names: Iterable[str], where: str) -> list[str]:
    """Return the columns that ``names`` name.

    Raises:
        SuiteError: a name is not a column. ``where`` begins the message.
    """
    return [column_of(name, where) for name in names]


def check_rank(text: str, where: str) -> str:
    """Return the column that ``text`` names, after checking that rows can be ranked by it.

    Raises:
        SuiteError: it is not a column, not a number, or has no better end; ``where`` begins the message.
    """
    name = column_of(text, where)
    if COLUMNS[name].kind != "number":
        raise SuiteError(f"{where}: {text!r} is not a number")
    if COLUMNS[name].better is None:
        raise SuiteError(f"{where}: {text!r} has no better end to rank by")
    return name


def sort_order(text: str, where: str) -> tuple[str, bool]:
    """Return the column to sort by, and whether the greatest value comes first: ``-p50``.

    Raises:
        SuiteError: it is not a column; ``where`` begins the message.
    """
    return column_of(text.removeprefix("-"), where), text.startswith("-")


def near_columns(text: str, allowed: Collection[str] = COLUMNS) -> str:
    """Return a hint for a mistyped column: the :data:`NEAR` columns whose names or headings are most alike."""
    asked = _bare(text)

    def likeness(name: str) -> float:
        forms = (_bare(name), _bare(COLUMNS[name].heading))
        return max(difflib.SequenceMatcher(None, asked, form).ratio() for form in forms)

    near = sorted(allowed, key=likeness, reverse=True)[:NEAR]
    guess = f"did you mean {near[0]!r}? " if near and likeness(near[0]) >= 0.6 else ""
    return f"{guess}nearest: {', '.join(near) or 'none'}"


def heading_pattern() -> re.Pattern[str]:
    """Return what matches a heading that is not one word, like ``Top-1`` or ``Net energy``, the longest first."""
    headings = {column.heading for column in COLUMNS.values()}
    several = sorted((h for h in headings if not h.isidentifier()), key=len, reverse=True)
    return re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, several))})(?!\w)", re.IGNORECASE)


_AGAINST_BASELINE = {"gain": "top1", "speed": "latency_p50_ms", "speedup": "latency_p50_ms"}
"""Headings of figures that only a printed table has, by their form -> the column of which they are computed."""


def _bare(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text[:200]).casefold()


def _forms() -> dict[str, str]:
    forms = {_bare(name): name for name in COLUMNS}
    for name, column in COLUMNS.items():
        forms.setdefault(_bare(column.heading), name)
        forms.setdefault(_bare(f"{column.heading} {column.unit}"), name)
    return forms


_BY_FORM = _forms()

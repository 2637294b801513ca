"""Figures that papers print, read from a YAML file, on boards of their own: shown beside measured ones, never ranked.

A file ``suites/papers/NAME.published.yaml``, or anyone's::

    paper: TFormer (Lu et al., 2023)
    tables:
      - table: Table 5
        data: ImageNet-1K
        rows:
          - {method: PVT-Tiny, params_m: 13, macs_g: 1.9, top1: 75.1, top5: 92.4}

A row has the columns of a leaderboard, in their units, as far as they are printed; ``why`` says of an absent one
more than that it is not. A table is a board: what a paper put side by side, in its order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.errors import SuiteError, nearest
from harness.results.leaderboard.filters import parse_where
from harness.results.leaderboard.leaderboard import Board, not_printed
from harness.suite.shipped import shipped_files
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, read_yaml
from harness.types import Params
from harness.types.columns import COLUMNS

__all__ = ["PRINTED", "find_published", "published_boards", "shipped_published"]

SUFFIX = ".published.yaml"

PRINTED = [
    *(
        name
        for name, column in COLUMNS.items()
        if column.kind == "number" and name not in ("tier", "top1_oracle")
    ),
    *("device", "runtime", "precision", "shape", "energy_scope"),
]
"""Columns that a published row may give, beside ``method``; data set and device model are the table's."""

NOT_RANKED = "published figures are not ranked"


class Table(Params):
    """One table of a paper, or the part of it that is about one data set and device."""

    table: str = Field(min_length=1, description="which table")
    data: str = Field(min_length=1, description="data set")
    split: str = Field("test", min_length=1, description="on which top1 was measured")
    device_model: str | None = Field(None, min_length=1, description="hardware on which latency was measured")
    note: str | None = Field(None, min_length=1, description="what a reader of the figures must know")
    rows: tuple[Mapping[str, Any], ...] = Field(min_length=1)


class Published(Params):
    """A file of published figures."""

    paper: str = Field(min_length=1, description="short title, authors, year")
    tables: tuple[Table, ...] = Field(min_length=1)


def shipped_published() -> dict[str, Path]:
    """Name -> file of the published figures that come with the harness."""
    return shipped_files(SUFFIX)


def find_published(name: str) -> Path:
    """A path, or the name of a shipped file.

    Raises:
        SuiteError: there is neither.
    """
    path, shipped = Path(name), shipped_published()
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise SuiteError(f"--published {name}: no such file, nor one that is shipped; {nearest(name, shipped)}")


def published_boards(path: Path, where: str | None = None) -> tuple[Board, ...]:
    """One board per table, its rows in the paper's order; ``where`` hides rows.

    Raises:
        SuiteError: one line naming file:line, key, and what is allowed.
    """
    keep = parse_where(where) if where else None
    tree, source = read_yaml(path)
    given: Published = validated(Published, tree, source, ())
    found = []
    for index, table in enumerate(given.tables):
        origin = f"{given.paper}, {table.table}"
        places = [("tables", index, "rows", number) for number in range(len(table.rows))]
        rows = [_row(row, table, origin, source, at) for row, at in zip(table.rows, places, strict=True)]
        rows = [row for row in rows if keep is None or keep(row)]
        if rows:
            found.append(_board(table, origin, rows))
    return tuple(found)


def _board(table: Table, origin: str, rows: list[dict[str, Any]]) -> Board:
    key = {
        "task": "image-classification",
        "data": table.data,
        "split": table.split,
        "fingerprint": None,
        "scenario": None,
        "device_model": table.device_model,
        "provenance": "published",
        "source": origin,
    }
    why = dict.fromkeys(("rank_by", "baseline", "detectable_top1"), NOT_RANKED)
    return Board(key=key, rows=tuple(rows), rank_by=None, why=why, note=table.note)


def _row(
    given: Mapping[str, Any], table: Table, origin: str, source: Source, path: tuple[str | int, ...]
) -> dict[str, Any]:
    """Every column: what is printed, else null with a reason."""
    if not isinstance(given.get("method"), str) or not given["method"].strip():
        raise SuiteError(f"{source.where(*path)}: a row needs a method, the name that the paper gives it")
    reasons = given.get("why", {})
    if not isinstance(reasons, Mapping):
        raise SuiteError(f"{source.where(*path, 'why')}: expected a mapping of columns to reasons")
    printed = {name: value for name, value in given.items() if name not in ("method", "why")}
    for at, names in ((path, printed), ((*path, "why"), reasons)):
        for name, value in names.items():
            if name not in PRINTED:
                raise SuiteError(f"{source.where(*at, name)}: no published column; {nearest(name, PRINTED)}")
            if problem := _wrong(name, value, text=names is reasons):
                raise SuiteError(f"{source.where(*at, name)}: {problem}")
    both = sorted(printed.keys() & reasons.keys())
    if both:
        raise SuiteError(f"{source.where(*path, 'why', both[0])}: the row gives that figure")
    values = {
        "method": given["method"],
        "data": table.data,
        "device_model": table.device_model,
        "energy_provenance": "published" if "energy_scope" in printed else None,
        **printed,
    }
    row: dict[str, Any] = {name: values.get(name) for name in COLUMNS}
    absent = {name: not_printed(origin) for name, value in row.items() if value is None}
    ranking = dict.fromkeys(("status", "tier", "flags"), NOT_RANKED)
    return {**row, "why": {**absent, **ranking, **reasons}, "reason": ""}


def _wrong(name: str, value: Any, *, text: bool) -> str | None:
    if text or COLUMNS[name].kind == "text":
        return None if isinstance(value, str) and value.strip() else f"expected a text, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return f"expected a number of at least 0, in {COLUMNS[name].unit or 'units'}, not {value!r}"
    if COLUMNS[name].unit == "%" and value > 100:
        return f"expected at most 100 %, not {value!r}"
    return None

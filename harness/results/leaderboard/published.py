"""Figures that papers print, read from a YAML file. They have tables of their own and are never ranked.

The file is ``suites/papers/NAME.published.yaml``, or a file of your own::

    paper: TFormer (Lu et al., 2023)
    tables:
      - table: Table 5 data: ImageNet-1K rows:
          - {method: PVT-Tiny, params_m: 13, macs_g: 1.9, top1: 75.1, top5: 92.4}

A row has the columns of a leaderboard, in their units, as far as they are printed. ``why`` gives the reason why a
column is absent, if "not printed" is not enough. The rows of a table keep the paper's order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.errors import SuiteError, nearest
from harness.results.leaderboard.leaderboard import Table, TableKey, not_printed
from harness.suite.shipped import shipped_files
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, Tree, read_yaml
from harness.types import Params
from harness.types.column_names import column_named, near_columns
from harness.types.columns import COLUMNS, Row, Value

__all__ = ["PRINTED", "find_published", "published_tables", "shipped_published"]

SUFFIX = ".published.yaml"

PRINTED = [
    *(
        name
        for name, column in COLUMNS.items()
        if column.kind == "number" and name not in ("tier", "top1_oracle")
    ),
    *("device", "runtime", "precision", "shape", "energy_scope"),
]
"""Columns that a published row may give in addition to ``method``. The table gives data set and device model."""

NOT_RANKED = "published figures are not ranked"


class PrintedTable(Params):
    """A table of a paper, or the part of it that is about one data set and device."""

    table: str = Field(min_length=1, description="number of the table in the paper")
    data: str = Field(min_length=1, description="data set")
    split: str = Field("test", min_length=1, description="split on which top1 was measured")
    device_model: str | None = Field(None, min_length=1, description="hardware on which latency was measured")
    note: str | None = Field(None, min_length=1, description="what a reader of the figures must know")
    rows: tuple[Tree, ...] = Field(min_length=1)


class Published(Params):
    """A file of published figures."""

    paper: str = Field(min_length=1, description="short title, authors, year")
    tables: tuple[PrintedTable, ...] = Field(min_length=1)


def shipped_published() -> dict[str, Path]:
    """Return name -> file of the published figures that come with the harness."""
    return shipped_files(SUFFIX)


def find_published(name: str) -> Path:
    """Return the file of published figures ``name``, which is a path or the name of a shipped file.

    Raises:
        SuiteError: there is no such file.
    """
    path, shipped = Path(name), shipped_published()
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise SuiteError(f"--published {name}: no such file, nor one that is shipped; {nearest(name, shipped)}")


def published_tables(path: Path) -> tuple[Table, ...]:
    """Return the tables of a file, with their rows in the paper's order.

    Raises:
        SuiteError: the file is wrong. The message has file:line, key, and what is allowed.
    """
    tree, source = read_yaml(path)
    published: Published = validated(Published, tree, source, ())
    tables = []
    for index, table in enumerate(published.tables):
        origin = f"{published.paper}, {table.table}"
        places = [("tables", index, "rows", number) for number in range(len(table.rows))]
        rows = [_row(row, table, origin, source, at) for row, at in zip(table.rows, places, strict=True)]
        tables.append(_table(table, origin, rows))
    return tuple(tables)


def _table(printed: PrintedTable, origin: str, rows: list[Row]) -> Table:
    key = TableKey(
        task="image-classification",
        data=printed.data,
        split=printed.split,
        fingerprint=None,
        scenario=None,
        device_model=printed.device_model,
        provenance="published",
        source=origin,
    )
    why = dict.fromkeys(("rank_by", "baseline", "detectable_top1"), NOT_RANKED)
    return Table(key=key, rows=tuple(rows), rank_by=None, why=why, note=printed.note)


def _row(content: Tree, table: PrintedTable, origin: str, source: Source, path: tuple[str | int, ...]) -> Row:
    """Return the row that a file's ``content`` gives. A column that is not printed is null, with a reason."""
    if not isinstance(content.get("method"), str) or not content["method"].strip():
        raise SuiteError(f"{source.where(*path)}: a row needs a method, the name that the paper gives it")
    reasons = content.get("why", {})
    if not isinstance(reasons, Mapping):
        raise SuiteError(f"{source.where(*path, 'why')}: expected a mapping of columns to reasons")
    printed = {name: value for name, value in content.items() if name not in ("method", "why")}
    printed, reasons = (
        _by_name(given, source, at) for given, at in ((printed, path), (reasons, (*path, "why")))
    )
    for at, names in ((path, printed), ((*path, "why"), reasons)):
        for name, value in names.items():
            if name not in PRINTED:
                hint = near_columns(str(name), PRINTED)
                raise SuiteError(f"{source.where(*at, name)}: no published column; {hint}")
            if problem := _wrong(name, value, text=names is reasons):
                raise SuiteError(f"{source.where(*at, name)}: {problem}")
    both = sorted(printed.keys() & reasons.keys())
    if both:
        raise SuiteError(f"{source.where(*path, 'why', both[0])}: the row gives that figure")
    values: dict[str, Value] = {
        "method": content["method"],
        "data": table.data,
        "device_model": table.device_model,
        "energy_provenance": "published" if "energy_scope" in printed else None,
        **printed,
    }
    columns = {name: values.get(name) for name in COLUMNS}
    absent = {name: not_printed(origin) for name, value in columns.items() if value is None}
    ranking = dict.fromkeys(("status", "tier", "rank_ci", "ratio", "ratio_ci", "flags"), NOT_RANKED)
    return Row(values=columns, why={**absent, **ranking, **reasons})


def _by_name(given: Mapping[str, Any], source: Source, path: tuple[str | int, ...]) -> dict[str, Any]:
    """Return what is given for columns by their names, also where a heading names the column."""
    named: dict[str, Any] = {}
    for key, value in given.items():
        name = key if key in COLUMNS else column_named(str(key)) or key
        if name in named:
            raise SuiteError(f"{source.where(*path, key)}: {name} is given twice")
        named[name] = value
    return named


def _wrong(name: str, value: Any, *, text: bool) -> str | None:
    """Return the problem of a value of the file, or None. With ``text`` the value must be a reason, else a figure."""
    if text or COLUMNS[name].kind == "text":
        return None if isinstance(value, str) and value.strip() else f"expected a text, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return f"expected a number of at least 0, in {COLUMNS[name].unit or 'units'}, not {value!r}"
    if COLUMNS[name].unit == "%" and value > 100:
        return f"expected at most 100 %, not {value!r}"
    return None

"""A leaderboard as text: GitHub and LaTeX tables for people, CSV and JSON in full for machines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from harness.render.characters import json_text, shown
from harness.render.view import columns_of, notes, setting, title
from harness.results.leaderboard.leaderboard import Leaderboard, Table
from harness.types.columns import COLUMNS

__all__ = ["render"]

KEY = ("task", "split", "fingerprint", "scenario", "provenance", "source")
"""The parts of a table's key that are not columns of its rows."""


def render(leaderboard: Leaderboard, format: str, columns: Sequence[str] | None = None) -> str:
    """Return the leaderboard as ``github``, ``latex``, ``csv`` or ``json``, without a newline at the end.

    JSON always has all columns. CSV has one header for all tables: the number and the key of the table, then the
    columns of its rows and ``reason``. An empty field is null, and a list is JSON.
    """
    if format == "json":
        return json_text(leaderboard.to_json(), indent=2)
    if format == "csv":
        return _csv(leaderboard, columns)
    draw = {"github": _github, "latex": _latex}[format]
    return "\n\n".join(draw(table, columns) for table in leaderboard.tables)


def _csv(leaderboard: Leaderboard, columns: Sequence[str] | None) -> str:
    names = list(columns) if columns is not None else [*COLUMNS, "reason"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["board", *KEY, *names])
    for number, table in enumerate(leaderboard.tables, 1):
        key = table.key.to_json()
        for row in table.rows:
            content = row.to_json()
            values = [json.dumps(v) if isinstance(v, list) else v for v in (content[name] for name in names)]
            writer.writerow([number, *(key.get(name) for name in KEY), *values])
    return shown(out.getvalue().rstrip("\n"))


def _github(table: Table, columns: Sequence[str] | None) -> str:
    shown = columns_of(table, columns)
    texts = [
        f"### {_escaped(title(table))}",
        _escaped(setting(table, shown)),
        _table(table, columns, "github"),
    ]
    lines = [line for text in texts if text for line in (text, "")]
    lines += [f"- {_escaped(line)}" for line in notes(table, shown, usual=columns is None)]
    return "\n".join(lines)


def _latex(table: Table, columns: Sequence[str] | None) -> str:
    shown = columns_of(table, columns)
    below = notes(table, shown, usual=columns is None)
    comments = [f"% {line}" for line in (title(table), setting(table, shown), *below)]
    return "\n".join([*comments, _table(table, columns, "latex_booktabs")])


def _table(table: Table, columns: Sequence[str] | None, style: str) -> str:
    from tabulate import tabulate

    shown = columns_of(table, columns)
    headers = [f"{column.heading} ({column.unit})" if column.unit else column.heading for column in shown]
    cells = [[column.cells[index] for column in shown] for index in range(len(table.rows))]
    if style == "github":
        cells = [[_escaped(text) for text in row] for row in cells]
    else:  # LaTeX's fonts have no cross
        cells = [[text.replace("✗", "x") for text in row] for row in cells]
    align = ["right" if column.numeric else "left" for column in shown]
    return tabulate(cells, headers, tablefmt=style, disable_numparse=True, colalign=align)


def _escaped(text: str) -> str:
    for character in "\\|*~<":
        text = text.replace(character, f"\\{character}")
    return text

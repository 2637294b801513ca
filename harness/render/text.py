"""A leaderboard as text: GitHub and LaTeX tables for people, CSV and JSON in full for machines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from harness.render.view import columns_of, notes, setting, title
from harness.results.leaderboard.leaderboard import Board, Leaderboard
from harness.types.columns import COLUMNS

__all__ = ["render"]

KEY = ("task", "split", "fingerprint", "scenario", "provenance", "source")
"""The parts of a board's key that are not columns of its rows."""


def render(leaderboard: Leaderboard, format: str, columns: Sequence[str] | None = None) -> str:
    """The leaderboard as ``github``, ``latex``, ``csv`` or ``json``; JSON always has all columns.

    CSV has one header for all boards: the board's number and key, then the rows' columns and
    ``reason``. Empty is null; lists are JSON. No last newline.
    """
    if format == "json":
        return json.dumps(leaderboard.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    if format == "csv":
        return _csv(leaderboard, columns)
    draw = {"github": _github, "latex": _latex}[format]
    return "\n\n".join(draw(board, columns) for board in leaderboard.boards)


def _csv(leaderboard: Leaderboard, columns: Sequence[str] | None) -> str:
    names = list(columns) if columns is not None else [*COLUMNS, "reason"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["board", *KEY, *names])
    for number, board in enumerate(leaderboard.boards, 1):
        for row in board.rows:
            values = [json.dumps(row[name]) if isinstance(row[name], list) else row[name] for name in names]
            writer.writerow([number, *(board.key.get(name) for name in KEY), *values])
    return out.getvalue().rstrip("\n")


def _github(board: Board, columns: Sequence[str] | None) -> str:
    shown = columns_of(board, columns)
    said = [f"### {_escaped(title(board))}", _escaped(setting(board)), _table(board, columns, "github")]
    lines = [line for text in said if text for line in (text, "")]
    lines += [f"- {_escaped(line)}" for line in notes(board, shown)]
    return "\n".join(lines)


def _latex(board: Board, columns: Sequence[str] | None) -> str:
    shown = columns_of(board, columns)
    comments = [f"% {line}" for line in (title(board), setting(board), *notes(board, shown))]
    return "\n".join([*comments, _table(board, columns, "latex_booktabs")])


def _table(board: Board, columns: Sequence[str] | None, style: str) -> str:
    from tabulate import tabulate

    shown = columns_of(board, columns)
    headers = [f"{column.heading} ({column.unit})" if column.unit else column.heading for column in shown]
    cells = [[column.cells[index] for column in shown] for index in range(len(board.rows))]
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

"""The leaderboard of results folders, through the index of the first one."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.results.folder import Results
from harness.results.index import LEAST, Index, content_hash, state_of
from harness.results.leaderboard.leaderboard import Leaderboard, Table, TableKey, leaderboard_of
from harness.results.lines import MOST_BYTES
from harness.results.merged import Merged
from harness.results.second_process import SecondProcess
from harness.store.hashing import digest
from harness.store.remembered import SETTLED_S
from harness.types.columns import COLUMNS, Row
from harness.types.disturbance import RowDisturbance
from harness.types.json import JsonObject
from harness.types.signals import Signal

__all__ = ["Shown", "leaderboard_in"]

SHARE_FROM = 2**24
"""Bytes of records from which on a second process reads a part, about 3,000 records. It starts in half a second."""


@dataclass(frozen=True)
class Shown:
    """The leaderboard of several folders.

    ``records``: the number of cells in it. ``left_out`` and ``problems`` are those of
    :class:`harness.results.merged.Merged`.
    """

    leaderboard: Leaderboard
    records: int
    left_out: int
    problems: tuple[str, ...]


def leaderboard_in(
    folders: Sequence[Path],
    *,
    current_only: bool,
    rank_by: str | None = None,
    within: Sequence[str] = (),
    least: int = LEAST,
    settled_s: float = SETTLED_S,
    share_from: int = SHARE_FROM,
    cores: int | None = None,
) -> Shown:
    """Return the leaderboard of all records in ``folders`` together.

    ``rank_by`` and ``within`` are those of :func:`harness.results.leaderboard.leaderboard.leaderboard_of`.

    If there are at least ``least`` records, the result is kept in the index of the first folder. A kept result counts
    only if the bytes of all ``records.jsonl`` and ``plan.json`` have the same SHA-256, and inode, size, mtime and ctime
    of every sample file are the same. Nothing is kept of files that changed within the last ``settled_s`` seconds.

    If the files ``records.jsonl`` have at least ``share_from`` bytes together, and this process may use
    two ``cores`` (default: as the system says), a second process reads a part.

    Raises:
        SuiteError: a folder is no results folder, or a column of ``within`` is unknown.
        StorageError: a folder cannot be read.
    """
    started_ns = time.time_ns() - settled_s * 1e9
    results = [Results(folder) for folder in folders]
    index = Index(folders[0])
    name = f"board-{digest([[str(folder) for folder in folders], current_only, rank_by, list(within)])}.json"
    kept = index.read(name)
    if kept is not None and kept["state"] == _state(folders, kept["samples"])[0]:
        return Shown(_leaderboard(kept["tables"]), kept["records"], kept["left_out"], tuple(kept["problems"]))
    many = sum(_size(folder) for folder in folders) >= share_from
    with SecondProcess(cores) if many else contextlib.nullcontext() as second:
        merged = Merged(
            results, current_only=current_only, keep_from=least, settled_s=settled_s, second=second
        )
    leaderboard = leaderboard_of(
        merged.records, merged.answers_of, rank_by=rank_by, within=within, place_of=merged.place_of
    )
    shown = Shown(leaderboard, len(merged.records), merged.left_out, tuple(merged.problems))
    if shown.records >= least:
        state, changed_ns = _state(folders, merged.samples)
        if state is not None and changed_ns <= started_ns:  # a change while the folders were read is later
            index.write(
                name,
                {
                    "state": state,
                    "samples": merged.samples,
                    "records": shown.records,
                    "left_out": shown.left_out,
                    "problems": shown.problems,
                    "tables": [_table_json(table) for table in leaderboard.tables],
                },
            )
    return shown


def _size(folder: Path) -> int:
    state = state_of(f"{folder}/records.jsonl")
    return state.size if state else 0


def _state(folders: Sequence[Path], samples: Sequence[Sequence[str]]) -> tuple[str | None, int]:
    """Return a hash of all that a leaderboard is made from, and the time of the last change in nanoseconds.

    The hash is None if a file cannot be read. ``samples``: for each folder the SHA-256 of its sample files.
    """
    whole, newest = hashlib.sha256(), 0
    try:
        for folder, names in zip(folders, samples, strict=True):
            for file in ("records.jsonl", "plan.json"):
                state = state_of(f"{folder}/{file}")
                newest = max(newest, state.ctime_ns if state else 0)
                whole.update(f"{content_hash(folder / file, MOST_BYTES)}\n".encode())
            for name in names:
                state = state_of(f"{folder}/samples/{name[:2]}/{name}.npz")
                newest = max(newest, state.ctime_ns if state else 0)
                whole.update(f"{state}\n".encode())
    except OSError:
        return None, newest
    return whole.hexdigest(), newest


# --- a leaderboard as JSON, from which the same value can be made ---------------------------------


def _table_json(table: Table) -> JsonObject:
    content: JsonObject = {each.name: getattr(table, each.name) for each in fields(table)}
    places = [place for place, row in enumerate(table.rows) if row is table.reference]
    return {
        **content,
        "key": {each.name: getattr(table.key, each.name) for each in fields(table.key)},
        "rows": [_row_json(row) for row in table.rows],
        "reference": places[0] if places else None,
    }


def _row_json(row: Row) -> list[Any]:
    disturbances = [
        {
            **{each.name: getattr(disturbance, each.name) for each in fields(disturbance)},
            "signals": [signal.model_dump(mode="json") for signal in disturbance.signals],
        }
        for disturbance in row.disturbances
    ]
    return [[row.values[name] for name in COLUMNS], row.why, row.reason, disturbances]


def _leaderboard(tables: Sequence[Mapping[str, Any]]) -> Leaderboard:
    return Leaderboard(tuple(map(_table, tables)))


def _table(content: Mapping[str, Any]) -> Table:
    rows = tuple(map(_row, content["rows"]))
    within = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in content["key"]["within"])
    more = {
        "key": TableKey(**{**content["key"], "within": within}),
        "rows": rows,
        "reference": None if content["reference"] is None else rows[content["reference"]],
        "differences": tuple(content["differences"]),
    }
    return Table(**{**content, **more})


def _row(content: Sequence[Any]) -> Row:
    values, why, reason, disturbances = content
    return Row(
        values=dict(zip(COLUMNS, values, strict=True)),
        why=why,
        reason=reason,
        disturbances=tuple(
            RowDisturbance(
                **{**each, "signals": [Signal.model_validate(signal) for signal in each["signals"]]}
            )
            for each in disturbances
        ),
    )

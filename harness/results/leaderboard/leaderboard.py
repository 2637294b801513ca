"""Records -> boards: pure, and the same records always give the same boards.

A board compares what may be compared: one task, data set and split, scenario, device model and
provenance. A row is one method in one setting (runtime, batch, threads, device), over its seeds and repeats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from harness.results.leaderboard.energy_columns import board_scope
from harness.results.leaderboard.filters import parse_where
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.tiers import _no_tiers, _rank_by_tiers
from harness.types import Provenance
from harness.types.columns import COLUMNS, Column, check_columns, check_rank, order
from harness.types.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    SamplesOf = Callable[[Record], Mapping[str, NDArray[Any]]]

__all__ = ["Board", "COLUMNS", "Column", "Leaderboard", "boards", "grouped", "not_printed", "sorted_by"]


@dataclass(frozen=True, kw_only=True)
class Board:
    """Rows in rank order, each with every column of :data:`COLUMNS`, ``why`` and ``reason``.

    ``reference`` is the row that the others are compared with (the baseline's best), whether or not
    a filter hides it. ``detectable_top1`` is the difference, in points, that a pair's test would
    have seen with 80% power on one seed, at the board's median discordance and Holm's first step.
    Without ``rank_by`` the rows are not ranked: they stand as they were published.
    """

    key: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    rank_by: str | None
    baseline: str | None = None
    reference: Mapping[str, Any] | None = None
    detectable_top1: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None

    @property
    def published(self) -> bool:
        return bool(self.key["provenance"] == "published")

    def to_json(self) -> dict[str, Any]:
        return {
            "key": dict(self.key),
            "rank_by": self.rank_by,
            "baseline": self.baseline,
            "detectable_top1": self.detectable_top1,
            "why": dict(self.why),
            "note": self.note,
            "rows": [dict(row) for row in self.rows],
        }


@dataclass(frozen=True)
class Leaderboard:
    boards: tuple[Board, ...]

    def to_json(self) -> dict[str, Any]:
        return {"boards": [board.to_json() for board in self.boards]}


def boards(
    records: Iterable[Record],
    samples_of: SamplesOf | None = None,
    *,
    rank_by: str | None = None,
    baseline: str | None = None,
    within: Sequence[str] = (),
    where: str | None = None,
) -> Leaderboard:
    """Group records into boards and rank their rows.

    ``records`` are one per cell (:meth:`harness.results.folder.Results.latest`). ``samples_of`` reads a
    record's raw arrays, of which the tiers need ``predictions`` and ``labels``. ``rank_by`` and
    ``baseline`` default to those of the board's newest record. ``within`` splits boards by further
    columns; ``where`` hides rows and changes no number.

    Raises:
        SuiteError: an unknown column, a column that cannot rank, or a bad expression.
    """
    check_columns(within, "--within")
    keep = parse_where(where) if where else None
    by_board: dict[str, list[Group]] = {}
    for key, members in grouped(records).items():
        for group in members:
            inner = {name: group.row[name] for name in within}
            by_board.setdefault(json.dumps({**json.loads(key), **inner}), []).append(group)
    ranked = [
        _board(json.loads(key), members, samples_of, rank_by, baseline)
        for key, members in sorted(by_board.items(), key=_board_order)
    ]
    if keep is not None:
        ranked = [replace(board, rows=tuple(row for row in board.rows if keep(row))) for board in ranked]
    return Leaderboard(tuple(board for board in ranked if board.rows))


def grouped(records: Iterable[Record]) -> dict[str, list[Group]]:
    """The rows of every board, by the board's key as JSON; not ranked yet."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        setting = json.dumps(_board_key(record)), json.dumps(_row_key(record), sort_keys=True)
        groups.setdefault(setting, []).append(record)
    by_board: dict[str, list[Group]] = {}
    for (key, _), members in groups.items():
        by_board.setdefault(key, []).append(Group(members))
    return by_board


def not_printed(source: str) -> str:
    """Why a published row has no value."""
    return f"not printed in {source}"


def sorted_by(leaderboard: Leaderboard, name: str) -> Leaderboard:
    """The same boards with their rows ordered by one column: its better end first, nulls last."""
    key = order(name)
    return Leaderboard(
        tuple(replace(board, rows=tuple(sorted(board.rows, key=key))) for board in leaderboard.boards)
    )


def _board_key(record: Record) -> dict[str, Any]:
    return {
        "task": record.data.get("task"),
        "data": record.data.get("name"),
        "split": record.data.get("split"),
        "fingerprint": str(record.data.get("fingerprint") or "")[:12],
        "scenario": record.scenario.get("name"),
        "device_model": record.device.get("model"),
        "provenance": record.provenance,
    }


def _board_order(item: tuple[str, Any]) -> tuple[int, str]:
    """Measured boards first, then as :data:`harness.types.Provenance` lists them."""
    return get_args(Provenance).index(json.loads(item[0])["provenance"]), item[0]


def _row_key(record: Record) -> list[Any]:
    """What was asked for, so that a cell that failed before it knew its precision stays in its row."""
    return [
        record.machine_id,
        record.method,
        record.method_key,
        record.runtime.get("name"),
        record.runtime.get("params"),
        *(
            record.scenario.get(key)
            for key in (
                "batch",
                "threads",
                "streams",
                "target_qps",
                "generator",
                "preset",
                "in_flight",
                "deadline_s",
                "on_missing",
            )
        ),
        record.device.get("input"),
        record.device.get("name"),
        record.device.get("nodes"),
    ]


def _board(
    key: Mapping[str, Any],
    groups: list[Group],
    samples_of: SamplesOf | None,
    rank_by: str | None,
    baseline: str | None,
) -> Board:
    newest = max((record for group in groups for record in group.records), key=lambda record: record.started)
    rank_by = rank_by or newest.rank_by
    baseline = baseline or newest.baseline
    check_rank(rank_by, "rank_by")
    scope = board_scope([group.scopes for group in groups])
    for group in groups:
        group.put_energy(scope)
    best = order(rank_by)
    groups.sort(key=lambda group: (not group.good, best(group.row), *_tie(group.row)))
    why: dict[str, str] = {}
    detectable: float | None = None
    if rank_by != "top1":
        _no_tiers(groups, f"ranked by {rank_by}; tiers compare top1")
        why["detectable_top1"] = f"ranked by {rank_by}"
    elif samples_of is None:
        _no_tiers(groups, "no raw predictions at hand")
        why["detectable_top1"] = "no raw predictions at hand"
    else:
        detectable = _rank_by_tiers(groups, samples_of)
        if detectable is None:
            why["detectable_top1"] = "no two methods share a seed and raw predictions"
    rows = tuple(group.row for group in groups)
    reference = next((g.row for g in groups if g.row["method"] == baseline and g.good), None)
    if baseline is None:
        why["baseline"] = "the suite names none"
    elif reference is None:
        why["baseline"] = f"{baseline} has no measured row on this board"
    return Board(
        key=key,
        rows=rows,
        rank_by=rank_by,
        baseline=baseline,
        reference=reference,
        detectable_top1=detectable,
        why=why,
    )


def _tie(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Order of rows that rank alike: the faster, then by name."""
    names = ("method", "runtime", "device", "machine_id", "method_key")
    texts = tuple(str(row[name]) for name in names)
    return (*order("latency_p50_ms")(row), *texts, str(row["batch"]), str(row["threads"]))


# --- tiers --------------------------------------------------------------------------------------

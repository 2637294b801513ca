"""Make tables from records. The same records always give the same tables.

The rows of a table may be compared: they share task, data set and split, scenario, device model and provenance. A row
is one method in one setting (runtime, batch, threads, device), over its seeds and repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from harness.results.leaderboard.cost_tiers import no_ratios, rank_by_cost
from harness.results.leaderboard.costs import is_cost
from harness.results.leaderboard.differences import differences
from harness.results.leaderboard.energy_columns import meterless, table_scope
from harness.results.leaderboard.place import NOWHERE, Place, PlaceOf
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.tiers import no_tiers, rank_by_tiers
from harness.results.leaderboard.why import Why
from harness.results.summary import Summary, summary_of
from harness.types import Provenance
from harness.types.column_names import check_columns, check_rank
from harness.types.columns import Row, Value, order
from harness.types.json import JsonObject
from harness.types.record import Record

if TYPE_CHECKING:
    from harness.results.leaderboard.answers import AnswersOf

__all__ = ["Leaderboard", "Table", "TableKey", "grouped", "leaderboard_of", "not_printed"]


@dataclass(frozen=True, kw_only=True)
class TableKey:
    """The facts that all rows of a table share.

    ``within``: further columns by which tables were split, with their values. ``source``: for published figures,
    where they are printed.
    """

    task: str | None
    data: str | None
    split: str | None
    fingerprint: str | None
    scenario: str | None
    device_model: str | None
    provenance: str
    within: tuple[tuple[str, Value], ...] = ()
    source: str | None = None

    def to_json(self) -> JsonObject:
        """Return the key as JSON. It has ``source`` only for published figures."""
        return {
            "task": self.task,
            "data": self.data,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "scenario": self.scenario,
            "device_model": self.device_model,
            "provenance": self.provenance,
            **dict(self.within),
            **({} if self.source is None else {"source": self.source}),
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows in rank order.

    ``reference`` is the baseline's best row, with which the others are compared, even if a filter hides it.
    ``detectable_top1`` is the difference, in points, that the test of two rows finds with 80% power
    (:class:`harness.results.leaderboard.tiers.Ranking`). ``detectable_ratio`` is that for a table that a cost ranks
    (:func:`harness.results.leaderboard.cost_tiers.rank_by_cost`). ``one_seed`` says whether two rows were compared on one
    seed, so that no variation of training is in the test. ``why`` gives reasons for values that are ``None``,
    and under ``energy`` the full reason why no meter was read. The rows have that reason in short.
    ``differences`` has a sentence for each method with several rows that are alike in their settings. ``note`` is what a
    reader should know of the data, or of a published table.
    ``sorted_by`` is the column by which a person sorted the rows, if that was asked.
    If ``rank_by`` is None the rows are not ranked. They are in the order in which they were published.
    """

    key: TableKey
    rows: tuple[Row, ...]
    rank_by: str | None
    sorted_by: str | None = None
    baseline: str | None = None
    reference: Row | None = None
    detectable_top1: float | None = None
    detectable_ratio: float | None = None
    one_seed: bool = False
    why: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    differences: tuple[str, ...] = ()

    @property
    def published(self) -> bool:
        """Return whether the figures are those of a paper."""
        return self.key.provenance == "published"

    def to_json(self) -> JsonObject:
        """Return the table as JSON."""
        return {
            "key": self.key.to_json(),
            "rank_by": self.rank_by,
            **({} if self.sorted_by is None else {"sorted_by": self.sorted_by}),
            "baseline": self.baseline,
            "detectable_top1": self.detectable_top1,
            "detectable_ratio": self.detectable_ratio,
            "one_seed": self.one_seed,
            "why": dict(self.why),
            "note": self.note,
            **({"differences": list(self.differences)} if self.differences else {}),
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True)
class Leaderboard:
    """A list of tables, the measured ones first.

    ``notes`` are sentences about rows that a filter hides because a figure was not measured.
    """

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the leaderboard as JSON, in which a table is called a board.

        It has ``notes`` only if there are some.
        """
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"boards": [table.to_json() for table in self.tables], **notes}


def leaderboard_of(
    records: Iterable[Record | Summary],
    answers_of: AnswersOf | None = None,
    *,
    rank_by: str | None = None,
    baseline: str | None = None,
    within: Sequence[str] = (),
    place_of: PlaceOf = lambda record: NOWHERE,
) -> Leaderboard:
    """Group records into tables and rank their rows.

    Args:
        records: one record per cell (:func:`harness.results.folder.latest_of`).
        answers_of: a function that returns which images a record answered right. Tiers need it.
        rank_by: the column that ranks; by default that of the table's newest record.
        baseline: the method of the reference row; by default that of the table's newest record.
        within: columns by which tables are split further.
        place_of: a function that gives the folder of a record. Records of several folders are never in one row.

    Raises:
        SuiteError: a column is unknown or cannot rank.
    """
    within = check_columns(within, "--within")
    by_table: dict[TableKey, list[Group]] = {}
    for key, groups in grouped(records, place_of).items():
        for group in groups:
            row = group.row
            inner = tuple((name, _hashable(row[name])) for name in within)
            by_table.setdefault(replace(key, within=inner), []).append(group)
    ranked = [
        _table(key, groups, answers_of, rank_by, baseline)
        for key, groups in sorted(by_table.items(), key=lambda item: _table_order(item[0]))
    ]
    return Leaderboard(tuple(ranked))


def grouped(
    records: Iterable[Record | Summary], place_of: PlaceOf = lambda record: NOWHERE
) -> dict[TableKey, list[Group]]:
    """Return the rows of every table, by the table's key. They are not ranked yet."""
    by_table: dict[TableKey, dict[tuple[Place, str], list[Summary]]] = {}
    for record in records:
        summary = record if isinstance(record, Summary) else summary_of(record)
        row = place_of(record), summary.setting
        by_table.setdefault(_table_key(summary), {}).setdefault(row, []).append(summary)
    return {
        key: [Group(members, place) for (place, _), members in rows.items()] for key, rows in by_table.items()
    }


def not_printed(source: str | None) -> str:
    """Return the reason why a published row has no value."""
    return f"not printed in {source}"


def _table_key(record: Summary) -> TableKey:
    return TableKey(
        task=record.data.task,
        data=record.data.name,
        split=record.data.split,
        fingerprint=(record.data.fingerprint or "")[:12],
        scenario=record.scenario.name,
        device_model=record.device.model,
        provenance=record.provenance,
    )


def _table_order(key: TableKey) -> tuple[int, str]:
    """Return the sort key of a table: the order of :data:`harness.types.Provenance`, measured first, then its key."""
    return get_args(Provenance).index(key.provenance), json.dumps(key.to_json())


def _hashable(value: Value) -> Value:
    return tuple(value) if isinstance(value, list) else value


def _table(
    key: TableKey,
    groups: list[Group],
    answers_of: AnswersOf | None,
    rank_by: str | None,
    baseline: str | None,
) -> Table:
    newest = max((record for group in groups for record in group.records), key=lambda record: record.started)
    rank_by = check_rank(rank_by or newest.rank_by, "rank_by")
    baseline = baseline or newest.baseline
    scope = table_scope([group.scopes for group in groups])
    for group in groups:
        group.put_energy(scope)
    best = order(rank_by)
    groups.sort(key=lambda group: (not group.good, best(group.row), *_tie(group.row)))
    why: dict[str, str] = {}
    found = _rank(groups, rank_by, answers_of, why)
    rows = [group.row for group in groups]
    of_baseline = (
        row for row, group in zip(rows, groups, strict=True) if group.good and row["method"] == baseline
    )
    reference = next(of_baseline, None)
    if baseline is None:
        why["baseline"] = "the suite names none"
    elif reference is None:
        why["baseline"] = f"{baseline} has no measured row on this board"
    if no_meter := {reason for group in groups for reason in meterless(group.good)}:
        why["energy"] = "; ".join(sorted(no_meter))
    return Table(
        key=key,
        rows=tuple(rows),
        rank_by=rank_by,
        baseline=baseline,
        reference=reference,
        detectable_top1=found.detectable_top1,
        detectable_ratio=found.detectable_ratio,
        one_seed=found.one_seed,
        why=why,
        differences=tuple(differences(groups)),
        note=" · ".join(sorted(_data_notes(groups))) or None,
    )


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What the fields of the same names say in :class:`Table`."""

    detectable_top1: float | None = None
    detectable_ratio: float | None = None
    one_seed: bool = False


def _rank(groups: list[Group], rank_by: str, answers_of: AnswersOf | None, why: dict[str, str]) -> _Tested:
    """Give each row of sorted ``groups`` its tier. ``why`` gets the reason for a difference that is None."""
    if is_cost(rank_by):
        why["detectable_top1"] = f"ranked by {rank_by}"
        ratio = rank_by_cost(groups, rank_by)
        if isinstance(ratio, Why):
            why["detectable_ratio"] = ratio
            return _Tested()
        return _Tested(detectable_ratio=ratio)
    no_ratios(groups, f"ranked by {rank_by}; ratios compare costs")
    why["detectable_ratio"] = f"ranked by {rank_by}"
    if rank_by != "top1":
        no_tiers(groups, f"ranked by {rank_by}, which has no test")
        why["detectable_top1"] = f"ranked by {rank_by}"
        return _Tested()
    if answers_of is None:
        no_tiers(groups, "no raw predictions at hand")
        why["detectable_top1"] = "no raw predictions at hand"
        return _Tested()
    ranking = rank_by_tiers(groups, answers_of)
    if ranking.detectable is None:
        why["detectable_top1"] = "no two methods share a seed and raw predictions"
        return _Tested(one_seed=ranking.one_seed)
    return _Tested(detectable_top1=100 * ranking.detectable, one_seed=ranking.one_seed)


def _data_notes(groups: Iterable[Group]) -> set[str]:
    """Return the notes of the records' data sets. They are one, unless a suite or a newer version says more of the same data."""
    return {record.data.note for group in groups for record in group.records if record.data.note}


def _tie(row: Row) -> tuple[Any, ...]:
    """Return the sort key of rows with the same rank: the faster one first, then by name."""
    names = ("method", "runtime", "device", "machine_id", "method_key", "folder", "run", "started")
    texts = tuple(str(row[name]) for name in names)
    return (*order("latency_p50_ms")(row), *texts, str(row["batch"]), str(row["threads"]))

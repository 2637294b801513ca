"""What the records of a results folder say about a claim: a method's figure, or which of two is better."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import grouped
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.tiers import ALPHA, answers, paired_tables
from harness.types.columns import COLUMNS

if TYPE_CHECKING:
    from harness.results.claims.claims import Number, Ordering

__all__ = ["Difference", "Evidence", "Unchecked"]


class Unchecked(Exception):
    """A claim cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, in the column's unit; whether that decides which is better."""

    difference: float
    decided: bool
    why: str = ""


class Evidence:
    """The rows of ``folder`` that belong to ``suite``, by board; published figures are no evidence.

    Raises:
        SuiteError: it is no results folder.
    """

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder
        self.results = Results(folder)
        records = [r for r in self.results.latest(current_only=True) if r.suite == suite]
        self.boards = list(grouped(r for r in records if r.provenance != "published").values())

    def number(self, claim: Number, data: str, keys: Collection[str]) -> tuple[float, str]:
        """The figure, and whose it is.

        ``data`` is the data set and ``keys`` the configurations that the suite's method has.

        Raises:
            Unchecked: no record of this method, data, hardware, configuration has it.
        """
        found = [group for board in self.boards for group in self._rows(board, claim.method, claim.on)]
        if not found:
            raise Unchecked(self._lack(claim.method, claim.on))
        on_data = [group for group in found if group.row["data"] == data]
        if not on_data:
            raise Unchecked(f"its records are of {found[0].row['data']}, the claim of {data}")
        same = [group.row for group in on_data if group.row["method_key"] in keys]
        if not same:
            raise Unchecked("the authors' training was not run: its records are of another configuration")
        row = next((row for row in same if row[claim.quantity] is not None), None)
        if row is None:
            raise Unchecked(f"its records have no {claim.quantity}: {same[0]['why'].get(claim.quantity)}")
        return float(row[claim.quantity]), f"{_seeds(row)}, {row['runtime']} on {row['device_model']}"

    def ordering(self, claim: Ordering) -> Difference:
        """By how much ``claim.better`` is better, on one board, in settings as alike as there are.

        Raises:
            Unchecked: no board has both methods with figures.
        """
        pairs = [
            (first, second)
            for board in self.boards
            for first in self._rows(board, claim.better, claim.on)
            for second in self._rows(board, claim.than, claim.on)
            if None not in (first.row[claim.column], second.row[claim.column])
        ]
        if not pairs:
            for method in (claim.better, claim.than):
                if not any(self._rows(board, method, claim.on) for board in self.boards):
                    raise Unchecked(self._lack(method, claim.on))
            raise Unchecked(f"no board has {claim.column} of {claim.better} and of {claim.than}")
        first, second = min(pairs, key=lambda pair: _unlike(pair[0].row, pair[1].row))
        column = COLUMNS[claim.column]
        sign = 1 if column.better == "higher" else -1
        difference = sign * (first.row[claim.column] - second.row[claim.column])
        seeds = f"{_seeds(first.row)} against {_seeds(second.row)}"
        if claim.column != "top1":
            return Difference(difference, True, f"{seeds}; without a test")
        tables = paired_tables(*(answers(group, self.results.load_samples) for group in (first, second)))
        if not tables:
            return Difference(
                difference, False, f"cannot be told apart: no raw predictions of common seeds; {seeds}"
            )
        p = stats.paired_p([(b, c) for b, c, _ in tables])
        common = fmean((b - c) / n for b, c, n in tables)  # the test sees the seeds that both have
        told = p <= ALPHA and common * difference > 0
        return Difference(difference, told, f"{'' if told else 'cannot be told apart: '}p = {p:.2g}; {seeds}")

    @staticmethod
    def _rows(board: list[Group], method: str, on: str | None) -> list[Group]:
        return [
            group
            for group in board
            if group.row["method"] == method
            and group.good
            and (on is None or on.casefold() in str(group.row["device_model"]).casefold())
        ]

    def _lack(self, method: str, on: str | None) -> str:
        models = {g.row["device_model"] for board in self.boards for g in self._rows(board, method, None)}
        if not models:
            return f"no good record of {method} in {self.folder}"
        return f"needs {on}; its records are of {', '.join(sorted(map(str, models)))}"


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> int:
    return sum(first[name] != second[name] for name in ("runtime", "device", "batch", "threads"))


def _seeds(row: Mapping[str, Any]) -> str:
    return f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"

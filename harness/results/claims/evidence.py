"""The evidence of a results folder for a claim: the figure of a method, or which of two methods is better."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results.folder import Results
from harness.results.leaderboard.answers import answers_of, compare
from harness.results.leaderboard.cost_tiers import compare_costs
from harness.results.leaderboard.costs import is_cost
from harness.results.leaderboard.leaderboard import grouped
from harness.results.leaderboard.rows import Group
from harness.results.leaderboard.why import Why
from harness.results.merged import Merged
from harness.stats.best import ALPHA
from harness.types.columns import COLUMNS, Row

if TYPE_CHECKING:
    from harness.results.claims.claims import Figure, Ordering

__all__ = ["Difference", "Evidence", "Unchecked"]


class Unchecked(Exception):
    """A claim cannot be checked here. The message says why."""


@dataclass(frozen=True)
class Difference:
    """The difference by which one method is better than another, in the column's unit.

    ``decided``: whether the difference decides which method is better. ``why``: the seeds and the test behind it.
    ``interval``: the 95% interval of the difference of accuracies; that of a ratio of costs is in ``why``.
    ``compute``: training compute of either method in PMACs, or ``None`` where it is not in the records. ``keys``:
    ``method_key`` of the records of either method.
    """

    difference: float
    decided: bool
    why: str = ""
    interval: tuple[float, float] | None = None
    compute: tuple[float | None, float | None] = (None, None)
    keys: tuple[str, str] = ("", "")


class Evidence:
    """The rows of ``folder`` that belong to ``suite``, by table. Published figures are not evidence.

    Raises:
        SuiteError: ``folder`` is not a results folder.
    """

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder
        self.results = Merged([Results(folder)], current_only=True)
        records = [r for r in self.results.records if r.suite == suite]
        self.tables: list[list[Group]] = list(
            grouped(r for r in records if r.provenance != "published").values()
        )

    def number(self, figure: Figure, data: str, keys: Collection[str]) -> tuple[float, str]:
        """Return a figure that a claim is about, and a text about the seeds, runtime and device behind it.

        Args:
            figure: a quantity of a method.
            data: name of the data set that the suite's method uses.
            keys: ``method_key`` of each configuration that the suite's method has.

        Raises:
            Unchecked: no record of this method, data, hardware and configuration has the figure.
        """
        groups = [group for table in self.tables for group in self._rows(table, figure.method, figure.on)]
        if not groups:
            raise Unchecked(self._lack(figure.method, figure.on))
        rows = [group.row for group in groups]
        on_data = [row for row in rows if row["data"] == data]
        if not on_data:
            raise Unchecked(f"its records are of {rows[0]['data']}, the claim of {data}")
        same = [row for row in on_data if row["method_key"] in keys]
        if not same:
            raise Unchecked("the authors' training was not run: its records are of another configuration")
        for row in same:
            value = row.number(figure.quantity)
            if value is not None:
                return float(value), f"{_seeds(row)}, {row['runtime']} on {row['device_model']}"
        raise Unchecked(f"its records have no {figure.quantity}: {same[0].why.get(figure.quantity)}")

    def ordering(self, claim: Ordering) -> Difference:
        """Return by how much ``claim.better`` is better, from the two most similar rows of one table.

        Raises:
            Unchecked: no table has both methods with figures.
        """
        pairs = [
            (first, second)
            for table in self.tables
            for first in self._rows(table, claim.better, claim.on)
            for second in self._rows(table, claim.than, claim.on)
            if first.row[claim.column] is not None and second.row[claim.column] is not None
        ]
        if not pairs:
            for method in (claim.better, claim.than):
                if not any(self._rows(table, method, claim.on) for table in self.tables):
                    raise Unchecked(self._lack(method, claim.on))
            raise Unchecked(f"no board has {claim.column} of {claim.better} and of {claim.than}")
        first, second = min(pairs, key=lambda pair: _unlike(pair[0].row, pair[1].row))
        compute = first.row.number("train_pmacs"), second.row.number("train_pmacs")
        keys = str(first.row["method_key"]), str(second.row["method_key"])
        return replace(self._compared(claim, first, second), compute=compute, keys=keys)

    def _compared(self, claim: Ordering, first: Group, second: Group) -> Difference:
        """Return the difference between two rows, and whether it decides which one is better."""
        column = COLUMNS[claim.column]
        sign = 1 if column.better == "higher" else -1
        ours, other = first.row.number(claim.column), second.row.number(claim.column)
        assert ours is not None  # pairs with a missing value are left out before
        assert other is not None
        difference = sign * (ours - other)
        seeds = f"{_seeds(first.row)} against {_seeds(second.row)}"
        if is_cost(claim.column):
            return _by_cost(first, second, claim.column, difference)
        if claim.column != "top1":
            return Difference(difference, False, f"{claim.column} has no test; {seeds}")
        (paired,) = compare(
            answers_of(first, self.results.answers_of), [answers_of(second, self.results.answers_of)]
        )
        if paired is None:
            return Difference(difference, False, f"no test: no raw predictions of common seeds; {seeds}")
        # the test uses only the seeds that both have, so its difference can have another sign
        decided = paired.p <= ALPHA and paired.difference * difference > 0
        prefix = "" if decided else "no significant difference: "
        interval = 100 * paired.low, 100 * paired.high
        alone = "; one seed, so no variation of training" if paired.seeds == 1 else ""
        return Difference(difference, decided, f"{prefix}p = {paired.p:.2g}; {seeds}{alone}", interval)

    @staticmethod
    def _rows(table: list[Group], method: str, on: str | None) -> list[Group]:
        return [
            group
            for group in table
            if group.row["method"] == method
            and group.good
            and (on is None or on.casefold() in str(group.row["device_model"]).casefold())
        ]

    def _lack(self, method: str, on: str | None) -> str:
        models = {g.row["device_model"] for table in self.tables for g in self._rows(table, method, None)}
        if not models:
            return f"no good record of {method} in {self.folder}"
        return f"needs {on}; its records are of {', '.join(sorted(map(str, models)))}"


def _by_cost(first: Group, second: Group, column: str, difference: float) -> Difference:
    """Return whether a difference of costs decides, by the test of a table's tiers."""
    test = compare_costs(first, second, column)
    if isinstance(test, Why):
        return Difference(difference, False, f"no test: {test}")
    if test.exact:
        return Difference(difference, True, test.basis)
    low, high = test.interval
    # the test is of typical values, whose difference can have another sign than that of the figures in the table
    ahead = test.ratio > 1 if COLUMNS[column].better == "higher" else test.ratio < 1
    decided = not low <= 1 <= high and ahead == (difference > 0)
    prefix = "" if decided else "no significant difference: "
    ratio = f"ratio {test.ratio:.3g} [{low:.3g}, {high:.3g}], p = {test.p:.2g}"
    return Difference(difference, decided, f"{prefix}{ratio}; {test.basis}")


def _unlike(first: Row, second: Row) -> int:
    """Return the number of settings in which two rows differ."""
    return sum(first[name] != second[name] for name in ("runtime", "device", "batch", "threads"))


def _seeds(row: Row) -> str:
    return f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}"

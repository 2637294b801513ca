"""Verdicts on the claims of a paper: compare each claim with modules that plugins build, and with records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from harness.errors import SuiteError, nearest
from harness.plan.planner import Planned
from harness.results.claims.claims import (
    ALL,
    BUT_FUSION,
    UNITS,
    Claim,
    Figure,
    Number,
    Ordering,
    Placed,
    Ratio,
)
from harness.results.claims.counted import Counted
from harness.results.claims.evidence import Difference, Evidence, Unchecked
from harness.results.claims.load import Claims
from harness.results.claims.ratios import printed_range, ratio
from harness.train.counting.footprint import STATIC
from harness.types.json import JsonObject

__all__ = ["EQUAL_COMPUTE", "FAILED", "STATUSES", "TRIED", "Judge", "Status", "Verdict", "summary"]

Status = Literal[
    "not-reproduced",
    "opposite",
    "paper-contradicts-itself",
    "reproduced",
    "within-tolerance",
    "reproduced-fitted",
    "holds",
    "undecided",
    "not-checkable-here",
]
STATUSES: tuple[Status, ...] = get_args(Status)
"""All statuses, in the order in which they are printed."""

FAILED: frozenset[Status] = frozenset({"not-reproduced", "opposite"})
"""Statuses of claims that do not hold."""

TRIED: frozenset[Status] = frozenset({"holds", "opposite", "undecided"})
"""Statuses of orderings that were tried on some data."""

EQUAL_COMPUTE = 0.10
"""Share by which the training compute of two rows may differ if a claim is about equal compute."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one claim.

    ``published`` and ``ours`` are figures in ``unit``, or ``None``. For an ordering they are the difference by which
    one method is better than the other; ``interval`` is the 95% interval of our difference, and ``compute`` is the
    training compute of either method in PMACs. ``printed`` is the paper's number with its printed digits. ``scale``
    is the data on which an ordering was tried, if it is not the paper's. A verdict with ``same_as`` is not counted:
    the claim with that name is about the same printed figure.
    """

    claim: str
    table: str
    status: Status
    says: str = ""
    published: float | tuple[int, ...] | None = None
    printed: str = ""
    ours: float | tuple[int, ...] | None = None
    interval: tuple[float, float] | None = None
    compute: tuple[float | None, float | None] | None = None
    unit: str = ""
    tolerance: str = ""
    scale: str = ""
    same_as: str | None = None
    why: str = ""

    def to_json(self) -> JsonObject:
        """Return the verdict as JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Return the status in words, with the tolerance or the scale behind it."""
        if self.status == "within-tolerance":
            return f"reproduced within {self.tolerance}"
        if self.status == "reproduced-fitted":
            return "reproduced (fitted)"
        words = self.status.replace("-", " ")
        return f"{words} on {self.scale}" if self.scale and self.status in TRIED else words


def summary(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Return how many claims have each status. Claims that are the same as another one are not counted."""
    counts = Counter(verdict.status for verdict in verdicts if verdict.same_as is None)
    return {status: counts[status] for status in STATUSES}


class Judge:
    """The judge of one suite's claims.

    ``evidence`` is made from the records of a results folder. Without it, a claim that needs records is not
    checkable.

    Raises:
        SuiteError: a claim names a part that its method does not have, or is about the placement of a whole model.
    """

    def __init__(self, claims: Claims, planned: Planned, evidence: Evidence | None) -> None:
        self.claims = claims
        self.plan = planned.plan
        self.resolved = planned.resolved
        self.evidence = evidence
        self.counted = Counted(planned.resolved)
        for name, claim in claims.claims.items():
            if name not in claims.absent:
                self._check(name, claim)

    def verdicts(self) -> Iterator[Verdict]:
        """Yield one verdict per claim, in the order of the file."""
        for name, claim in self.claims.claims.items():
            verdict = self._verdict(name, claim)
            if claim.contradicted_by is not None:
                why = f"against {claim.contradicted_by}"
                verdict = replace(verdict, status="paper-contradicts-itself", why=why)
            yield verdict

    def _verdict(self, name: str, claim: Claim) -> Verdict:
        open_verdict = replace(_open(name, claim), scale=self.claims.scale)
        if name in self.claims.absent:
            return replace(open_verdict, why=self.claims.absent[name])
        try:
            if isinstance(claim, Number):
                return self._number(claim, open_verdict)
            if isinstance(claim, Ratio):
                return self._ratio(claim, open_verdict)
            if isinstance(claim, Ordering):
                return self._ordering(claim, open_verdict)
            if isinstance(claim, Placed):
                return self._placed(claim, open_verdict)
        except Unchecked as reason:
            return replace(open_verdict, why=str(reason))
        return replace(open_verdict, why=f"needs {claim.needs}")

    def _check(self, name: str, claim: Claim) -> None:
        """Check the parts of a claim against the sketches of its methods."""
        if isinstance(claim, Placed):
            if self.counted.sketch(claim.method) is None:
                where = self.claims.where(name, "method")
                raise SuiteError(
                    f"{where}: {claim.method} is not a split model; only a split model is placed"
                )
            return
        parts: list[tuple[str, str, str | None]] = []
        if isinstance(claim, Number):
            parts = [("part", claim.method, claim.part)]
        if isinstance(claim, Ratio):
            parts = [("of_part", method, claim.of_part) for method in claim.of]
            parts += [("to_part", method, claim.to_part) for method in claim.to]
        for key, method, part in parts:
            if part is None:
                continue
            sketch = self.counted.sketch(method)
            allowed = [ALL] if sketch is None else [*(each.name for each in sketch.parts), ALL, BUT_FUSION]
            if part not in allowed:
                where = self.claims.where(name, key)
                raise SuiteError(f"{where}: no part {part!r}; {nearest(part, allowed)}")

    # --- numbers

    def _number(self, claim: Number, open_verdict: Verdict) -> Verdict:
        ours, why = self._ours(claim.figure)
        return _compared(claim, ours / claim.divisor, why, open_verdict)

    def _ratio(self, claim: Ratio, open_verdict: Verdict) -> Verdict:
        """Return the verdict on a ratio. The figures that the paper itself prints must also give the ratio."""
        own = printed_range(claim, self.claims.claims)
        contradiction = ""
        if own is not None:
            value, least, greatest = own
            low, high = (claim.value.value + sign * claim.value.half_unit for sign in (-1, 1))
            if low > greatest or high < least:
                contradiction = f"against its own figures, which give {value:.4g}"
        try:
            pairs = [(self._ours(of), self._ours(to)) for of, to in claim.pairs]
            ours = ratio(claim.form, [(of, to) for (of, _), (to, _) in pairs])
        except ZeroDivisionError:
            verdict = replace(open_verdict, why="the figure that is divided by is 0")
        except Unchecked as reason:
            agrees = "its own figures agree; " if own is not None else ""
            verdict = replace(open_verdict, why=f"{agrees}{reason}")
        else:
            why = "; ".join(dict.fromkeys(text for pair in pairs for _, text in pair if text))
            verdict = _compared(claim, ours, why, open_verdict)
            if verdict.status == "not-reproduced" and own is not None:
                printed = f"the paper's printed figures give {own[0]:.4g}"
                verdict = replace(verdict, why="; ".join(filter(None, (printed, why))))
        if contradiction:
            return replace(verdict, status="paper-contradicts-itself", why=contradiction)
        return verdict

    def _ours(self, figure: Figure) -> tuple[float, str]:
        """Return our value of a figure, and what is behind it if it was measured."""
        if figure.quantity in STATIC:
            return self.counted.count(figure), ""
        return self._evidence([figure.method], figure.on).number(
            figure, data=self.resolved.method(figure.method).data.info.name, keys=self._keys(figure.method)
        )

    # --- placements

    def _placed(self, claim: Placed, open_verdict: Verdict) -> Verdict:
        target = self.resolved.target(claim.fleet, self.resolved.suite.defaults.threads)
        if target.unavailable:
            raise Unchecked(target.unavailable)
        sketch = self.counted.counted_sketch(claim.method, target)  # capacities are in the paper's MACs
        try:
            placement = self.resolved.place(claim.method, sketch, target)
        except SuiteError as error:
            return replace(open_verdict, status="not-reproduced", why=str(error))
        where = Counter({device: 0 for device in range(len(target.infos)) if device != target.central})
        where.update(placement.device_of[part.name] for part in sketch.parts[:-1])
        ours = tuple(sorted(where.values(), reverse=True))
        same = ours == tuple(sorted(claim.placed, reverse=True))
        return replace(open_verdict, status="reproduced" if same else "not-reproduced", ours=ours)

    # --- orderings

    def _evidence(self, methods: Sequence[str], on: str | None) -> Evidence:
        if self.evidence is not None:
            return self.evidence
        if on is not None:
            raise Unchecked(f"no records given of device {on}")
        for method in methods:
            info = self.resolved.method(method).data.info
            if info.missing:
                raise Unchecked(f"no records given, and its data is not here ({info.name})")
        raise Unchecked("no records given: run the suite and name its results folder")

    def _keys(self, method: str) -> set[str]:
        """Return the ``method_key`` of each configuration that a method of the suite has."""
        return {cell.method_key for cell in self.plan.cells if cell.method == method}

    def _ordering(self, claim: Ordering, open_verdict: Verdict) -> Verdict:
        if claim.column in STATIC:
            better, than = (
                self.counted.count(Figure(method, claim.column)) for method in (claim.better, claim.than)
            )
            compared = Difference(than - better, decided=True)
        else:
            methods = claim.better, claim.than
            compared = self._evidence(methods, claim.on).ordering(claim)
            others = [
                method
                for method, key in zip(methods, compared.keys, strict=True)
                if key not in self._keys(method)
            ]
            if others:
                why = f"{compared.why}; other configuration or version: {', '.join(others)}"
                compared = replace(compared, why=why)
        verdict = replace(
            open_verdict,
            ours=compared.difference,
            interval=compared.interval,
            compute=None if None in compared.compute else compared.compute,
            why=compared.why,
        )
        if claim.compute == "equal" and (unequal := _unequal(compared.compute)):
            return replace(verdict, why=f"{unequal}; {compared.why}")
        if not compared.decided:
            return replace(verdict, status="undecided")
        enough = compared.difference >= claim.by or math.isclose(compared.difference, claim.by)
        if compared.difference > 0 and enough:
            return replace(verdict, status="holds" if self._tried_elsewhere(claim) else "reproduced")
        return replace(verdict, status="opposite" if self._tried_elsewhere(claim) else "not-reproduced")

    def _tried_elsewhere(self, claim: Ordering) -> bool:
        """Return whether an ordering is tried on other data than the paper's. A count is the same on all data."""
        return bool(self.claims.scale) and claim.column not in STATIC


def _unequal(compute: tuple[float | None, float | None]) -> str:
    """Return why the training compute of two rows is not equal, or an empty text."""
    first, second = compute
    if first is None or second is None:
        return "not comparable at equal training compute: the records have no training compute"
    if abs(first - second) <= EQUAL_COMPUTE * max(first, second):
        return ""
    return f"not comparable at equal training compute: {first:.3g} against {second:.3g} PMACs"


def _compared(claim: Number | Ratio, ours: float, why: str, open_verdict: Verdict) -> Verdict:
    """Return the verdict on a printed number: first by its printed digits, then by the tolerance."""
    status: Status = "not-reproduced"
    reasons = [why]
    if claim.value.covers(ours):
        status = "reproduced"
    elif claim.tolerance is not None and claim.tolerance.covers(ours, claim.value.value):
        status = "within-tolerance"
        reasons.append(claim.because or "")
    if claim.fitted is not None and status != "not-reproduced":
        status = "reproduced-fitted"
        reasons.append(f"chosen to meet it: {claim.fitted}")
    return replace(open_verdict, status=status, ours=ours, why="; ".join(filter(None, reasons)))


def _open(name: str, claim: Claim) -> Verdict:
    """Return the verdict on a claim that is not checked yet, with the figures of the paper.

    If the claim has no words, they are made from its figure.
    """
    verdict = Verdict(
        claim=name,
        table=claim.table,
        status="not-checkable-here",
        says=claim.says or "",
        same_as=claim.same_as,
    )
    if isinstance(claim, Number | Ratio):
        return replace(
            verdict,
            says=claim.says
            or (_words_of_number(claim) if isinstance(claim, Number) else _words_of_ratio(claim)),
            published=claim.value.value,
            printed=str(claim.value),
            unit=_unit(claim),
            tolerance=str(claim.tolerance or ""),
        )
    if isinstance(claim, Ordering):
        unit = UNITS[claim.column]
        return replace(
            verdict,
            says=claim.says or f"{claim.better} better than {claim.than} in {claim.column}",
            published=claim.by or None,
            unit="points" if unit == "%" else unit,
        )
    if isinstance(claim, Placed):
        says = claim.says or f"parts of {claim.method} per device of {claim.fleet}"
        return replace(verdict, says=says, published=claim.placed)
    return verdict


def _words_of_number(claim: Number) -> str:
    what = claim.method if claim.part is None else f"{claim.method}, {claim.part}"
    return f"{what}: {claim.quantity}"


def _words_of_ratio(claim: Ratio) -> str:
    of, to = (
        ", ".join(methods) + ("" if part is None else f" ({part})")
        for methods, part in ((claim.of, claim.of_part), (claim.to, claim.to_part))
    )
    return f"{claim.form} of {of} to {to}: {claim.quantity}"


def _unit(claim: Number | Ratio) -> str:
    """Return the unit of the printed value."""
    if isinstance(claim, Number):
        return claim.unit or UNITS[claim.quantity]
    if claim.form == "difference":
        return "points" if UNITS[claim.quantity] == "%" else UNITS[claim.quantity]
    return "" if claim.form == "quotient" else "%"

"""What became of each claim of a paper: the modules that the plugins build, and the records of a run, against it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from harness.claims import ALL, BUT_FUSION, Claim, Claims, Number, Ordering, Placed, Statement
from harness.columns import COLUMNS
from harness.errors import SuiteError, nearest
from harness.evidence import Difference, Evidence, Unchecked
from harness.footprint import STATIC, Footprint, footprint, footprints
from harness.plan import Plan
from harness.resolve import ResolvedMethod, Resolver, Target
from harness.types import Sketch, TensorSpec

__all__ = ["STATUSES", "Judge", "Status", "Verdict"]

Status = Literal["reproduced", "not-reproduced", "not-checkable-here", "paper-contradicts-itself"]
STATUSES: tuple[Status, ...] = (
    "not-reproduced",
    "paper-contradicts-itself",
    "reproduced",
    "not-checkable-here",
)
"""In the order in which people see them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim and what became of it. ``published`` and ``ours`` are in ``unit``; ``None``: there is none.

    Of an ordering they are differences, how much better the one is than the other.
    """

    claim: str
    table: str
    says: str
    status: Status
    published: float | tuple[int, ...] | None = None
    ours: float | tuple[int, ...] | None = None
    unit: str = ""
    tolerance: str = ""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Judge:
    """Judges the claims of one suite; a module that several claims are about is built once.

    ``evidence`` are the records of a results folder; without it, what needs records is not checkable.
    """

    def __init__(self, claims: Claims, plan: Plan, resolver: Resolver, evidence: Evidence | None) -> None:
        self.claims = claims
        self.plan = plan
        self.resolver = resolver
        self.evidence = evidence
        self._known: dict[str, Footprint] = {}
        self._parts: dict[str, dict[str, Footprint | None]] = {}

    def verdicts(self) -> Iterator[Verdict]:
        """One per claim, in the order written.

        Raises:
            SuiteError: a claim names a part that its method has not.
        """
        for name, claim in self.claims.claims.items():
            verdict = self._verdict(name, claim)
            if claim.contradicted_by is not None:
                verdict = replace(
                    verdict, status="paper-contradicts-itself", why=f"against {claim.contradicted_by}"
                )
            yield verdict

    def _verdict(self, name: str, claim: Claim) -> Verdict:
        told = Verdict(claim=name, table=claim.table, says=claim.says, status="not-checkable-here")
        try:
            if isinstance(claim, Statement):
                return replace(told, why=f"needs {claim.needs}")
            if isinstance(claim, Ordering):
                return self._ordering(claim, told)
            if isinstance(claim, Placed):
                return self._placed(claim, told)
            return self._number(name, claim, told)
        except Unchecked as reason:
            return replace(told, why=str(reason), **_published(claim))

    # --- numbers ---

    def _number(self, name: str, claim: Number, told: Verdict) -> Verdict:
        why = ""
        if claim.quantity in STATIC:
            ours = self._static(claim.method, claim.quantity, claim.part or ALL, ("claims", name, "part"))
        else:
            ours, why = self._evidence(claim).number(
                claim,
                data=self.resolver.method(claim.method).data.info.name,
                keys={cell.method_key for cell in self.plan.cells if cell.method == claim.method},
            )
        near = claim.tolerance.covers(ours, claim.value)
        status: Status = "reproduced" if near else "not-reproduced"
        return replace(told, status=status, ours=ours, why=why, **_published(claim))

    def _static(self, method: str, quantity: str, part: str = ALL, place: tuple[str, ...] = ()) -> float:
        """A count of one part, or of several together; ``place`` is where the claim names the part."""
        resolved = self.resolver.method(method)
        made = self._footprints(method, resolved)
        allowed = [ALL] if resolved.partition is None else [*made, ALL, BUT_FUSION]
        if part not in allowed:
            where = self.claims.source.where(*place)
            raise SuiteError(f"{where}: {method} has no part {part!r}; {nearest(part, allowed)}")
        names = {ALL: list(made), BUT_FUSION: list(made)[:-1]}.get(part, [part])
        return sum(self._footprint(made, one).figure(quantity) for one in names)

    def _footprints(self, method: str, resolved: ResolvedMethod) -> dict[str, Footprint | None]:
        if method not in self._parts:
            self._need_installed(resolved)
            image = TensorSpec(shape=resolved.data.info.shape)
            if resolved.partition is None:
                spec = resolved.spec
                whole = None if spec is None else footprint(spec, (image,), self._known)
                self._parts[method] = {method: whole}
            else:
                sketch = self.resolver.sketch(method, resolved, self._any_target)
                self._parts[method] = footprints(sketch.parts, image, self._known)
        return self._parts[method]

    @staticmethod
    def _footprint(made: dict[str, Footprint | None], name: str) -> Footprint:
        found = made[name]
        if found is None:
            raise Unchecked(f"the plugin does not say what {name} is before it is trained")
        return found

    def _need_installed(self, resolved: ResolvedMethod) -> None:
        steps = [step for step, _, _ in resolved.links]
        if any(step.each_part for step in steps):
            raise Unchecked("its parts are compressed after the split: their modules are not known before")
        for step in steps:
            for package in step.entry.requires:
                if importlib.util.find_spec(package) is None:
                    raise Unchecked(
                        f"{package} is not installed: pip install 'edge-harness[{step.entry.extra}]'"
                    )

    @cached_property
    def _any_target(self) -> Target:
        suite = self.resolver.suite
        return self.resolver.target(suite.run[0].devices[0], suite.defaults.threads)

    # --- placements ---

    def _placed(self, claim: Placed, told: Verdict) -> Verdict:
        resolved = self.resolver.method(claim.method)
        if resolved.partition is None:
            raise Unchecked(f"{claim.method} is one whole model")
        target = self.resolver.target(claim.fleet, self.resolver.suite.defaults.threads)
        if target.unavailable:
            raise Unchecked(target.unavailable)
        made = self._footprints(claim.method, resolved)
        sketch = self.resolver.sketch(claim.method, resolved, target)
        counted = []
        for part in sketch.parts:  # the papers' devices are given in the papers' MACs
            counts = self._footprint(made, part.name).counts
            counted.append(replace(part, macs=counts.macs_linear, weight_bytes=counts.weight_bytes))
        try:
            ours = _parts_per_device(
                replace(sketch, parts=tuple(counted)), claim.method, self.resolver, target
            )
        except SuiteError as error:
            return replace(told, status="not-reproduced", why=str(error), **_published(claim))
        status: Status = (
            "reproduced" if ours == tuple(sorted(claim.placed, reverse=True)) else "not-reproduced"
        )
        return replace(told, status=status, ours=ours, **_published(claim))

    # --- records ---

    def _evidence(self, claim: Number | Ordering) -> Evidence:
        if self.evidence is not None:
            return self.evidence
        methods = [claim.method] if isinstance(claim, Number) else [claim.better, claim.than]
        if claim.on is not None:
            raise Unchecked(f"no records given of {claim.on}")
        for method in methods:
            info = self.resolver.method(method).data.info
            if info.missing:
                raise Unchecked(f"no records given, and its data is not here ({info.name})")
        raise Unchecked("no records given: run the suite and name its results folder")

    def _ordering(self, claim: Ordering, told: Verdict) -> Verdict:
        if claim.column in STATIC:
            figures = [self._static(method, claim.column) for method in (claim.better, claim.than)]
            found = Difference(figures[1] - figures[0], decided=True)
        else:
            found = self._evidence(claim).ordering(claim)
        verdict = replace(told, ours=found.difference, why=found.why, **_published(claim))
        if not found.decided:
            return verdict
        holds = found.difference > 0 and found.difference >= claim.by
        return replace(verdict, status="reproduced" if holds else "not-reproduced")


def _parts_per_device(sketch: Sketch, method: str, resolver: Resolver, target: Target) -> tuple[int, ...]:
    """Parts on each device, most first, the answering part aside; the central device only if it has some."""
    device_of = resolver.place(method, sketch, target).device_of
    placed = [device_of[part.name] for part in sketch.parts[:-1]]
    counts = {device: placed.count(device) for device in range(len(target.infos))}
    if not counts[target.central]:
        del counts[target.central]
    return tuple(sorted(counts.values(), reverse=True))


def _published(claim: Claim) -> dict[str, Any]:
    """What a verdict says of the paper's side, in words too where the claim has none."""
    if isinstance(claim, Number):
        what = claim.method if claim.part is None else f"{claim.method}, {claim.part}"
        column = COLUMNS.get(claim.quantity)
        unit = column.unit if column is not None else STATIC_UNITS[claim.quantity]
        return {
            "says": claim.says or f"{what}: {claim.quantity}",
            "published": claim.value,
            "unit": unit,
            "tolerance": str(claim.tolerance),
        }
    if isinstance(claim, Ordering):
        column = COLUMNS[claim.column]
        return {
            "says": claim.says or f"{claim.better} before {claim.than} in {claim.column}",
            "published": claim.by or None,
            "unit": "points" if column.unit == "%" else column.unit,
        }
    if isinstance(claim, Placed):
        return {
            "says": claim.says or f"parts of {claim.method} per device of {claim.fleet}",
            "published": claim.placed,
        }
    return {}


STATIC_UNITS = {"file_mib": "MiB", "payload_bytes": "B"}
"""Of the quantities that are no columns."""

"""Verdicts on the claims of a paper: compare each claim with modules that plugins build, and with records."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeVar

from harness.errors import CellError, SuiteError, nearest
from harness.extras import install_command
from harness.plan.planner import Planned
from harness.plan.resolve import ResolvedMethod
from harness.plan.targets import Target
from harness.results.claims.claims import ALL, BUT_FUSION, Claim, Claims, Number, Ordering, Placed
from harness.results.claims.evidence import Difference, Evidence, Unchecked
from harness.train.counting.footprint import STATIC, Footprint, Modules
from harness.types import IMAGE, ModuleSpec, Sketch, TensorSpec
from harness.types.columns import COLUMNS
from harness.types.json import JsonObject

__all__ = ["STATUSES", "Judge", "Status", "Verdict"]

T = TypeVar("T")
Status = Literal["reproduced", "not-reproduced", "not-checkable-here", "paper-contradicts-itself"]
STATUSES: tuple[Status, ...] = (
    "not-reproduced",
    "paper-contradicts-itself",
    "reproduced",
    "not-checkable-here",
)
"""All statuses, in the order in which they are printed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one claim.

    ``published`` and ``ours`` are figures in ``unit``, or ``None``. For an ordering they are the difference by which
    one method is better than the other.
    """

    claim: str
    table: str
    status: Status
    says: str = ""
    published: float | tuple[int, ...] | None = None
    ours: float | tuple[int, ...] | None = None
    unit: str = ""
    tolerance: str = ""
    why: str = ""

    def to_json(self) -> JsonObject:
        """Return the verdict as JSON."""
        return asdict(self)


class Judge:
    """The judge of one suite's claims. A module that several claims are about is built once.

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
        self._built: dict[str, Footprint] = {}
        self._modules: dict[tuple[str, str | None], Modules] = {}
        for name, claim in claims.claims.items():
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
        open_verdict = _open(name, claim)
        try:
            if isinstance(claim, Number):
                return self._number(claim, open_verdict)
            if isinstance(claim, Ordering):
                return self._ordering(claim, open_verdict)
            if isinstance(claim, Placed):
                return self._placed(claim, open_verdict)
        except Unchecked as reason:
            return replace(open_verdict, why=str(reason))
        return replace(open_verdict, why=f"needs {claim.needs}")

    def _check(self, name: str, claim: Claim) -> None:
        if not isinstance(claim, Placed) and (not isinstance(claim, Number) or claim.part is None):
            return
        sketch = self._sketch(claim.method)
        if isinstance(claim, Placed):
            if sketch is None:
                where = self.claims.source.where("claims", name, "method")
                raise SuiteError(
                    f"{where}: {claim.method} is not a split model; only a split model is placed"
                )
            return
        allowed = [ALL] if sketch is None else [*(part.name for part in sketch.parts), ALL, BUT_FUSION]
        if claim.part not in allowed:
            where = self.claims.source.where("claims", name, "part")
            raise SuiteError(f"{where}: no part {claim.part!r}; {nearest(str(claim.part), allowed)}")

    # --- numbers ---

    def _number(self, claim: Number, open_verdict: Verdict) -> Verdict:
        if claim.quantity in STATIC:
            ours, why = self._count(claim.method, claim.quantity, claim.part or ALL), ""
        else:
            ours, why = self._evidence(claim).number(
                claim,
                data=self.resolved.method(claim.method).data.info.name,
                keys={cell.method_key for cell in self.plan.cells if cell.method == claim.method},
            )
        near = claim.tolerance.covers(ours, claim.value)
        return replace(open_verdict, status="reproduced" if near else "not-reproduced", ours=ours, why=why)

    def _count(self, method: str, quantity: str, part: str = ALL) -> float:
        """Return a quantity of one part, or of several together."""
        names = self._parts(method).names
        chosen = {ALL: names, BUT_FUSION: names[:-1]}.get(part, [part])
        return sum(
            self._figure(method, name, lambda footprint: footprint.figure(quantity)) for name in chosen
        )

    def _figure(
        self, method: str, part: str, figure: Callable[[Footprint], T], target: Target | None = None
    ) -> T:
        """Return a figure of the module of a part.

        Raises:
            Unchecked: the module is not known before training, or does not run without data.
        """
        try:
            footprint = self._parts(method, target).get(part)
            if footprint is not None:
                return figure(footprint)
        except (CellError, RuntimeError, NotImplementedError) as error:
            raise Unchecked(f"{part} cannot be counted before it is trained: {error}") from None
        raise Unchecked(f"the plugin does not say what {part} is before it is trained")

    def _parts(self, method: str, target: Target | None = None) -> Modules:
        key = method, None if target is None else target.name
        if key not in self._modules:
            resolved = self.resolved.method(method)
            self._need_installed(resolved)
            sketch = self._sketch(method, target)
            parts: list[tuple[str, ModuleSpec | None, tuple[str, ...]]] = [(method, resolved.spec, (IMAGE,))]
            if sketch is not None:
                parts = [(part.name, part.spec, part.inputs) for part in sketch.parts]
            image = TensorSpec(shape=resolved.data.info.shape)
            self._modules[key] = Modules(parts, image, self._built)
        return self._modules[key]

    def _sketch(self, method: str, target: Target | None = None) -> Sketch | None:
        """Return the sketch of a method, or ``None`` for a whole model.

        It is made for ``target``, or else for the suite's first device.
        """
        resolved = self.resolved.method(method)
        if resolved.partition is None:
            return None
        suite = self.resolved.suite
        target = target or self.resolved.target(suite.run[0].devices[0], suite.defaults.threads)
        return self.resolved.sketch(method, resolved, target)

    @staticmethod
    def _need_installed(resolved: ResolvedMethod) -> None:
        steps = [link.step for link in resolved.links]
        if any(step.each_part for step in steps):
            raise Unchecked("its parts are compressed after the split, so their modules are not known before")
        for step in steps:
            entry = step.chosen.entry
            for package in entry.requires:
                if importlib.util.find_spec(package) is None:
                    raise Unchecked(f"{package} is not installed: {install_command(entry.extra)}")

    # --- placements ---

    def _placed(self, claim: Placed, open_verdict: Verdict) -> Verdict:
        target = self.resolved.target(claim.fleet, self.resolved.suite.defaults.threads)
        if target.unavailable:
            raise Unchecked(target.unavailable)
        sketch = self._sketch(claim.method, target)
        assert sketch is not None  # checked by ``_check``
        counted = []
        for part in sketch.parts:  # the suite gives the capacity of devices in the paper's MACs
            counts = self._figure(claim.method, part.name, lambda footprint: footprint.counts, target)
            counted.append(replace(part, macs=counts.macs_linear, weight_bytes=counts.weight_bytes))
        try:
            placement = self.resolved.place(claim.method, replace(sketch, parts=tuple(counted)), target)
        except SuiteError as error:
            return replace(open_verdict, status="not-reproduced", why=str(error))
        where = Counter({device: 0 for device in range(len(target.infos)) if device != target.central})
        where.update(placement.device_of[part.name] for part in sketch.parts[:-1])
        ours = tuple(sorted(where.values(), reverse=True))
        same = ours == tuple(sorted(claim.placed, reverse=True))
        return replace(open_verdict, status="reproduced" if same else "not-reproduced", ours=ours)

    # --- records ---

    def _evidence(self, claim: Number | Ordering) -> Evidence:
        if self.evidence is not None:
            return self.evidence
        if claim.on is not None:
            raise Unchecked(f"no records given of {claim.on}")
        for method in [claim.method] if isinstance(claim, Number) else [claim.better, claim.than]:
            info = self.resolved.method(method).data.info
            if info.missing:
                raise Unchecked(f"no records given, and its data is not here ({info.name})")
        raise Unchecked("no records given: run the suite and name its results folder")

    def _ordering(self, claim: Ordering, open_verdict: Verdict) -> Verdict:
        if claim.column in STATIC:
            better, than = (self._count(method, claim.column) for method in (claim.better, claim.than))
            compared = Difference(than - better, decided=True)
        else:
            compared = self._evidence(claim).ordering(claim)
        verdict = replace(open_verdict, ours=compared.difference, why=compared.why)
        if not compared.decided:
            return verdict
        enough = compared.difference >= claim.by or math.isclose(compared.difference, claim.by)
        holds = compared.difference > 0 and enough
        return replace(verdict, status="reproduced" if holds else "not-reproduced")


def _open(name: str, claim: Claim) -> Verdict:
    """Return the verdict on a claim that is not checked yet, with the figures of the paper.

    If the claim has no words, they are made from its figure.
    """
    verdict = Verdict(claim=name, table=claim.table, status="not-checkable-here", says=claim.says or "")
    if isinstance(claim, Number):
        what = claim.method if claim.part is None else f"{claim.method}, {claim.part}"
        column = COLUMNS.get(claim.quantity)
        return replace(
            verdict,
            says=claim.says or f"{what}: {claim.quantity}",
            published=claim.value,
            unit=column.unit if column is not None else STATIC_UNITS[claim.quantity],
            tolerance=str(claim.tolerance),
        )
    if isinstance(claim, Ordering):
        column = COLUMNS[claim.column]
        return replace(
            verdict,
            says=claim.says or f"{claim.better} before {claim.than} in {claim.column}",
            published=claim.by or None,
            unit="points" if column.unit == "%" else column.unit,
        )
    if isinstance(claim, Placed):
        says = claim.says or f"parts of {claim.method} per device of {claim.fleet}"
        return replace(verdict, says=says, published=claim.placed)
    return verdict


STATIC_UNITS = {"file_mib": "MiB", "payload_bytes": "B"}
"""Units of the quantities that are not columns."""

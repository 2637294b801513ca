"""Claims of a paper as data: a file beside a suite, with the statements of the paper's tables.

``suites/papers/edvit.yaml`` has its claims in ``suites/papers/edvit.claims.yaml``. Module
:mod:`harness.results.claims.verdicts` gives a verdict on each claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harness.errors import SuiteError, nearest
from harness.suite.suite import Suite
from harness.suite.validate import validated
from harness.suite.yamlfile import Source, YamlBlock, read_yaml
from harness.train.counting.footprint import STATIC
from harness.types import Params
from harness.types.column_names import column_named, near_columns
from harness.types.columns import COLUMNS
from harness.types.fields import NAME

__all__ = [
    "ALL",
    "BUT_FUSION",
    "Claim",
    "Claims",
    "Number",
    "Ordering",
    "Placed",
    "Statement",
    "Tolerance",
    "load_claims",
]

ALL, BUT_FUSION = "all", "all-but-fusion"
RECORDED = [name for name, column in COLUMNS.items() if column.kind == "number" and column.better]
"""Columns of a leaderboard that a claim may name."""


@dataclass(frozen=True)
class Tolerance:
    """The allowed difference from the paper's value: a share of that value, or an absolute difference."""

    amount: float
    relative: bool

    def covers(self, ours: float, published: float) -> bool:
        """Return whether ``ours`` is within the tolerance of ``published``."""
        limit = self.amount * abs(published) if self.relative else self.amount
        rounding = 1e-9 * max(limit, abs(published))  # rounding of floats never decides
        return abs(ours - published) <= limit + rounding

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


def _tolerance(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        return Tolerance(float(match[1]) / 100, relative=True)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return Tolerance(float(value), relative=False)
    if isinstance(value, Tolerance):
        return value
    raise ValueError(f"{value!r} is no tolerance; write 1% of the paper's value, or a number in its unit")


def _quantity(value: str) -> str:
    """Return the column that a heading names; other values as they are."""
    return value if value in STATIC else column_named(value) or value


Within = Annotated[Any, BeforeValidator(_tolerance)]
Quantity = Annotated[str, AfterValidator(_quantity)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Claim(Params):
    """The keys of every claim."""

    table: str = Field(min_length=1, description="place in the paper: Table 5, Section 5.2, Abstract")
    says: str = Field("", description="the claim in words")
    contradicted_by: str | None = Field(
        None, min_length=1, description="place in the paper that contradicts the claim"
    )


class Number(_Claim):
    """A claim that a method has a certain value of a quantity, for one part or for several parts together."""

    method: str
    quantity: Quantity = Field(description="a count of the module, or a column of the leaderboard")
    value: Finite = Field(description="the paper's number, in the quantity's unit")
    tolerance: Within = Field(
        None, description="accepted difference: 1% of the value, or an absolute difference"
    )
    part: str | None = Field(
        None,
        description="of a split model: a part's name, all (as without part), or all-but-fusion (the part that answers)",
    )
    on: str | None = Field(
        None, min_length=1, description="words of the device's model: the paper's hardware"
    )

    @model_validator(mode="after")
    def _known(self) -> Number:
        known = {*STATIC, *RECORDED}
        if self.quantity not in known:
            raise ValueError(f"no quantity {self.quantity!r}; {nearest(self.quantity, known)}")
        if self.quantity not in STATIC and self.part is not None:
            raise ValueError(
                f"part: records have no {self.quantity} of parts; allowed with {', '.join(STATIC)}"
            )
        if self.quantity in STATIC and self.on is not None:
            raise ValueError(f"on: {self.quantity} is the same on all hardware")
        return self


class Ordering(_Claim):
    """A claim that one method is better than another in a column."""

    better: str = Field(description="the method that the paper ranks higher")
    than: str
    column: Quantity = Field("top1", description="a column of the leaderboard")
    by: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="least difference, in the unit of the column"
    )
    on: str | None = Field(
        None, min_length=1, description="words of the device's model: the paper's hardware"
    )

    @model_validator(mode="after")
    def _known(self) -> Ordering:
        if self.column not in RECORDED:
            raise ValueError(f"no column {self.column!r}; {near_columns(self.column, RECORDED)}")
        if self.column in STATIC and self.on is not None:
            raise ValueError(f"on: {self.column} is the same on all hardware")
        if self.better == self.than:
            raise ValueError(f"than: {self.than!r} cannot be better than itself")
        return self


class Placed(_Claim):
    """A claim that the method's placer puts a certain number of parts on each device of a fleet.

    The part that gives the answer is not counted. Equal devices may be exchanged. MACs are counted as
    ``macs_linear_g``.
    """

    method: str
    fleet: str = Field(description="a fleet of the suite")
    placed: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1,
        description="number of parts per device; the central device is listed only if it has parts",
    )


class Statement(_Claim):
    """A claim that cannot be written as a number or an ordering. It is printed and not checked."""

    says: str = Field(min_length=1)
    needs: str | None = Field(None, min_length=1, description="what a check would need")

    @model_validator(mode="after")
    def _why(self) -> Statement:
        if (self.needs is None) == (self.contradicted_by is None):
            raise ValueError(
                "needs one of needs: or contradicted_by:, or a value:, better: or placed: to check"
            )
        return self


Claim: TypeAlias = Number | Ordering | Placed | Statement
KINDS: dict[str, type[Claim]] = {"value": Number, "better": Ordering, "placed": Placed}
"""The key that determines the kind of a claim. A statement has none of these keys."""


class _File(Params):
    paper: str = Field(min_length=1)
    tolerance: Within = Field(None, description="tolerance of the numbers that give none")
    claims: Mapping[Annotated[str, Field(pattern=NAME, max_length=80)], Any] = Field(min_length=1)


@dataclass(frozen=True)
class Claims:
    """The claims of a file, checked against its suite: ``claims`` by name, in the order of the file."""

    paper: str
    claims: Mapping[str, Claim]
    source: Source


def load_claims(path: Path, suite: Suite) -> Claims:
    """Read the claims file beside the suite at ``path``.

    Raises:
        SuiteError: there is no such file, or a claim is wrong. The message has file:line and what is allowed.
    """
    beside = path.with_suffix(".claims.yaml")
    if not beside.is_file():
        raise SuiteError(f"{path}: has no claims: there is no {beside.name} beside it")
    tree, source = read_yaml(beside)
    file = validated(_File, tree, source, ())
    claims = {name: _claim(name, content, file, source) for name, content in file.claims.items()}
    for name, claim in claims.items():
        _check(name, claim, suite, source)
    return Claims(file.paper, claims, source)


def _claim(name: str, content: Any, file: _File, source: Source) -> Claim:
    kind: type[Claim] = Statement
    if isinstance(content, Mapping):
        kind = next((kind for key, kind in KINDS.items() if key in content), _likely(content))
    claim = validated(kind, content, source, ("claims", name))
    if isinstance(claim, Number) and claim.tolerance is None:
        if file.tolerance is None:
            raise SuiteError(
                f"{source.where('claims', name)}: tolerance: missing, and the file has none for all"
            )
        claim = claim.model_copy(update={"tolerance": file.tolerance})
    return claim


def _likely(content: YamlBlock) -> type[Claim]:
    """Return the most likely kind of a claim without the key that determines the kind.

    It is chosen by another key. The error message can then name the missing key.
    """
    telling: dict[str, type[Claim]] = {"quantity": Number, "than": Ordering, "fleet": Placed}
    return next((kind for key, kind in telling.items() if key in content), Statement)


def _check(name: str, claim: Claim, suite: Suite, source: Source) -> None:
    """Check that the methods and fleets of a claim are in the suite.

    Raises:
        SuiteError: a name is not in the suite.
    """
    for key in ("method", "better", "than"):
        method = getattr(claim, key, None)
        if method is not None and method not in suite.methods:
            where = source.where("claims", name, key)
            raise SuiteError(f"{where}: no method {method!r} in the suite; {nearest(method, suite.methods)}")
    if isinstance(claim, Placed):
        fleets = [known for known, device in suite.devices.items() if device.fleet is not None]
        if claim.fleet not in fleets:
            where = source.where("claims", name, "fleet")
            raise SuiteError(
                f"{where}: no fleet {claim.fleet!r} in the suite; {nearest(claim.fleet, fleets)}"
            )

"""The kinds of claims of a paper, as the keys of its claims file give them.

Module :mod:`harness.results.claims.load` reads the file. Module :mod:`harness.results.claims.verdicts` gives a
verdict on each claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harness.errors import nearest
from harness.results.claims.printed import Value, Within
from harness.train.counting.footprint import STATIC
from harness.types import Params
from harness.types.column_names import column_named, near_columns
from harness.types.columns import COLUMNS
from harness.types.fields import NAME

__all__ = [
    "ALL",
    "BUT_FUSION",
    "RECORDED",
    "UNITS",
    "Claim",
    "Figure",
    "Number",
    "Ordering",
    "Placed",
    "Ratio",
    "Statement",
]

ALL, BUT_FUSION = "all", "all-but-fusion"
RECORDED = [name for name, column in COLUMNS.items() if column.kind == "number" and column.better]
"""Columns of a leaderboard that a claim may name."""

_STATIC_UNITS = {"file_mib": "MiB", "payload_bytes": "B"}
UNITS: dict[str, str] = {
    **{name: COLUMNS[name].unit for name in RECORDED},
    **{name: _STATIC_UNITS.get(name) or COLUMNS[name].unit for name in STATIC},
}
"""Unit of each quantity that a claim may be about."""

LARGER = {"ms": ("s", 1000.0), "MiB": ("GiB", 1024.0), "MB": ("GB", 1000.0), "mJ": ("J", 1000.0)}
"""Unit of a quantity -> the larger unit in which a paper may print it, and how many of the first one it is."""


def _quantity(value: str) -> str:
    """Return the column that a heading names; other values as they are."""
    return value if value in STATIC else column_named(value) or value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Quantity = Annotated[str, AfterValidator(_quantity)]
On = Annotated[
    str | None, Field(min_length=1, description="words of the device's model: the paper's hardware")
]
Methods = Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1, max_length=100)]


@dataclass(frozen=True)
class Figure:
    """What a number is of: a quantity of a method, of a part of it, on hardware whose model has the words ``on``."""

    method: str
    quantity: str
    part: str = ALL
    on: str | None = None


def _check_quantity(quantity: str, parts: Sequence[str | None], on: str | None) -> None:
    """Check that a quantity is known, and that parts and hardware make sense for it.

    Raises:
        ValueError: they do not.
    """
    known = {*STATIC, *RECORDED}
    if quantity not in known:
        raise ValueError(f"no quantity {quantity!r}; {nearest(quantity, known)}")
    if quantity not in STATIC and any(part is not None for part in parts):
        raise ValueError(f"part: records have no {quantity} of parts; allowed with {', '.join(STATIC)}")
    if quantity in STATIC and on is not None:
        raise ValueError(f"on: {quantity} is the same on all hardware")


class _Claim(Params):
    """The keys of every claim."""

    table: str = Field(min_length=1, description="place in the paper: Table 5, Section 5.2, Abstract")
    says: str = Field("", description="the claim in words")
    contradicted_by: str | None = Field(
        None, min_length=1, description="place in the paper that contradicts the claim"
    )
    same_as: str | None = Field(
        None,
        pattern=NAME,
        max_length=80,
        description="the claim of this file about the same printed figure. It is counted, this one is not",
    )


class _Printed(_Claim):
    """The keys of a claim with a printed number."""

    value: Value = Field(
        description="the paper's number with the digits that it prints, in the quantity's unit"
    )
    tolerance: Within | None = Field(
        None, description="accepted difference beyond the printed digits: 1% of the value, or an absolute one"
    )
    because: str | None = Field(None, min_length=1, description="the reason for the tolerance")
    fitted: str | None = Field(
        None, min_length=1, description="what was chosen in our configuration so that the value is met"
    )

    @model_validator(mode="after")
    def _reason(self) -> _Printed:
        if self.tolerance is not None and self.because is None:
            raise ValueError("tolerance: needs because:, the reason why the printed digit is not compared")
        if self.tolerance is None and self.because is not None:
            raise ValueError("because: is the reason for a tolerance:, and there is none")
        return self


class Number(_Printed):
    """A claim that a method has a certain value of a quantity, for one part or for several parts together."""

    method: str
    quantity: Quantity = Field(description="a count of the module, or a column of the leaderboard")
    unit: str | None = Field(
        None, description="the unit in which the value is printed, if larger: GiB, GB, s, J"
    )
    part: str | None = Field(
        None,
        description="of a split model: a part's name, all (as without part), or all-but-fusion (the part that answers)",
    )
    on: On = None

    @model_validator(mode="after")
    def _known(self) -> Number:
        _check_quantity(self.quantity, [self.part], self.on)
        unit, _ = LARGER.get(UNITS[self.quantity], (UNITS[self.quantity], 1.0))
        if self.unit not in (None, unit, UNITS[self.quantity]):
            allowed = " or ".join(dict.fromkeys((UNITS[self.quantity], unit)))
            raise ValueError(f"unit: {self.unit!r} is no unit of {self.quantity}; allowed: {allowed}")
        return self

    @property
    def figure(self) -> Figure:
        """Return what the number is of."""
        return Figure(self.method, self.quantity, self.part or ALL, self.on)

    @property
    def divisor(self) -> float:
        """Return how many units of the quantity are one unit of the printed value."""
        return 1.0 if self.unit in (None, UNITS[self.quantity]) else LARGER[UNITS[self.quantity]][1]


class Ratio(_Printed):
    """A claim about two figures of one quantity. With lists of methods, it is about the mean over the pairs."""

    of: Methods = Field(description="the method whose figure is compared, or a list of methods")
    to: Methods = Field(description="the method to which it is compared, or a list of as many methods")
    quantity: Quantity = Field(description="a count of the module, or a column of the leaderboard")
    form: Literal["quotient", "share", "saving", "difference"] = Field(
        "quotient",
        description="`quotient` of / to; `share` 100 of / to, in %; `saving` 100 (1 - of / to), in %; "
        "`difference` of - to, in the quantity's unit",
    )
    of_part: str | None = Field(None, description="part of `of`, as in a number")
    to_part: str | None = Field(None, description="part of `to`, as in a number")
    on: On = None

    @model_validator(mode="after")
    def _known(self) -> Ratio:
        _check_quantity(self.quantity, [self.of_part, self.to_part], self.on)
        if len(self.of) != len(self.to):
            raise ValueError(f"to: {len(self.to)} methods, but of: has {len(self.of)}")
        return self

    @property
    def pairs(self) -> list[tuple[Figure, Figure]]:
        """Return the pairs of figures that are compared."""
        return [
            (
                Figure(of, self.quantity, self.of_part or ALL, self.on),
                Figure(to, self.quantity, self.to_part or ALL, self.on),
            )
            for of, to in zip(self.of, self.to, strict=True)
        ]


class Ordering(_Claim):
    """A claim that one method is better than another in a column."""

    better: str = Field(description="the method that the paper ranks higher")
    than: str
    column: Quantity = Field("top1", description="a column of the leaderboard")
    by: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="least difference, in the unit of the column"
    )
    compute: Literal["equal"] | None = Field(
        None, description="`equal`: the claim is about rows whose training compute differs by at most 10%"
    )
    on: On = None

    @model_validator(mode="after")
    def _known(self) -> Ordering:
        if self.column not in RECORDED:
            raise ValueError(f"no column {self.column!r}; {near_columns(self.column, RECORDED)}")
        if self.column in STATIC and self.on is not None:
            raise ValueError(f"on: {self.column} is the same on all hardware")
        if self.column in STATIC and self.compute is not None:
            raise ValueError(f"compute: {self.column} does not depend on the training")
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


Claim: TypeAlias = Number | Ratio | Ordering | Placed | Statement

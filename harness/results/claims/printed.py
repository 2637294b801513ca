"""Figures as a paper prints them, and the differences that a claim accepts beyond the printed digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from harness.types import Params

__all__ = ["Accepted", "Printed", "Tolerance", "Value", "Within"]

_NUMBER = re.compile(r"[+-]?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?", re.ASCII)
_ROUNDING = 1e-9
"""Share of a figure within which the rounding of floats decides nothing."""


@dataclass(frozen=True)
class Printed:
    """A number of a paper: ``text`` as printed. ``9.63e3`` has three printed digits, ``9630`` has four."""

    text: str

    @property
    def value(self) -> float:
        """Return the number."""
        return float(self.text)

    @property
    def half_unit(self) -> float:
        """Return half a unit of the last printed digit."""
        exponent = Decimal(self.text).as_tuple().exponent
        assert isinstance(exponent, int)  # a number, neither NaN nor infinite
        return 0.5 * float(f"1e{exponent}")

    def covers(self, ours: float) -> bool:
        """Return whether ``ours``, rounded to the printed digits, is the printed number.

        A figure exactly between two printed numbers agrees with both, because papers round such figures either way.
        """
        slack = _ROUNDING * max(abs(self.value), abs(ours))
        return abs(ours - self.value) <= self.half_unit + slack

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Tolerance:
    """The accepted difference from the paper's value: a share of that value, or an absolute difference."""

    amount: float
    relative: bool

    def covers(self, ours: float, published: float) -> bool:
        """Return whether ``ours`` is within the tolerance of ``published``."""
        limit = self.amount * abs(published) if self.relative else self.amount
        return abs(ours - published) <= limit + _ROUNDING * max(limit, abs(published))

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


def _tolerance(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        if float(match[1]) >= 100:
            raise ValueError(f"{value.strip():.80}: every figure down to 0 would agree; write less than 100%")
        return Tolerance(float(match[1]) / 100, relative=True)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return Tolerance(float(value), relative=False)
    if isinstance(value, Tolerance):
        return value
    raise ValueError(f"{value!r} is no tolerance; write 1% of the paper's value, or a number in its unit")


def _printed(value: object) -> object:
    if isinstance(value, Printed):
        return value
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r} is no printed number; write its digits as the paper does, such as 1.20")
    return Printed(text)


def _finite(value: Printed) -> Printed:
    if abs(value.value) == float("inf"):
        raise ValueError(f"{value.text!r} is too large")
    return value


Value = Annotated[Printed, BeforeValidator(_printed), AfterValidator(_finite)]
"""A key of a claim: the number that the paper prints."""

Within = Annotated[Tolerance, BeforeValidator(_tolerance)]
"""A key of a claim: the accepted difference."""


class Accepted(Params):
    """An accepted difference beyond the printed digits, and the reason for it."""

    tolerance: Within = Field(description="accepted difference: 1% of the value, or an absolute difference")
    because: str = Field(min_length=1, description="why the printed digit is not what is compared")

"""Ratios of two figures: the value of a claim, and what the paper's own printed figures give for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal

from harness.results.claims.claims import Claim, Figure, Number, Ratio

__all__ = ["printed_range", "ratio"]

Form = Literal["quotient", "share", "saving", "difference"]


def ratio(form: Form, pairs: Sequence[tuple[float, float]]) -> float:
    """Return the mean over ``pairs`` (of, to) of what ``form`` says of them.

    Raises:
        ZeroDivisionError: a figure that is divided by is zero.
    """
    return fmean(_value(form, of, to) for of, to in pairs)


def _value(form: Form, of: float, to: float) -> float:
    if form == "difference":
        return of - to
    quotient = of / to
    return {"quotient": quotient, "share": 100 * quotient, "saving": 100 * (1 - quotient)}[form]


def printed_range(claim: Ratio, claims: Mapping[str, Claim]) -> tuple[float, float, float] | None:
    """Return what the paper's printed figures give for a ratio, with the least and the greatest value.

    Each printed figure stands for all numbers that round to it. The range is therefore wider than the rounding of the
    ratio itself.

    Returns:
        (value, least, greatest), or None if ``claims`` has no number for a figure, or if a divisor may be zero.
    """
    printed = _printed(claims.values())
    bounds: list[tuple[tuple[float, float], list[float]]] = []
    for pair in claim.pairs:
        if any(figure not in printed for figure in pair):
            return None
        (of, of_half), (to, to_half) = (printed[figure] for figure in pair)
        if claim.form != "difference" and abs(to) <= to_half:
            return None
        corners = [
            _value(claim.form, of + i * of_half, to + j * to_half) for i in (-1, 1) for j in (-1, 1)
        ]  # each form is monotone in both figures
        bounds.append(((of, to), corners))
    values = ratio(claim.form, [pair for pair, _ in bounds])
    return values, fmean(min(corners) for _, corners in bounds), fmean(max(corners) for _, corners in bounds)


def _printed(claims: Iterable[Claim]) -> dict[Figure, tuple[float, float]]:
    """Return each figure's printed value and half a unit of its last digit, in the unit of the quantity.

    If the paper prints a figure several times, the first one counts that no other place of the paper contradicts.
    """
    printed: dict[Figure, tuple[float, float]] = {}
    numbers = [claim for claim in claims if isinstance(claim, Number)]
    for claim in sorted(numbers, key=lambda number: number.contradicted_by is not None):
        factor = claim.divisor
        printed.setdefault(claim.figure, (factor * claim.value.value, factor * claim.value.half_unit))
    return printed

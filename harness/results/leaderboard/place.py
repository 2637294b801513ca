"""Where a record is found: rows of several folders or of several runs are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.types.record import Record

__all__ = ["NOWHERE", "Place", "PlaceOf"]


@dataclass(frozen=True)
class Place:
    """``folder``: the results folder as a person named it, or ``None``. ``run``: whether its last run has the cell."""

    folder: str | None = None
    run: Literal["last", "earlier"] = "last"


NOWHERE = Place()
"""The place of records that are not from named folders."""

PlaceOf: TypeAlias = Callable[[Record], Place]
"""Returns the place of a record."""

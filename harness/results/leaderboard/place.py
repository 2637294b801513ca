"""Where a record is found: rows of several folders or of several runs are kept apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.results.summary import Summary
from harness.types.record import Record

__all__ = ["NOWHERE", "Place", "PlaceOf", "short_names"]


@dataclass(frozen=True)
class Place:
    """``folder``: the results folder as a person named it, or ``None``. ``run``: whether its last run has the cell."""

    folder: str | None = None
    run: Literal["last", "earlier"] = "last"


def short_names(folders: Iterable[str]) -> dict[str, str]:
    """Return for each folder its name without the parts of the path that all of them begin and end with."""
    parts = {folder: folder.split("/") for folder in dict.fromkeys(folders)}
    for end in (0, -1):
        while len({tuple(own[end:][:1]) for own in parts.values()}) == 1 and all(
            len(own) > 1 for own in parts.values()
        ):
            for own in parts.values():
                own.pop(end)
    return {folder: "/".join(own) or folder for folder, own in parts.items()}


NOWHERE = Place()
"""The place of records that are not from named folders."""

PlaceOf: TypeAlias = Callable[[Record | Summary], Place]
"""Returns the place of a record."""

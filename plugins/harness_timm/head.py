"""The rows of a pretrained head that answer for the classes of a data set: matched by name or declared, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import nearest

__all__ = ["Head", "declared_head", "head_in_order", "matched_head"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The row of the weights' head for each class of the data, or None if the head is new. ``text`` says why."""

    rows: tuple[int, ...] | None
    text: str


def matched_head(classes: Sequence[str], data: str, namings: Sequence[Sequence[str]]) -> Head:
    """Match the ``classes`` of the data set ``data`` with the weights' rows by name.

    ``namings`` are the names that the weights state, each a list in the order of the rows (WordNet identifiers,
    descriptions). One naming must give every class a row of its own. Case and underscores do not matter.
    """
    if not namings:
        return Head(rows=None, text="new: the weights do not name their classes")
    reasons = []
    wanted = [_plain(name) for name in classes]
    for names in namings:
        if wanted == [_plain(name) for name in names]:  # even if two classes share a name
            return Head(
                rows=tuple(range(len(names))), text=f"all {len(names)} classes of the weights, by name"
            )
        rows = _rows_of(names)
        found = [rows.get(name, ()) for name in wanted]
        absent = [name for name, places in zip(classes, found, strict=True) if not places]
        twice = [name for name, places in zip(classes, found, strict=True) if len(places) > 1]
        chosen = [places[0] for places in found if places]
        if not absent and not twice and len(set(chosen)) == len(classes):
            return Head(
                rows=tuple(chosen), text=f"{len(classes)} of the weights' {len(names)} classes, by name"
            )
        why = f"{len(absent)} of {len(classes)} classes of {data} are not among the weights' {len(names)} ({_few(absent)})"
        if not absent:
            why = (
                f"the weights name several classes {_few(twice)}"
                if twice
                else f"classes of {data} share a name"
            )
        reasons.append((len(absent), why))
    return Head(rows=None, text=f"new: {min(reasons)[1]}")


def head_in_order(classes: int, data: str, rows: int) -> Head:
    """Return the head whose row i is class i of the data set.

    Raises:
        ValueError: the weights have another number of classes.
    """
    if rows != classes:
        raise ValueError(f"head: in-order: the weights have {rows} classes, {data} has {classes}")
    return Head(
        rows=tuple(range(rows)), text=f"the weights' {rows} classes, in the order of {data} as declared"
    )


def declared_head(
    declared: Mapping[str, str | int],
    classes: Sequence[str],
    data: str,
    rows: int,
    namings: Sequence[Sequence[str]],
) -> Head:
    """Return the head of a declared map: class of the data -> name or row of the weights' class.

    Raises:
        ValueError: a class of the data has no row, or an entry is unknown.
    """
    for name in declared:
        if name not in classes:
            raise ValueError(f"head: {data} has no class {name!r}; {nearest(name, classes)}")
    chosen = []
    for name in classes:
        if name not in declared:
            raise ValueError(f"head: class {name!r} of {data} has no class of the weights")
        chosen.append(_row(declared[name], rows, namings))
    if len(set(chosen)) < len(chosen):
        raise ValueError("head: two classes have the same row of the weights")
    return Head(
        rows=tuple(chosen), text=f"{len(classes)} of the weights' {rows} classes, by the declared map"
    )


def _row(wanted: str | int, rows: int, namings: Sequence[Sequence[str]]) -> int:
    if isinstance(wanted, int):
        if not 0 <= wanted < rows:
            raise ValueError(f"head: {wanted} is no row of the weights; allowed: 0 to {rows - 1}")
        return wanted
    for names in namings:
        places = _rows_of(names).get(_plain(wanted), ())
        if len(places) == 1:
            return places[0]
        if places:
            raise ValueError(f"head: the weights name {len(places)} classes {wanted!r}; give the row")
    if not namings:
        raise ValueError(f"head: the weights do not name their classes; give the row of {wanted!r}, a number")
    near = nearest(wanted, namings[0]).partition(" allowed: ")[0]
    raise ValueError(
        f"head: the weights have no class {wanted!r}" + (f"; {near}" if near.startswith("did") else "")
    )


def _rows_of(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    rows: dict[str, tuple[int, ...]] = {}
    for row, name in enumerate(names):
        rows[_plain(name)] = (*rows.get(_plain(name), ()), row)
    return rows


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:3])
    return f"{shown} ..." if len(names) > 3 else shown

"""Tables of encoded images: their columns, and their labels as numbers of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError, nearest
from harness_data.names import check_name, ordered, same_name, shown, some
from harness_data.pictures import PictureParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Classes",
    "ColumnParams",
    "IMAGE_COLUMNS",
    "LABEL_COLUMNS",
    "Labels",
    "column_note",
    "column_of",
    "count_notes",
    "labels_from",
]

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")
NO_LABEL = -1
"""What data sets on the hub have as the label of a picture whose label is not published."""


KINDS = {int: "whole numbers", str: "text", bool: "true and false"}
"""What labels are."""


class ColumnParams(PictureParams):
    """Parameters of data sets whose images are in a table."""

    image_column: str | None = Field(
        None, description="column of the images; default: img or image, the one that exists"
    )
    label_column: str | None = Field(
        None,
        description="column of the labels; default: the first that exists of label, labels, fine_label, coarse_label",
    )


def column_of(there: Sequence[str], asked: str | None, usual: Sequence[str], key: str, path: object) -> str:
    """Return the column ``asked``, or the first of ``usual`` that exists if none is asked for.

    Raises:
        SuiteError: there is no such column, or there are two of that name.
    """
    if asked is not None and asked not in there:
        raise SuiteError(f"{key}: {path} has no column {asked!r}; {nearest(asked, there)}")
    column = asked if asked is not None else next((name for name in usual if name in there), None)
    if column is None:
        raise SuiteError(
            f"{path}: no column {' or '.join(usual)} (columns: {', '.join(there)}); {key}: names another"
        )
    if there.count(column) > 1:
        raise SuiteError(f"{path}: {there.count(column)} columns are called {column!r}; rename all but one")
    return column


def column_note(there: Sequence[str], asked: str | None, usual: Sequence[str], column: str) -> str:
    """Return which of several usual columns is read; nothing if there is one, or if the suite names it."""
    others = [name for name in usual if name in there and name != column]
    return f"column {column!r} read, not {' or '.join(map(repr, others))}" if others and asked is None else ""


# --- labels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """The labels of one table as stored.

    ``where``: the table, for messages. ``values``: the different labels: whole numbers, texts or truth values.
    ``positions``: int64 [n], the position of each row's label in ``values``. ``names``: the classes that the table
    declares for the labels 0, 1, ..., or None.
    """

    where: object
    values: tuple[int | str | bool, ...]
    positions: NDArray[np.int64]
    names: tuple[str, ...] | None

    def row_of(self, position: int) -> int:
        """Return the first row that has the label at ``position`` in ``values``."""
        return int((self.positions == position).argmax())


def labels_from(where: object, column: Any, name: str, names: tuple[str, ...] | None) -> Labels:
    """Return the labels of a ``pyarrow.ChunkedArray`` of whole numbers, texts or truth values.

    Raises:
        SuiteError: a row has no label, or the column has another type.
    """

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    allowed = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean)
    if not any(is_kind(kind) for is_kind in allowed):
        raise SuiteError(
            f"{where}: column {name!r} is {kind}; labels are whole numbers or text, or true and false"
        )
    if column.null_count:
        raise SuiteError(
            f"{where}: row {pc.index(column.is_null(), True).as_py()} has no label (column {name!r})"
        )
    encoded = pc.dictionary_encode(column.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    values = tuple(encoded.dictionary.to_pylist())
    labels = Labels(where, values, np.asarray(encoded.indices, np.int64), names)
    for position, value in enumerate(values):
        if isinstance(value, str) and not value.strip():
            raise SuiteError(f"{where}: row {labels.row_of(position)} has an empty label (column {name!r})")
    return labels


@dataclass(frozen=True)
class Classes:
    """The classes of a data set. ``numbers``: stored label -> index of its class. ``declared``: who names them, if any."""

    names: tuple[str, ...]
    numbers: Mapping[int | str | bool, int]
    declared: object = None

    @classmethod
    def of(cls, train: Sequence[Labels], card: tuple[str, ...] | None = None) -> Classes:
        """Return the classes of a data set whose training tables have these labels.

        Their names are those that the first table declares that declares any, else those of ``card``. Without names,
        the classes are the different labels.

        Raises:
            SuiteError: there are fewer than two classes, or a label or name cannot be that of a class.
        """
        declared, names = next(
            ((labels.where, labels.names) for labels in train if labels.names), ("the data set's card", card)
        )
        if names:
            return cls(_checked(names, declared), {index: index for index in range(len(names))}, declared)
        where = train[0].where
        kinds = {type(labels.values[0]): labels.where for labels in train if labels.values}
        if len(kinds) > 1:
            places = " and ".join(f"{KINDS[kind]} in {place}" for kind, place in kinds.items())
            raise SuiteError(f"labels are {places}")
        for labels in train:
            if NO_LABEL in labels.values:
                row = labels.row_of(labels.values.index(NO_LABEL))
                raise SuiteError(
                    f"{labels.where}: row {row} has label {NO_LABEL}, which stands for no label; leave such rows out"
                )
        values = {value: None for labels in train for value in labels.values}
        texts = {_known_as(value): same_name(str(value)) for value in values}
        if all(isinstance(value, int) for value in values):
            known = [str(value) for value in sorted(values)]
        else:
            known = ordered(dict.fromkeys(texts.values()))
        if len(known) < 2:
            raise SuiteError(f"{where}: labels have {len(known)} different values; at least two are needed")
        index = {name: number for number, name in enumerate(_checked(known, where))}
        return cls(tuple(known), {value: index[text] for value, text in texts.items()})

    def of_table(self, labels: Labels) -> Classes:
        """Return the classes with the numbers that hold in one table: it may declare them in another order.

        Raises:
            SuiteError: it declares other classes.
        """
        if self.declared is None or not labels.names or labels.names == self.names:
            return self
        if sorted(labels.names) != sorted(self.names) or len(set(self.names)) < len(self.names):
            other = [name for name in labels.names if name not in self.names]
            lacking = [name for name in self.names if name not in labels.names]
            difference = (
                f"{some(map(repr, other or lacking))} only in {labels.where if other else self.declared}"
                if other or lacking
                else "names that occur twice, in another order"
            )
            raise SuiteError(f"{labels.where} and {self.declared} declare different classes: {difference}")
        return replace(self, numbers={old: self.names.index(name) for old, name in enumerate(labels.names)})

    def of_rows(self, labels: Labels) -> NDArray[np.int64]:
        """Return the class of each row of a table, int64 [n].

        Raises:
            SuiteError: a label is none of the classes.
        """

        import numpy as np

        numbers = self.of_table(labels).numbers
        truth = {type(known) is bool for known in numbers}
        values = [_known_as(value) for value in labels.values]
        for position, value in enumerate(values):
            if value not in numbers or {type(value) is bool} != truth:  # True equals 1 as a key
                names = ", ".join(map(shown, self.names[:10])) + (", ..." if len(self.names) > 10 else "")
                mark = "; -1 stands for no label" if value == NO_LABEL else ""
                raise SuiteError(
                    f"{labels.where}: row {labels.row_of(position)} has label {value!r}, "
                    f"which is none of the {len(self.names)} classes ({names}){mark}"
                )
        table = np.array([numbers[value] for value in values], np.int64)
        return table[labels.positions] if len(table) else np.zeros(0, np.int64)


def _known_as(value: int | str | bool) -> int | str | bool:
    """Return a label as classes are found by it: a text in one Unicode form."""
    return same_name(value) if isinstance(value, str) else value


def _checked(names: Sequence[str], where: object) -> tuple[str, ...]:
    for name in names:
        check_name(name, where)
    return tuple(names)


def count_notes(names: Sequence[str], numbers: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Return which classes have no pictures in a split, with their number. ``numbers``: split -> class of each row."""

    import numpy as np

    notes = []
    for split, words in (("train", "training"), ("test", "test")):
        counts = np.bincount(numbers[split], minlength=len(names))
        empty = [repr(names[index]) for index in np.flatnonzero(counts == 0).tolist()]
        if empty:
            notes.append(f"{len(empty):,} of {len(names):,} classes have no {words} pictures: {some(empty)}")
    return notes

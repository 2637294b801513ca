"""Tables of encoded images: columns, labels and class names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError, first_line, nearest
from harness_data.pictures import PictureParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ColumnParams",
    "IMAGE_COLUMNS",
    "LABEL_COLUMNS",
    "Layout",
    "classes_of",
    "column_of",
    "labels_of",
    "layout_of",
    "numbers_of",
    "opened",
]

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label")


class ColumnParams(PictureParams):
    """Parameters of data sets whose images are in a table."""

    image_column: str | None = Field(None, description="default: img or image, whichever is there")
    label_column: str | None = Field(
        None, description="default: label, labels, fine_label or coarse_label, the first that is there"
    )


@dataclass(frozen=True)
class Layout:
    """The columns of a file.

    ``image`` is the path of the bytes, such as ``img.bytes``. ``names`` are the names of a ClassLabel, or None if the
    file declares none.
    """

    image: str
    label: str
    names: tuple[str, ...] | None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield a ``pyarrow.parquet.ParquetFile``.

    Raises:
        SuiteError: pyarrow cannot read the file, here or in the body of the ``with`` statement.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise SuiteError(f"{path}: cannot be read as Parquet: {first_line(error)}") from None


def layout_of(file: Any, params: ColumnParams, path: Path) -> Layout:
    """Return the columns of a Parquet file that hold images and labels.

    Raises:
        SuiteError: a column is missing or has another type.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    image = column_of(schema.names, params.image_column, IMAGE_COLUMNS, "image_column", path)
    label = column_of(schema.names, params.label_column, LABEL_COLUMNS, "label_column", path)
    kind = schema.field(image).type
    inside = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    encoded = kind.field("bytes").type if inside else kind
    if not (pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)):
        raise SuiteError(f"{path}: column {image!r} is {kind}, not image bytes or a struct with 'bytes'")
    kind = schema.field(label).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise SuiteError(f"{path}: column {label!r} is {kind}; labels are whole numbers or text")
    names = _class_names(schema.metadata or {}, label)
    return Layout(f"{image}.bytes" if inside else image, label, names)


def column_of(there: Sequence[str], asked: str | None, usual: Sequence[str], key: str, path: object) -> str:
    """Return the column ``asked``, or the first of ``usual`` that exists if none is asked for.

    Raises:
        SuiteError: there is no such column.
    """
    if asked is not None:
        if asked not in there:
            raise SuiteError(f"{key}: {path} has no column {asked!r}; {nearest(asked, there)}")
        return asked
    column = next((name for name in usual if name in there), None)
    if column is None:
        raise SuiteError(
            f"{path}: no column {' or '.join(usual)} (columns: {', '.join(there)}); {key}: names another"
        )
    return column


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Return the class names that the hub's schema metadata declares for a column, or None."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def labels_of(path: Path, file: Any, column: str) -> NDArray[Any]:
    """Return the labels [n] as stored, int64 or str.

    Raises:
        SuiteError: a row has no label.
    """

    import numpy as np

    stored = file.read(columns=[column]).column(0)
    if stored.null_count:
        row = stored.is_null().index(True).as_py()
        raise SuiteError(f"{path}: row {row} has no label (column {column!r})")
    values = np.asarray(stored.to_pylist()) if len(stored) else np.zeros(0, np.int64)
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def classes_of(params: ColumnParams, train: Sequence[Path]) -> tuple[tuple[str, ...], NDArray[Any] | None]:
    """Return the class names, and the label values that they stand for.

    The values are ``None`` if the schema declares the names. Then labels are positions in the names.

    Raises:
        SuiteError: the labels have fewer than two values.
    """

    import numpy as np

    values = []
    for path in train:
        with opened(path) as file:
            layout = layout_of(file, params, path)
            if layout.names is not None:
                return layout.names, None
            values.append(labels_of(path, file, layout.label))
    known = np.unique(np.concatenate(values))
    if len(known) < 2:
        raise SuiteError(f"{train[0]}: labels have {len(known)} different values; at least two are needed")
    return tuple(str(value) for value in known), known


def numbers_of(
    path: object, values: NDArray[Any], names: tuple[str, ...], known: NDArray[Any] | None
) -> NDArray[np.int64]:
    """Return stored label values as class indices, int64 [n].

    Raises:
        SuiteError: a label is not one of the classes.
    """

    import numpy as np

    if known is None:
        known = np.arange(len(names))
    if known.dtype.kind == values.dtype.kind:
        numbers = np.minimum(np.searchsorted(known, values), len(known) - 1).astype(np.int64)
        wrong = np.flatnonzero(known[numbers] != values)
    else:
        numbers, wrong = np.zeros(len(values), np.int64), np.arange(len(values))
    if len(wrong):
        row = wrong[0]
        raise SuiteError(
            f"{path}: row {row} has label {values[row].item()!r}, which is none of the {len(names)} classes "
            f"({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
        )
    return numbers

"""Encoded images and labels in Parquet files, in the format of data sets on the Hugging Face hub.

The encoded images are held in memory and are decoded at each access.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data.names import name_notes, shown, some
from harness_data.pictures import absent, facts, looking_at, planned
from harness_data.pixels import decode
from harness_data.shards import Layout, find, layout_of, left_notes, opened
from harness_data.survey import Survey, channels_of, content_of, notes_of, survey_of
from harness_data.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Classes,
    ColumnParams,
    Labels,
    column_note,
    count_notes,
    labels_from,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Files", "ParquetImages", "ParquetParams", "describe", "describe_files", "load", "load_files"]

Files = Mapping[str, list[Path]]
"""The files of "train" and of "test", in order."""


class ParquetParams(ColumnParams):
    """The folder of the files, and patterns that choose the files of each split."""

    path: str = Field(min_length=1, description="folder of the files (relative to where the command runs)")
    train_files: str | None = Field(
        None, description="pattern inside the folder (default: train.parquet or train-*.parquet)"
    )
    test_files: str | None = Field(
        None, description="pattern inside the folder (default: test.parquet or test-*.parquet)"
    )


def describe(params: ParquetParams) -> DataInfo:
    """Return the facts of the files. If the folder is absent, return the facts that the suite gives, and ``missing``.

    Raises:
        SuiteError: a file is missing, corrupt, or of the wrong format.
    """
    with looking_at(params.path) as folder:
        missing = absent("pyarrow", "PIL")
        if missing is None and not folder.exists():
            missing = f"{folder}: not found; put train.parquet and test.parquet there, or change path"
        if missing is not None:
            return planned(params, name=folder.name, missing=missing)
        return describe_files(params, folder.resolve().name, _files(params, folder))


def load(params: ParquetParams, split: str) -> ParquetImages:
    """Return one split, "train" or "test".

    Raises:
        SuiteError: a file is missing or cannot be read.
    """
    with looking_at(params.path) as folder:
        return load_files(params, _files(params, folder), split)


def _files(params: ParquetParams, folder: Path) -> Files:
    return {
        "train": find(folder, "train", params.train_files, "train_files"),
        "test": find(folder, "test", params.test_files, "test_files"),
    }


# --- facts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    """The labels and layouts of all files. ``card``: class names that are declared outside the files."""

    files: Files
    layouts: Mapping[Path, Layout]
    labels: Mapping[Path, Labels]
    classes: Classes

    @classmethod
    def of(cls, params: ColumnParams, files: Files, card: tuple[str, ...] | None) -> _Tables:
        layouts, labels = {}, {}
        for path in [path for paths in files.values() for path in paths]:
            with opened(path) as file:
                layouts[path] = layout = layout_of(file, params, path)
                column = file.read(columns=[layout.label]).column(0)
                labels[path] = labels_from(path, column, layout.label, layout.names)
        first = files["train"][0]
        for path, layout in layouts.items():
            if layout.label != layouts[first].label:
                raise SuiteError(
                    f"{first}: labels are in column {layouts[first].label!r}, but in {path} in {layout.label!r}; "
                    "label_column: names one that all files have"
                )
        classes = Classes.of([labels[path] for path in files["train"]], card)
        return cls(files, layouts, labels, classes)

    def numbers(self, split: str) -> NDArray[np.int64]:
        """Return the class of each row of a split, int64 [n].

        Raises:
            SuiteError: the split has no rows, or a label is none of the classes.
        """

        import numpy as np

        numbers = np.concatenate([self.classes.of_rows(self.labels[path]) for path in self.files[split]])
        if not len(numbers):
            raise SuiteError(f"{self.files[split][0]}: no rows")
        return numbers

    def pictures(self, split: str) -> Iterator[tuple[str, bytes]]:
        """Yield where each picture of a split is, and its bytes.

        Raises:
            SuiteError: a row has none.
        """
        for path in self.files[split]:
            row, column = 0, self.layouts[path].image
            with opened(path) as file:
                for batch in file.iter_batches(batch_size=32, columns=[column]):
                    for picture in _bytes(batch.column(0)).to_pylist():
                        if picture is None:
                            raise SuiteError(f"{path}: row {row} has no image bytes (column {column!r})")
                        yield f"{path}: row {row}", picture
                        row += 1

    def survey(self) -> Survey:
        """Return what all pictures have in common."""
        paths = [path for split in ("train", "test") for path in self.files[split]]
        columns = [self.layouts[path].image for path in paths]
        division = [len(self.files["train"]), len(self.files["test"])]
        return survey_of(paths, ["parquet", columns, division], self.pictures, hashed=paths)


def describe_files(
    params: ColumnParams, name: str, files: Files, card: tuple[str, ...] | None = None
) -> DataInfo:
    """Return the facts of Parquet files that are here. All bytes are read once; while no file changes, that is remembered.

    ``card``: the class names that the data set declares outside its files.

    Raises:
        SuiteError: a file has no rows or cannot be read.
    """
    tables = _Tables.of(params, files, card)
    numbers = {split: tables.numbers(split) for split in ("train", "test")}
    pictures = tables.survey()
    for split, count in pictures.counts.items():
        if count != len(numbers[split]):
            labels = len(numbers[split])
            raise SuiteError(f"{files[split][0]}: damaged: {labels:,} labels, but {count:,} images")
    channels = params.shape[0] if params.shape else channels_of(pictures)
    where, first = next(tables.pictures("train"))
    height, width, _ = decode(first, channels, params.crop, where).shape
    columns = sorted({(layout.image, layout.label) for layout in tables.layouts.values()})
    trained = len(files["train"])
    hashes = {"train": pictures.files[:trained], "test": pictures.files[trained:]}
    reading = content_of(pictures, channels)
    content = {"columns": columns, **hashes, **({"reading": reading} if reading else {})}
    return facts(
        params,
        name=name,
        where=str(files["train"][0].parent),
        shape=(channels, height, width),
        class_names=tables.classes.names,
        sizes={split: len(classes) for split, classes in numbers.items()},
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        notes=(
            *notes_of(pictures, channels),
            *_column_notes(params, tables.layouts[files["train"][0]]),
            *(note for split in ("train", "test") for note in left_notes(files[split])),
            *_order_notes(tables),
            *count_notes(tables.classes.names, numbers),
            *name_notes(tables.classes.names),
        ),
    )


def _column_notes(params: ColumnParams, layout: Layout) -> list[str]:
    image = layout.image.removesuffix(".bytes")
    notes = [
        column_note(layout.columns, params.label_column, LABEL_COLUMNS, layout.label),
        column_note(layout.columns, params.image_column, IMAGE_COLUMNS, image),
    ]
    return [note for note in notes if note]


def _order_notes(tables: _Tables) -> list[str]:
    classes = tables.classes
    reordered = [path for path, labels in tables.labels.items() if classes.of_table(labels) is not classes]
    names = some(shown(path.name) for path in reordered)
    return [f"labels mapped by class name, as the order of names differs in {names}"] if reordered else []


def _bytes(column: Any) -> Any:
    """Return the binary values of an image column, which may be inside a struct."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


# --- images -------------------------------------------------------------------------------------


class ParquetImages:
    """The images of one split, encoded and in memory, one column per file."""

    def __init__(
        self, labels: NDArray[np.int64], columns: list[tuple[Path, Any]], channels: int, crop: str
    ) -> None:
        import numpy as np

        self.labels = labels
        self._columns = columns
        self._starts = np.cumsum([0, *(len(column) for _, column in columns)])
        self._channels = channels
        self._crop = crop

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decode and return the image as uint8 [height, width, channels]. Raises ``SuiteError`` if that fails."""
        import numpy as np

        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        path, column = self._columns[which]
        row = index - int(self._starts[which])
        return decode(column[row].as_py(), self._channels, self._crop, f"{path}: row {row}")

    def __len__(self) -> int:
        return len(self.labels)


def load_files(
    params: ColumnParams,
    files: Files,
    split: str,
    card: tuple[str, ...] | None = None,
    *,
    memory_bytes: int | None = None,
) -> ParquetImages:
    """Load one split of Parquet files; ``card`` as in :func:`describe_files`.

    ``memory_bytes``: the most that the encoded images may take (default: the memory of this machine).

    Raises:
        SuiteError: a row has no image, or a label that is not one of the classes, or the images do not fit.
    """
    tables = _Tables.of(params, files, card)
    pictures = tables.survey()
    channels = params.shape[0] if params.shape else channels_of(pictures)
    size = pictures.sizes[split]
    memory = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if memory_bytes is None else memory_bytes
    )
    if size > memory:
        raise SuiteError(
            f"{files[split][0].parent}: the images of the {split} split take {size / 1e9:,.1f} GB, "
            f"but this machine has {memory / 1e9:,.1f} GB of memory; use the data set imagefolder"
        )
    columns = []
    for path in files[split]:
        column = tables.layouts[path].image
        with opened(path) as file:
            images = _bytes(file.read(columns=[column]).column(0))
        if images.null_count:
            row = images.is_null().index(True).as_py()
            raise SuiteError(f"{path}: row {row} has no image bytes (column {column!r})")
        columns.append((path, images))
    return ParquetImages(tables.numbers(split), columns, channels, params.crop)

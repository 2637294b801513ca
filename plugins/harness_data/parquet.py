"""Encoded images and labels in Parquet files, in the format of data sets on the Hugging Face hub.

The encoded images are held in memory and are decoded at each access.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data.pictures import absent, codec, decode, facts, file_hash, looking_at, planned
from harness_data.tables import ColumnParams, classes_of, labels_of, layout_of, numbers_of, opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Files",
    "ParquetImages",
    "ParquetParams",
    "describe",
    "describe_files",
    "find",
    "load",
    "load_files",
]

Files = dict[str, list[Path]]
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


def find(folder: Path, stem: str, pattern: str | None, key: str) -> list[Path]:
    """Return the files of one split, sorted by name.

    ``pattern`` selects them if it is given, else STEM.parquet, else STEM-*.parquet. ``key`` names the parameter in
    messages.

    Raises:
        SuiteError: the folder or the files do not exist.
    """
    if not folder.is_dir():
        raise SuiteError(f"{folder}: not a folder" if folder.exists() else f"{folder}: not found")
    if pattern is not None and (Path(pattern).is_absolute() or ".." in Path(pattern).parts):
        raise SuiteError(f"{key}: {pattern!r} must be a pattern inside {folder}")
    tried = (pattern,) if pattern is not None else (f"{stem}.parquet", f"{stem}-*.parquet")
    for name in tried:
        files = sorted(path for path in folder.glob(name) if path.is_file())
        if files:
            return files
    there = sorted(path.name for path in folder.iterdir())
    listing = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    raise SuiteError(
        f"{folder}: no {' or '.join(tried)} there (there is: {listing or 'nothing'}); {key}: gives a pattern"
    )


# --- facts and images ---------------------------------------------------------------------------


def describe_files(params: ColumnParams, name: str, files: Files) -> DataInfo:
    """Return the facts of Parquet files that exist. This hashes all their bytes and decodes one image.

    Raises:
        SuiteError: a file has no rows or cannot be read.
    """
    sizes = {"train": 0, "test": 0}
    columns = set()
    for split, paths in files.items():
        for path in paths:
            with opened(path) as file:
                layout = layout_of(file, params, path)
                columns.add((layout.image, layout.label))
                sizes[split] += file.metadata.num_rows
    for split, count in sizes.items():
        if not count:
            raise SuiteError(f"{files[split][0]}: no rows")
    names, _ = classes_of(params, files["train"])
    first = _first_image(params, files["train"])
    where = f"{files['train'][0]}: row 0"
    pixels = decode(first, params.shape[0] if params.shape else None, params.crop, where)
    height, width, channels = pixels.shape
    content = {
        "columns": sorted(columns),
        **{split: [file_hash(path) for path in paths] for split, paths in files.items()},
    }
    return facts(
        params,
        name=name,
        where=str(files["train"][0].parent),
        shape=(channels, height, width),
        class_names=names,
        sizes=sizes,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        notes=(f"images stored as {codec(first)}",),
    )


def _first_image(params: ColumnParams, train: Sequence[Path]) -> bytes:
    for path in train:
        with opened(path) as file:
            column = layout_of(file, params, path).image
            for batch in file.iter_batches(batch_size=1, columns=[column]):
                first = _bytes(batch.column(0))[0].as_py()
                if first is None:
                    raise SuiteError(f"{path}: row 0 has no image bytes (column {column!r})")
                return bytes(first)
    raise SuiteError(f"{train[0]}: no rows")


def _bytes(column: Any) -> Any:
    """Return the binary values of an image column, which may be inside a struct."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


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


def load_files(params: ColumnParams, files: Files, split: str) -> ParquetImages:
    """Return one split of Parquet files.

    Raises:
        SuiteError: a row has no image, or a label that is not one of the classes.
    """

    import numpy as np

    names, known = classes_of(params, files["train"])
    channels = params.shape[0] if params.shape else None
    if channels is None:
        where = f"{files['train'][0]}: row 0"
        channels = decode(_first_image(params, files["train"]), None, params.crop, where).shape[2]
    labels, columns = [], []
    for path in files[split]:
        with opened(path) as file:
            layout = layout_of(file, params, path)
            labels.append(numbers_of(path, labels_of(path, file, layout.label), names, known))
            images = _bytes(file.read(columns=[layout.image]).column(0))
        if images.null_count:
            row = images.is_null().index(True).as_py()
            raise SuiteError(f"{path}: row {row} has no image bytes (column {layout.image!r})")
        columns.append((path, images))
    return ParquetImages(np.concatenate(labels), columns, channels, params.crop)

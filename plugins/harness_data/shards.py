"""Parquet files: which belong to a split, and what their schemas say."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, first_line
from harness_data.names import same_name, shown, some
from harness_data.pixels import LFS_POINTER, nature
from harness_data.tables import IMAGE_COLUMNS, LABEL_COLUMNS, ColumnParams, column_of

__all__ = [
    "Layout",
    "check_complete",
    "check_same_names",
    "find",
    "layout_of",
    "left_notes",
    "missing_shards",
    "opened",
]

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>.*)\.parquet")


@dataclass(frozen=True)
class Layout:
    """The columns of a file.

    ``image`` is the path of the bytes, such as ``img.bytes``. ``names`` are the names of a ClassLabel, or None if the
    file declares none. ``columns`` are the names of all columns.
    """

    image: str
    label: str
    names: tuple[str, ...] | None
    columns: tuple[str, ...]


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
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: of text that is no UTF-8
        raise SuiteError(f"{path}: cannot be read as Parquet: {_reason(path, error)}") from None


def _reason(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as unreadable:
        return unreadable.strerror or first_line(unreadable)
    return first_line(error) if start and not start.startswith(LFS_POINTER) else nature(start)


def layout_of(file: Any, params: ColumnParams, path: Path) -> Layout:
    """Return the columns of a Parquet file that hold images and labels.

    Raises:
        SuiteError: a column is missing, or the images have another type.
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
    names = _class_names(schema.metadata or {}, label)
    return Layout(f"{image}.bytes" if inside else image, label, names, tuple(schema.names))


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...] | None:
    """Return the class names that the hub's schema metadata declares for a column, if it does."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(same_name(str(name)) for name in names) if isinstance(names, list) else None


def check_same_names(files: Sequence[Path], params: ColumnParams) -> None:
    """Refuse files that declare different names of classes, or the same names in another order.

    Raises:
        SuiteError: two files differ, or one cannot be read.
    """
    names: dict[tuple[str, ...] | None, Path] = {}
    for path in files:
        with opened(path) as file:
            names.setdefault(layout_of(file, params, path).names, path)
    names.pop(None, None)
    if len(names) > 1:
        first, second = list(names.values())[:2]
        raise SuiteError(
            f"{first} and {second} declare different classes, or another order; name whole splits"
        )


# --- files --------------------------------------------------------------------------------------


def find(folder: Path, stem: str, pattern: str | None, key: str) -> list[Path]:
    """Return the files of one split, sorted by name.

    ``pattern`` selects them if it is given, else STEM.parquet, else STEM-*.parquet. ``key`` names the parameter in
    messages.

    Raises:
        SuiteError: the folder or the files do not exist, or shards are missing.
    """
    if not folder.is_dir():
        raise SuiteError(f"{folder}: not a folder" if folder.exists() else f"{folder}: not found")
    if pattern is not None and (Path(pattern).is_absolute() or ".." in Path(pattern).parts):
        raise SuiteError(f"{key}: {pattern!r} must be a pattern inside {folder}")
    tried = (pattern,) if pattern is not None else (f"{stem}.parquet", f"{stem}-*.parquet")
    for name in tried:
        files = sorted(path for path in _matches(folder, name, key) if _is_there(path))
        if files:
            if pattern is None:
                check_complete(files)
            return files
    there = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    listing = shown(", ".join(there[:8])) + (", ..." if len(there) > 8 else "")
    raise SuiteError(
        f"{folder}: no {' or '.join(tried)} there (there is: {listing or 'nothing'}); {key}: gives a pattern"
    )


def _is_there(path: Path) -> bool:
    """Return whether a path is a regular file.

    Raises:
        SuiteError: it is a link that leads nowhere.
    """
    if path.is_symlink() and not path.exists():
        raise SuiteError(f"{path}: a link to {shown(os.readlink(path))}, which is not there")
    return path.is_file()


def _matches(folder: Path, pattern: str, key: str) -> set[Path]:
    try:
        matches = {path for path in folder.glob(pattern) if not path.name.startswith("._")}
    except (ValueError, NotImplementedError) as error:
        raise SuiteError(f"{key}: {pattern!r} is no pattern: {first_line(error)}") from None
    plain = folder / pattern  # glob leaves out a link that leads nowhere
    return matches | ({plain} if plain.is_symlink() else set())


def check_complete(files: Sequence[Path]) -> None:
    """Refuse files of the hub's form STEM-00000-of-00003.parquet of which some are not there.

    Raises:
        SuiteError: shards are missing, or those of two divisions are mixed.
    """
    divisions: dict[tuple[str, str], set[int]] = {}
    for path in files:
        if shard := SHARD.fullmatch(path.name):
            divisions.setdefault((shard["stem"], shard["rest"]), set()).add(int(shard["count"]))
    for (stem, _), counts in divisions.items():
        if len(counts) > 1:
            mixed = " and ".join(map(str, sorted(counts)))
            raise SuiteError(f"{files[0].parent}: {stem} has files of {mixed} shards; keep one kind only")
    missing = missing_shards(files)
    if missing:
        raise SuiteError(f"{files[0].parent}: missing shards: {len(missing):,} ({some(missing)})")


def missing_shards(files: Sequence[Path]) -> list[str]:
    """Return the names of the shards that complete those of ``files`` and are not among them."""
    names = {path.name for path in files}
    wanted = {
        f"{shard['stem']}-{number:05}-of-{shard['count']}{shard['rest']}.parquet"
        for path in files
        if (shard := SHARD.fullmatch(path.name))
        for number in range(int(shard["count"]))
    }
    return sorted(wanted - names)


def left_notes(files: Sequence[Path]) -> Iterator[str]:
    """Yield which files beside those of a split bear its name and are not read, and which shards are missing."""
    missing = missing_shards(files)
    if missing:
        yield f"missing shards: {len(missing):,} ({some(missing)})"
    if len(files) == 1:
        stem = glob.escape(files[0].stem)
        others = sorted(path.name for path in files[0].parent.glob(f"{stem}-*.parquet"))
        if others:
            yield f"{files[0].name} is read, not {some(map(shown, others))}"

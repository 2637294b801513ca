"""The raw samples of records: files named by their content, which is checked before anything is unpacked."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.errors import StorageError, first_line, printable
from harness.store.files import read_regular, write_atomically
from harness.types.blocks import SampleFile
from harness.types.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Header = tuple[tuple[int, ...], np.dtype[Any]]

__all__ = ["MOST_BYTES", "MOST_UNPACKED_BYTES", "SampleFiles"]

MOST_BYTES = 256 * 2**20
"""The largest file that is read."""

MOST_UNPACKED_BYTES = 2**30
"""The largest size of all arrays of a file together, as their headers state it."""

_MOST_NAMED = 10
"""How many damaged files are named one by one; the others are counted."""

_MOST_DIRECTORY_BYTES = 2**20
_END = 22
"""Bytes of the end record of a zip archive without a comment."""

_UNREADABLE = (
    *(ValueError, TypeError, KeyError, OSError, EOFError, SyntaxError, RecursionError, MemoryError),
    *(NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What Python's and numpy's readers raise for damaged or hostile archives and headers."""

_OLD_NAMES = {"told": "oracle"}
"""Raw arrays that version 0.1.0 named otherwise -> their name now."""


class SampleFiles:
    """The files ``samples/ab/<sha256>.npz`` of a results folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, arrays: Mapping[str, NDArray[Any] | int]) -> SampleFile:
        """Write raw arrays into a file named by its content; return what a record says of the file.

        Raises:
            StorageError: it cannot be written.
            ValueError: an array holds Python objects.
        """
        import numpy as np

        for name, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        target = self._folder / _name(digest)
        try:
            if not _has(target, content):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, content, 0o644, sync=True)
        except OSError as error:
            raise StorageError(f"{target}: {error.strerror or error}") from error
        return SampleFile(file=_name(digest), sha256=digest)

    def read(self, record: Record) -> dict[str, NDArray[Any]]:
        """Return the raw arrays of a record; empty if it has none.

        Raises:
            StorageError: the file is missing, is not what was measured, or is larger than samples may be.
        """
        import numpy as np

        if record.samples.empty:
            return {}
        path, content = self._content(record)
        _checked(path, content)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return {_OLD_NAMES.get(name, name): archive[name] for name in archive.files}
        except _UNREADABLE as error:
            raise StorageError(f"{path}: cannot be unpacked: {first_line(error)}") from None

    def missing(self, record: Record) -> bool:
        """Return whether the record has samples and their file is absent, as in a folder that was copied in part."""
        try:
            path = self._path(record)
        except StorageError:
            return False
        return path is not None and not os.path.lexists(path)

    def check(self, records: Iterable[Record]) -> tuple[list[Record], list[Record], list[str]]:
        """Return the records whose file is not damaged, those of them whose file is missing, and a line per problem.

        A record whose file is missing stays: its figures are under a checksum of their own.
        """
        sound: list[Record] = []
        problems: list[str] = []
        missing: list[Record] = []
        damaged = 0
        for record in records:
            if self.missing(record):
                missing.append(record)
            elif (problem := self.problem(record)) is not None:
                damaged += 1
                if damaged <= _MOST_NAMED:
                    what = printable(f"{record.method}, seed {record.seed}, repeat {record.repeat}")
                    problems.append(f"{problem}; the record of {what} is left out")
                continue
            sound.append(record)
        if damaged > _MOST_NAMED:
            problems.append(
                f"{self._folder}: {damaged - _MOST_NAMED:,} further records with damaged samples left out"
            )
        return sound, missing, problems

    def problem(self, record: Record) -> str | None:
        """Return what is wrong with a record's file in one line, or None. Nothing is unpacked but the headers."""
        if record.samples.empty:
            return None
        try:
            _checked(*self._content(record))
        except StorageError as error:
            return str(error)
        return None

    def unpacked_bytes(self, record: Record) -> int:
        """Return the size of a record's arrays as their headers state it; 0 if its file is absent or damaged."""
        if record.samples.empty:
            return 0
        try:
            headers = _headers(self._content(record)[1])
        except (StorageError, *_UNREADABLE):
            return 0
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers.values())

    def _path(self, record: Record) -> Path | None:
        """Return the path of a record's file, or None if it has none: never a path that the record made up."""
        if record.samples.empty:
            return None
        digest = record.samples.sha256 or ""
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or record.samples.file != _name(digest):
            raise StorageError(
                f"{self._folder / 'records.jsonl'}: record of {record.cell_id} names no sample file of this folder"
            )
        return self._folder / _name(digest)

    def _content(self, record: Record) -> tuple[Path, bytes]:
        path = self._path(record)
        assert path is not None  # the callers return early
        try:
            content = read_regular(path, MOST_BYTES)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != record.samples.sha256:
            raise StorageError(f"{path}: content does not match its name: changed since it was measured")
        return path, content


def _name(digest: str) -> str:
    return f"samples/{digest[:2]}/{digest}.npz"


def _has(path: Path, content: bytes) -> bool:
    """Return whether the file is there with this content."""
    try:
        return read_regular(path, len(content)) == content
    except OSError:
        return False


def _checked(path: Path, content: bytes) -> None:
    """Check the headers of an archive's arrays.

    Raises:
        StorageError: it is no archive of arrays, too large, or its predictions are not what they should be.
    """
    try:
        headers = _headers(content)
        _check_predictions(headers)
    except _UNREADABLE as error:
        raise StorageError(f"{path}: is no file of samples: {first_line(error)}") from None


def _headers(content: bytes) -> dict[str, Header]:
    """Return name -> (shape, element type) of each array. No array is unpacked."""
    end = content[-_END:]
    if len(end) < _END or end[:4] != b"PK\5\6" or content[-_END - 20 :][:4] == b"PK\6\7":
        raise ValueError("it does not end as a small zip archive does")
    if int.from_bytes(end[12:16], "little") > _MOST_DIRECTORY_BYTES:
        raise ValueError(f"its directory has more than {_MOST_DIRECTORY_BYTES:,} bytes")
    headers: dict[str, Header] = {}
    total = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 could have written
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in headers:
                raise ValueError(f"member {member.filename!r} is no array, or is there twice")
            total += member.file_size
            if total > MOST_UNPACKED_BYTES:
                raise ValueError(f"its arrays have more than {MOST_UNPACKED_BYTES:,} bytes")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} is packed in another way than numpy does")
            with archive.open(member) as file:
                headers[name] = _header(name, file, member.file_size)
    return headers


def _header(name: str, file: IO[bytes], file_size: int) -> Header:
    """Return the shape and element type of an array. Version 1 of the format has headers of at most 64 KiB."""
    import numpy as np

    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"array {name!r} has an unknown header")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.kind not in "biufSU" or min(shape, default=0) < 0:
        raise ValueError(f"array {name!r} has no numbers or texts")
    if file_size != file.tell() + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"array {name!r} has another size than its header states")
    return shape, dtype


def _check_predictions(headers: Mapping[str, Header]) -> None:
    """Check that predictions and labels, where they are there, are integers [n] of the same n."""
    given = {name: headers[name] for name in ("predictions", "labels") if name in headers}
    for name, (shape, dtype) in given.items():
        if len(shape) != 1 or dtype.kind not in "iu":
            raise ValueError(f"{name} are {dtype} {list(shape)}, not integers [n]")
    if len({shape for shape, _ in given.values()}) > 1:
        raise ValueError("predictions and labels differ in length")

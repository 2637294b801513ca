"""The raw samples of records: files named by their content, which is checked before anything is unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from harness.errors import StorageError, first_line, printable
from harness.results.answers import Labels, SeedAnswers
from harness.results.archive import UNREADABLE, Archive, Packed
from harness.results.kept_answers import KeptAnswers
from harness.results.second_process import SecondProcess, map_parts
from harness.store.files import read_regular, write_atomically
from harness.types.blocks import SampleFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "Checked", "SampleFiles", "Sampled"]

MOST_BYTES = 256 * 2**20
"""The largest file that is read."""

_MOST_KEPT = 2**20
"""The largest array of labels, unpacked, that is kept for the next file."""

_PART = 200
"""Files that a process reads at once."""

Early: TypeAlias = Mapping[str, SeedAnswers | None]
"""SHA-256 of a file -> the answers in it."""

_SHA256 = re.compile("[0-9a-f]{64}")
_MOST_NAMED = 10
"""How many damaged files are named one by one; the others are counted."""

ANSWERS = ("predictions", "labels")
"""The arrays that say which images were answered right."""

_OLD_NAMES = {"told": "oracle"}
"""Raw arrays that version 0.1.0 named otherwise -> their name now."""


class SampleName(Protocol):
    """What a record says of its file of samples."""

    @property
    def empty(self) -> bool:
        """Return whether there is no file."""
        ...

    @property
    def file(self) -> str | None:
        """Return the path of the file in the results folder."""
        ...

    @property
    def sha256(self) -> str | None:
        """Return the SHA-256 of its content."""
        ...


class Sampled(Protocol):
    """A record or its summary, as far as its raw samples are concerned."""

    @property
    def cell_id(self) -> str:
        """Return the id of the cell."""
        ...

    @property
    def method(self) -> str:
        """Return the method's name in the suite."""
        ...

    @property
    def seed(self) -> int:
        """Return the training seed."""
        ...

    @property
    def repeat(self) -> int:
        """Return the number of the process that measured this seed."""
        ...

    @property
    def samples(self) -> SampleName:
        """Return what the record says of its file."""
        ...


S = TypeVar("S", bound=Sampled)


@dataclass
class Checked(Generic[S]):
    """What was read of the samples of records.

    Attributes:
        sound: the records whose file is not damaged.
        missing: those of them whose file is missing.
        problems: a line for each damaged file, and one for those that are too many to name.
        answers: SHA-256 of a file -> the answers in it. Files without predictions are not in it.
    """

    sound: list[S] = field(default_factory=list)
    missing: list[S] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    answers: dict[str, SeedAnswers] = field(default_factory=dict)


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

    def read(self, record: Sampled) -> dict[str, NDArray[Any]]:
        """Return the raw arrays of a record; empty if it has none.

        Raises:
            StorageError: the file is missing, is not what was measured, or is larger than samples may be.
        """
        if record.samples.empty:
            return {}
        path = self._path(record)
        content = _content(path, str(record.samples.sha256))
        _checked(path, content)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return {_OLD_NAMES.get(name, name): archive[name] for name in archive.files}
        except UNREADABLE as error:
            raise StorageError(f"{path}: cannot be unpacked: {first_line(error)}") from None

    def missing(self, record: Sampled) -> bool:
        """Return whether the record has samples and their file is absent, as in a folder that was copied in part."""
        if record.samples.empty:
            return False
        try:
            return not os.path.lexists(self._path(record))
        except StorageError:
            return False

    def named(self, records: Iterable[Sampled]) -> list[str]:
        """Return the SHA-256 of the files of records, of those that name a file of this folder."""
        digests = [record.samples.sha256 or "" for record in records if not record.samples.empty]
        return list(filter(_SHA256.fullmatch, digests))

    def check(
        self, records: Sequence[S], kept: KeptAnswers | None = None, second: SecondProcess | None = None
    ) -> Checked[S]:
        """Read the answers of records, and sort the records by the state of their files.

        A record whose file is missing stays: its figures are under a checksum of their own. Files whose answers are
        ``kept`` are not read. A ``second`` process reads a part of the files.
        """
        checked: Checked[S] = Checked()
        early = {} if second is None else self._read_early(records, kept, second)
        damaged = 0
        for record in records:
            try:
                answers = self.answers(record, kept, early)
            except StorageError as problem:
                if self.missing(record):
                    checked.missing.append(record)
                    checked.sound.append(record)
                    continue
                damaged += 1
                if damaged <= _MOST_NAMED:
                    what = printable(f"{record.method}, seed {record.seed}, repeat {record.repeat}")
                    checked.problems.append(f"{problem}; the record of {what} is left out")
                continue
            checked.sound.append(record)
            if answers is not None:
                checked.answers[str(record.samples.sha256)] = answers
        if kept is not None:
            kept.save()
        if damaged > _MOST_NAMED:
            checked.problems.append(
                f"{self._folder}: {damaged - _MOST_NAMED:,} further records with damaged samples left out"
            )
        return checked

    def _read_early(
        self, records: Iterable[Sampled], kept: KeptAnswers | None, second: SecondProcess
    ) -> Early:
        """Return what is in the files of records, of those that are not kept, by their SHA-256."""
        names = [name for name in dict.fromkeys(self.named(records)) if kept is None or name not in kept]
        parts = [names[start : start + _PART] for start in range(0, len(names), _PART)]
        early: dict[str, SeedAnswers | None] = {}
        for part in map_parts(partial(_answers_of, str(self._folder)), parts, second):
            early |= part
        return early

    def answers(
        self, record: Sampled, kept: KeptAnswers | None = None, early: Early | None = None
    ) -> SeedAnswers | None:
        """Return which images were answered right, or None if the record has no predictions.

        A file in ``early`` was read already in this call of the program.

        Raises:
            StorageError: the file is missing, is not what was measured, or is larger than samples may be.
        """
        if record.samples.empty:
            return None
        path = self._path(record)
        sha256 = str(record.samples.sha256)

        def read() -> SeedAnswers | None:
            return early[sha256] if early and sha256 in early else _answers(path, sha256)

        return read() if kept is None else kept.get_or_read(sha256, path, read)

    def problem(self, record: Sampled) -> str | None:
        """Return what is wrong with a record's file in one line, or None. Nothing is unpacked but the headers."""
        if record.samples.empty:
            return None
        try:
            path = self._path(record)
            _checked(path, _content(path, str(record.samples.sha256)))
        except StorageError as error:
            return str(error)
        return None

    def unpacked_bytes(self, record: Sampled) -> int:
        """Return the size of a record's arrays as their headers state it; 0 if its file is absent or damaged."""
        if record.samples.empty:
            return 0
        try:
            headers = Archive(_content(self._path(record), str(record.samples.sha256))).headers
        except (StorageError, *UNREADABLE):
            return 0
        return sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in headers.values())

    def _path(self, record: Sampled) -> str:
        """Return the path of a record's file: never a path that the record made up.

        Raises:
            StorageError: the record names no file of this folder.
        """
        digest = record.samples.sha256 or ""
        if not _SHA256.fullmatch(digest) or record.samples.file != _name(digest):
            raise StorageError(
                f"{self._folder / 'records.jsonl'}: record of {record.cell_id} names no sample file of this folder"
            )
        return os.path.join(self._folder, _name(digest))


def _answers(path: str, sha256: str) -> SeedAnswers | None:
    archive = _checked(path, _content(path, sha256))
    if not all(name in archive.headers for name in ANSWERS):
        return None
    try:
        packed = archive.packed("labels")
        labels = _labels(packed) if packed.size <= _MOST_KEPT else Labels.of(packed.array())
        return SeedAnswers.to(labels, archive.packed("predictions").array())
    except UNREADABLE as error:
        raise StorageError(f"{path}: cannot be unpacked: {first_line(error)}") from None


def _answers_of(folder: str, names: Sequence[str]) -> Early:
    """Return the answers in files of a folder, without files that are missing or damaged."""
    early: dict[str, SeedAnswers | None] = {}
    for name in names:
        with contextlib.suppress(StorageError):  # the file is read again, and what is wrong with it is said
            early[name] = _answers(os.path.join(folder, _name(name)), name)
    return early


@lru_cache(maxsize=4)
def _labels(packed: Packed) -> Labels:
    """Return the labels in a file. The files of a data set have the same."""
    return Labels.of(packed.array())


def _content(path: str, sha256: str) -> bytes:
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StorageError(f"{path}: content does not match its name: changed since it was measured")
    return content


def _name(digest: str) -> str:
    return f"samples/{digest[:2]}/{digest}.npz"


def _has(path: Path, content: bytes) -> bool:
    """Return whether the file is there with this content."""
    try:
        return read_regular(path, len(content)) == content
    except OSError:
        return False


def _checked(path: str, content: bytes) -> Archive:
    """Return the archive of a file, with its headers checked.

    Raises:
        StorageError: it is no archive of arrays, too large, or its predictions are not what they should be.
    """
    try:
        archive = Archive(content)
        _check_predictions(archive)
    except UNREADABLE as error:
        raise StorageError(f"{path}: is no file of samples: {first_line(error)}") from None
    return archive


def _check_predictions(archive: Archive) -> None:
    """Check that predictions and labels, where they are there, are integers [n] of the same n."""
    given = {name: archive.headers[name] for name in ANSWERS if name in archive.headers}
    for name, (_, shape, dtype) in given.items():
        if len(shape) != 1 or dtype.kind not in "iu":
            raise ValueError(f"{name} are {dtype} {list(shape)}, not integers [n]")
    if len({shape for _, shape, _ in given.values()}) > 1:
        raise ValueError("predictions and labels differ in length")

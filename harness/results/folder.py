"""Records on disk: append, verify, view. Raw samples are beside them, in files named by their content.

A results folder contains ``records.jsonl`` (one JSON object per line, one line per attempt of a cell),
``samples/ab/<sha256>.npz``, ``.lock`` while a run writes into it, and, after a run, ``plan.json`` with the cells of
the last run. Nothing is ever changed or deleted. A newer attempt is a further line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import StorageError, SuiteError
from harness.results import lines
from harness.results.planned import read_plan
from harness.results.samples import Sampled, SampleFiles
from harness.results.second_process import SecondProcess
from harness.results.summary import Summary, summary_at
from harness.store.files import append_line, sync_folder, write_atomically
from harness.types.blocks import SampleFile
from harness.types.record import Record, line_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["Results", "latest_of"]


class Results:
    """A results folder. The constructor checks that it is one, and reads no records.

    Raises:
        SuiteError: ``folder`` is not a results folder, and ``create`` is not set.
        StorageError: the folder cannot be created.
    """

    def __init__(self, folder: Path | str, *, create: bool = False) -> None:
        self.folder = Path(folder)
        self.samples = SampleFiles(self.folder)
        self._file = self.folder / "records.jsonl"
        self._attempts: dict[tuple[str, str, str], int] | None = None
        if create:
            with _storage(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                if not os.path.lexists(self._file):
                    self._file.touch()
                    sync_folder(self.folder)
            if self._file.is_symlink() or not self._file.is_file():
                raise StorageError(f"{self._file}: is not a regular file; give another --out")
            samples = self.folder / "samples"
            if os.path.lexists(samples) and not samples.is_dir():  # before a cell is measured for nothing
                raise StorageError(f"{samples}: is not a folder; give another --out")
        elif not self._file.is_file():
            raise SuiteError(f"{self.folder}: {self._lack()}; give a folder that `harness run --out` wrote")

    def _lack(self) -> str:
        if not self.folder.exists():
            return "does not exist"
        return "holds no records.jsonl" if self.folder.is_dir() else "is not a folder"

    # --- writing

    def append(self, record: Record) -> Record:
        """Append ``record``, with its checksum, as one whole line. The line is on disk when this returns.

        A crash can leave a last line without a line end. It gets one first, so that it does not damage the new line.

        Returns:
            The record as written.

        Raises:
            StorageError: the disk is full or the folder is read-only. Earlier records are intact.
        """
        sealed = record.sealed()
        with _storage(self._file):
            append_line(self._file, line_of(sealed))
        if self._attempts is not None:
            self._attempts[sealed.identity] = max(sealed.attempt, self._attempts.get(sealed.identity, 0))
        return sealed

    def store_samples(self, arrays: Mapping[str, NDArray[Any] | int]) -> SampleFile:
        """Write raw arrays into a file named by its content. Return the block of a record that describes the file.

        Raises:
            StorageError: the file cannot be written.
            ValueError: an array holds Python objects.
        """
        return self.samples.write(arrays)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one run. The kernel releases the lock when the process ends.

        Raises:
            StorageError: another process holds the folder (the message names the process), or it is read-only.
        """
        path = self.folder / ".lock"
        with _storage(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(f"{path}: is not a regular file; delete it")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip() or "another process"
                raise StorageError(
                    f"{self.folder} is in use by {holder}: wait until it ends, or give another --out"
                ) from None
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            with _storage(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(
                    descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0
                )
            yield
        finally:
            os.close(descriptor)

    def archive(self, name: str, chosen: Callable[[Record], bool] | None = None) -> None:
        """Move records to ``records-NAME.jsonl``, with a number if that exists: the chosen ones, by default all.

        Raises:
            StorageError: the folder cannot be written.
        """
        with _storage(self._file):
            aside = self.folder / f"records-{name}.jsonl"
            count = 1
            while aside.exists():
                count += 1
                aside = self.folder / f"records-{name}-{count}.jsonl"
            if chosen is None:
                self._file.rename(aside)
                self._file.touch()
                sync_folder(self.folder)
            else:
                self._split(aside, chosen)
        self._attempts = None

    def _split(self, aside: Path, chosen: Callable[[Record], bool]) -> None:
        """Move the lines of the chosen records to ``aside``. A crash in between leaves them in both files."""
        numbers = {number for number, record in self.scan()[0] if chosen(record)}
        if not numbers:
            return
        moved: list[bytes] = []
        kept: list[bytes] = []
        for number, line in enumerate(self._file.read_bytes().split(b"\n"), 1):
            if line:
                (moved if number in numbers else kept).append(line + b"\n")
        write_atomically(aside, b"".join(moved), 0o644, sync=True)
        write_atomically(self._file, b"".join(kept), 0o644, sync=True)

    # --- reading

    def records(self) -> list[Record]:
        """Return all valid records, in the order written. :meth:`validate` names the lines that are not valid."""
        return [record for _, record in self.scan()[0]]

    def scan(self) -> tuple[list[tuple[int, Record]], list[str]]:
        """Return (line number, record) of every valid line, and a sentence for every other line.

        Raises:
            StorageError: the file cannot be read.
        """
        return lines.scan(self._file, lambda line, record: (line.number, record))

    def latest(self, *, current_only: bool = False) -> list[Record]:
        """Return one record per cell, as :func:`latest_of` chooses it.

        ``current_only`` keeps only the cells that ``plan.json`` names, if there is such a file.
        """
        cells = self.planned() if current_only else None
        return [record for record in latest_of(self.records()) if cells is None or record.cell_id in cells]

    def planned(self) -> frozenset[str] | None:
        """Return the ids of the cells that ``plan.json`` names; ``None`` if there is no such file.

        Raises:
            StorageError: the file is not a plan. The message says what to do.
        """
        try:
            plan = read_plan(self.folder)
        except StorageError as error:
            raise StorageError(f"{error}; the next `harness run` into this folder sets it aside") from None
        return None if plan is None else frozenset(plan.cells)

    def next_attempt(self, machine_id: str, run_id: str, cell_id: str) -> int:
        """Return the number of a cell's next attempt; the first is 1."""
        if self._attempts is None:
            self._attempts = {}
            for record in self.records():
                self._attempts[record.identity] = max(record.attempt, self._attempts.get(record.identity, 0))
        return self._attempts.get((machine_id, run_id, cell_id), 0) + 1

    def summaries(self, second: SecondProcess | None = None) -> tuple[list[Summary], list[str]]:
        """Return the summary of every valid record, in the order written, and a sentence for every other line.

        A ``second`` process reads a part of them.

        Raises:
            StorageError: the file cannot be read.
        """
        return lines.scan(self._file, summary_at, second)

    def load_samples(self, record: Sampled) -> dict[str, NDArray[Any]]:
        """Return the raw arrays of a record by name; empty if it has none.

        Raises:
            StorageError: the file is missing, or its content is not what was measured.
        """
        return self.samples.read(record)

    def validate(self) -> list[str]:
        """Return the problems of the folder, one line each: invalid lines, repeated records, wrong sample files."""
        valid, problems = self.scan()
        first: dict[tuple[tuple[str, str, str], int], int] = {}
        for number, record in valid:
            earlier = first.setdefault((record.identity, record.attempt), number)
            if earlier != number:
                problems.append(
                    f"{self._file}:{number}: attempt {record.attempt} of cell {record.cell_id} "
                    f"stands in line {earlier} already"
                )
            if (problem := self.samples.problem(record)) is not None:
                problems.append(problem)
        try:
            self.planned()
        except StorageError as error:
            problems.append(str(error))
        return problems


R = TypeVar("R", Record, Summary)


def latest_of(records: Iterable[R]) -> list[R]:
    """Return for each cell its latest good attempt, or its latest attempt if none is good.

    If two records have the same number of attempt, the later one in ``records`` counts. Cells are in the order of
    their first record.
    """
    latest: dict[tuple[str, str, str], R] = {}
    for record in records:
        earlier = latest.get(record.identity)
        if earlier is None or (record.good, record.attempt) >= (earlier.good, earlier.attempt):
            latest[record.identity] = record
    return list(latest.values())


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error

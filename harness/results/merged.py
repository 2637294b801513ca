"""Several results folders, read as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.errors import StorageError
from harness.results.answers import SeedAnswers
from harness.results.folder import Results, latest_of
from harness.results.index import Index
from harness.results.kept_answers import KeptAnswers
from harness.results.leaderboard.place import Place
from harness.results.lines import MOST_PROBLEMS
from harness.results.samples import Sampled
from harness.results.second_process import SecondProcess
from harness.results.summary import Summary
from harness.store.remembered import SETTLED_S
from harness.types.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Merged"]


class Merged:
    """The latest record of each cell in several folders (:func:`harness.results.folder.latest_of`).

    With ``current_only``, only the cells that a folder's ``plan.json`` names are taken from it. ``left_out`` is the
    number of other cells. Records whose raw samples are damaged are left out. ``problems`` has a line for each, one for
    the bad lines of a folder, and one for the sample files that it lacks, unless another folder has them. ``samples``
    has for each folder the SHA-256 of its records' sample files.

    The answers of a folder with at least ``keep_from`` cells are kept in its index
    (:class:`harness.results.kept_answers.KeptAnswers`), by default of none.
    A ``second`` process reads a part of records and samples.

    Raises:
        StorageError: a folder cannot be read.
    """

    def __init__(
        self,
        folders: Iterable[Results],
        *,
        current_only: bool = False,
        keep_from: int | None = None,
        settled_s: float = SETTLED_S,
        second: SecondProcess | None = None,
    ) -> None:
        every: list[Summary] = []
        lacking: list[tuple[Results, list[Summary]]] = []
        self._answers: dict[str, SeedAnswers] = {}
        self.samples: list[list[str]] = []
        self.left_out = 0
        self.problems: list[str] = []
        self._folder_of: dict[str | None, Results] = {}  # a sample file is named by its content
        self._name_of: dict[str, str] = {}  # run -> the first folder that has it: a copy is no other folder
        self._current: set[tuple[str, str, str]] = set()
        for folder in folders:
            valid, bad = folder.summaries(second)
            own = latest_of(valid)
            if bad:
                count = f"more than {MOST_PROBLEMS:,}" if len(bad) > MOST_PROBLEMS else len(bad)
                lines = "bad line" if len(bad) == 1 else "bad lines"
                self.problems.append(
                    f"{folder.folder}: {count} {lines} left out; see `harness results validate`"
                )
            try:
                planned = folder.planned()
            except StorageError as error:
                if current_only:
                    raise
                planned = None
                self.problems.append(f"{error}; all cells count as those of the last run")
            current = [record for record in own if planned is None or record.cell_id in planned]
            self._current |= {record.identity for record in current}
            if current_only:
                self.left_out += len(own) - len(current)
                own = current
            keeps = keep_from is not None and len(own) >= keep_from
            kept = KeptAnswers(Index(folder.folder), settled_s) if keeps else None
            checked = folder.samples.check(own, kept, second)
            self.samples.append(folder.samples.named(own))
            self.problems += checked.problems
            every += checked.sound
            self._answers |= checked.answers
            absent = {record.samples.sha256 for record in checked.missing}
            lacking.append((folder, checked.missing))
            for record in checked.sound:
                self._name_of.setdefault(record.run_id, str(folder.folder))
                if record.samples.sha256 not in absent:
                    self._folder_of.setdefault(record.samples.sha256, folder)
        for folder, missing in lacking:
            nowhere = [record for record in missing if record.samples.sha256 not in self._folder_of]
            if nowhere:
                files = "file of samples is" if len(nowhere) == 1 else "files of samples are"
                self.problems.append(
                    f"{folder.folder}: {len(nowhere)} {files} missing (the first: {nowhere[0].samples.file}); "
                    "no tier rests on it"
                )
        self.records = latest_of(every)

    def place_of(self, record: Record | Summary) -> Place:
        """Return the folder of one of the records, and whether its last run has the record's cell."""
        current = record.identity in self._current
        return Place(self._name_of[record.run_id], "last" if current else "earlier")

    def answers_of(self, record: Summary) -> SeedAnswers | None:
        """Return which images one of the records answered right; None if it has no predictions, or their file is missing."""
        return self._answers.get(record.samples.sha256 or "")

    def load_samples(self, record: Sampled) -> dict[str, NDArray[Any]]:
        """Return the raw arrays of one of the records; empty if it has none, or their file is missing.

        Raises:
            StorageError: the file was damaged since the records were read.
        """
        folder = self._folder_of.get(record.samples.sha256)
        return {} if folder is None else folder.load_samples(record)

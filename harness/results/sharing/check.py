"""The check of ``results/published`` that a pull request with results must pass.

The folder comes from a stranger: files are counted and sized before they are read, links are never followed, and
nothing is unpacked before its headers say how large it is.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import StorageError, SuiteError, printable
from harness.results.folder import Results, latest_of
from harness.results.planned import read_plan
from harness.results.samples import SampleFiles
from harness.results.sharing.privacy import private, texts
from harness.store.files import read_regular
from harness.types.fields import NAME
from harness.types.record import Record

__all__ = ["LIMITS", "Limits", "check_changes", "check_published"]


@dataclass(frozen=True)
class Limits:
    """Limits on the sizes of a submission, in bytes, and on the numbers of its files and of the lines of a file."""

    file: int = 4 * 2**20
    records: int = 32 * 2**20
    suite_folder: int = 48 * 2**20
    files: int = 20_000
    folders: int = 20_000
    unpacked: int = 64 * 2**20
    lines: int = 50_000


LIMITS = Limits()
MOST_PROBLEMS = 200
"""How many problems are named. A hostile folder may have any number of them."""

_FILES = re.compile(
    r"records\.jsonl|plan\.json|suite\.yaml|runs\.jsonl|samples/([0-9a-f]{2})/\1[0-9a-f]{62}\.npz", re.ASCII
)
_INDEX = ".index"
"""A folder that reading results may leave. Git ignores it, and the workflow refuses one that was added all the same."""

_DEEPEST = 4
"""Folders below the root on the path of a file: MACHINE/SUITE/samples/ab."""

REQUIRED = ("records.jsonl", "plan.json", "suite.yaml", "runs.jsonl")


@dataclass
class _Tree:
    """The regular files below a folder: path relative to it -> size in bytes. ``problems`` names all else."""

    files: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check_published(root: Path, limits: Limits = LIMITS, names: Collection[str] = ()) -> list[str]:
    """Return the problems of the folders ``root/MACHINE/SUITE``, one line each.

    Args:
        root: the folder ``results/published``.
        limits: the largest sizes.
        names: names of a user and a machine that no text may contain.

    Raises:
        SuiteError: ``root`` is not a folder.
    """
    if root.is_symlink() or not root.is_dir():
        raise SuiteError(f"{root}: is not a folder")
    tree = _walk(root, limits)
    if tree.problems:  # nothing is read of a folder that has links or too many files
        return tree.problems[:MOST_PROBLEMS]
    problems: list[str] = []
    first_of: dict[tuple[str, str, str], str] = {}
    machine_of: dict[str, str] = {}
    for place, sizes in _suites(tree, root, problems).items():
        folder = root / place
        if faults := _check_files(folder, sizes, limits) or _check_lines(folder, limits):
            problems += faults
            continue
        results = Results(folder)
        records = results.records()
        problems += results.validate()
        problems += _check_content(folder, records, sizes, limits)
        problems += _check_privacy(folder, records, names, limits)
        machine = place.split("/")[0]
        for record in records:
            identity = record.identity
            if first_of.setdefault(identity, place) != place:
                problems.append(f"{folder}: cell {identity[2]} stands in {first_of[identity]} already")
                break
        for machine_id in {record.machine_id for record in records}:
            if machine_of.setdefault(machine_id, machine) != machine:
                problems.append(f"{folder}: its machine is that of the folder {machine_of[machine_id]}")
        own = {machine_id for machine_id, name in machine_of.items() if name == machine}
        if len(own) > 1:
            problems.append(
                f"{folder}: {machine} has records of {len(own)} machines; each has its own folder"
            )
    return [printable(problem) for problem in problems[:MOST_PROBLEMS]]


def check_changes(base: Path, root: Path, limits: Limits = LIMITS) -> list[str]:
    """Return the problems of ``root`` as a change of ``base``. Both have passed :func:`check_published`.

    A submission changes the folder of one machine, whose id stays the same, and no record that was published before.
    """
    before, after = (_walk(top, limits).files if top.is_dir() else {} for top in (base, root))
    changed = sorted(
        {
            name.split("/")[0]
            for name in {*before, *after}
            if before.get(name) != after.get(name)
            or _content(base / name, limits) != _content(root / name, limits)
        }
    )
    if len(changed) > 1:
        return [f"{root}: changes the folders of several machines: {', '.join(changed)}"]
    if gone := {_suite_of(name) for name in before} - {_suite_of(name) for name in after}:
        return [
            f"{root}: {', '.join(sorted(gone))} is published and is not there; `harness results publish` replaces it"
        ]
    problems = []
    for machine in changed:
        earlier, later = (_records(top / machine) for top in (base, root))
        ids, new_ids = ({record.machine_id for record in records} for records in (earlier, later))
        if ids and new_ids and ids != new_ids:
            problems.append(f"{root / machine}: is the folder of another machine; choose another name")
        published = {(record.identity, record.attempt): record.checksum for record in earlier}
        for record in later:
            known = published.get((record.identity, record.attempt))
            if known not in (None, record.checksum):
                problems.append(
                    f"{root / machine}: attempt {record.attempt} of cell {record.cell_id} is not the published one"
                )
    return [printable(problem) for problem in problems[:MOST_PROBLEMS]]


def _suite_of(name: str) -> str:
    """Return MACHINE/SUITE of the path of a file."""
    return "/".join(name.split("/")[:2])


def _records(machine: Path) -> list[Record]:
    if not machine.is_dir():
        return []
    return [record for folder in sorted(machine.iterdir()) for record in Results(folder).records()]


def _content(path: Path, limits: Limits) -> bytes:
    return read_regular(path, max(limits.file, limits.records))


def _walk(root: Path, limits: Limits) -> _Tree:
    """Return the files below ``root``. Links and special files are problems, and none is followed or opened."""
    tree = _Tree()
    waiting, folders = [root], 0
    while waiting:
        folder = waiting.pop()
        folders += 1
        if folders > limits.folders or len(tree.files) > limits.files:
            tree.problems.append(f"{root}: more than {limits.files:,} files, or too many folders")
            return tree
        with os.scandir(folder) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                path = folder / entry.name
                if stat.S_ISDIR(mode):
                    if len(path.relative_to(root).parts) > _DEEPEST:
                        tree.problems.append(f"{printable(str(path))}: is a folder too deep")
                    elif entry.name != _INDEX:
                        waiting.append(path)
                elif stat.S_ISREG(mode):
                    tree.files[path.relative_to(root).as_posix()] = entry.stat(follow_symlinks=False).st_size
                else:
                    tree.problems.append(f"{printable(str(path))}: is a link or no regular file")
                if len(tree.files) > limits.files:
                    break
    return tree


def _suites(tree: _Tree, root: Path, problems: list[str]) -> Mapping[str, dict[str, int]]:
    """Return MACHINE/SUITE -> its files with their sizes. Files in other places are added to ``problems``."""
    suites: dict[str, dict[str, int]] = {}
    for name, size in sorted(tree.files.items()):
        machine, _, rest = name.partition("/")
        suite, _, inner = rest.partition("/")
        if not inner or not re.fullmatch(NAME, machine) or not re.fullmatch(NAME, suite):
            problems.append(f"{root / name}: is not in a folder MACHINE/SUITE")
        else:
            suites.setdefault(f"{machine}/{suite}", {})[inner] = size
    return suites


def _check_files(folder: Path, sizes: Mapping[str, int], limits: Limits) -> list[str]:
    """Return what is wrong with the names and sizes of the files of one suite. None of them is read."""
    problems = [f"{folder}: has no {name}" for name in REQUIRED if name not in sizes]
    for name, size in sizes.items():
        most = limits.records if name == "records.jsonl" else limits.file
        if not _FILES.fullmatch(name):
            problems.append(
                f"{folder / name}: does not belong into results; `harness results publish` copies what does"
            )
        elif size > most:
            problems.append(f"{folder / name}: has {size:,} bytes, at most {most:,} are allowed")
    if (total := sum(sizes.values())) > limits.suite_folder:
        problems.append(f"{folder}: has {total:,} bytes, at most {limits.suite_folder:,} are allowed")
    return problems


def _check_lines(folder: Path, limits: Limits) -> list[str]:
    """Return which files of one suite have too many lines, each of which would take time."""
    numbers = {name: _content(folder / name, limits).count(b"\n") for name in ("records.jsonl", "runs.jsonl")}
    return [
        f"{folder / name}: has {number:,} lines, at most {limits.lines:,} are allowed"
        for name, number in numbers.items()
        if number > limits.lines
    ]


def _check_content(
    folder: Path, records: list[Record], sizes: Mapping[str, int], limits: Limits
) -> Iterator[str]:
    """Yield what is wrong with the records of one suite, beyond what ``harness results validate`` finds."""
    try:
        plan = read_plan(folder)
    except StorageError:  # `validate` names it
        plan = None
    if plan is not None:
        if plan.suite != folder.name:
            yield f"{folder}: is the folder of the suite {plan.suite!r}"
        latest = {record.cell_id: record for record in latest_of(records)}
        lacking = [cell for cell in plan.cells if cell not in latest]
        failed = [cell for cell in plan.cells if cell in latest and latest[cell].status == "failed"]
        for cells, what in ((lacking, "have no record"), (failed, "failed")):
            if cells:
                yield f"{folder}: {len(cells)} of {len(plan.cells)} cells of the plan {what}, such as {cells[0]:.80}"
        if beyond := {record.cell_id for record in records} - set(plan.cells):
            yield f"{folder}: {len(beyond)} cells are not in the plan; `harness results publish` leaves them out"
    named = {str(record.samples.file) for record in records if not record.samples.empty}
    for name in sizes:
        if name.startswith("samples/") and name not in named:
            yield f"{folder / name}: belongs to no record"
    for record in records:
        what = f"{folder}: cell {record.cell_id:.80}"
        if record.suite != folder.name:
            yield f"{what}: is of the suite {record.suite!r:.80}"
        if not re.fullmatch(NAME, record.method):
            yield f"{what}: {record.method!r:.80} is no name of a method"
        if record.provenance not in ("measured", "emulated"):
            yield f"{what}: is {record.provenance}, not measured"
        if record.good and record.samples.empty:
            yield f"{what}: has no raw samples"
    sample_files = Results(folder).samples
    for record in records:
        if (unpacked := sample_files.unpacked_bytes(record)) > limits.unpacked:
            yield f"{folder / str(record.samples.file)}: unpacks to {unpacked:,} bytes, at most {limits.unpacked:,}"
        elif problem := _accuracy_problem(record, sample_files):
            yield f"{folder}: cell {record.cell_id:.80}: {problem}"
    yield from _check_runs(folder, {record.run_id for record in records}, limits)


def _accuracy_problem(record: Record, sample_files: SampleFiles) -> str | None:
    """Return how the top-1 of a record differs from that of its predictions, or None."""
    try:
        answers = sample_files.answers(record)
    except StorageError:  # `validate` names it
        return None
    top1 = record.accuracy.top1
    if answers is None or not answers.n or top1 is None:
        return None
    own = 100 * int.from_bytes(answers.right, "big").bit_count() / answers.n
    return f"has top-1 {top1:.4g}%, and its predictions {own:.4g}%" if abs(own - top1) > 1e-6 else None


def _check_runs(folder: Path, run_ids: Collection[str], limits: Limits) -> Iterator[str]:
    """Yield what is wrong with the lines about the runs: each run is named, and made with a committed state."""
    runs = {}
    for number, line in enumerate(_content(folder / "runs.jsonl", limits).splitlines(), 1):
        try:
            run = json.loads(line)
        except (ValueError, RecursionError):
            run = None
        if not isinstance(run, dict) or not isinstance(run.get("harness"), dict):
            yield f"{folder / 'runs.jsonl'}:{number}: is not a line about a run"
            continue
        runs[str(run.get("run_id"))] = run
        if run["harness"].get("dirty"):
            yield f"{folder / 'runs.jsonl'}:{number}: the harness had changes that are in no commit"
    for run_id in sorted(set(run_ids) - runs.keys()):
        yield f"{folder / 'runs.jsonl'}: says nothing about the run {run_id:.80}"


def _check_privacy(
    folder: Path, records: list[Record], names: Collection[str], limits: Limits
) -> Iterator[str]:
    """Yield the first private text of each record and file."""
    for record in records:
        for text in texts(record.dump()):
            if (what := private(text, names)) is not None:
                yield f"{folder}: cell {record.cell_id:.80}: {what} is private; measure without it"
                break
    for name in ("suite.yaml", "runs.jsonl", "plan.json"):
        text = _content(folder / name, limits).decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if (what := private(line, names)) is not None:
                yield f"{folder / name}:{number}: {what} is private; `harness results publish` leaves paths out"
                break

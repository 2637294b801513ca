"""Copy a results folder to ``results/published``: the last run's records, their samples, and how they were made."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.errors import StorageError, SuiteError
from harness.results.folder import Results
from harness.results.planned import read_plan
from harness.results.sharing.privacy import without_paths
from harness.store.files import read_regular, write_atomically
from harness.types.fields import NAME

__all__ = ["MOST_FILE_BYTES", "publish"]

MOST_FILE_BYTES = 64 * 2**20
"""Largest file that is read here."""


def publish(folder: Path, machine: str, root: Path) -> Path:
    """Copy the results of the last run in ``folder`` to ``root/MACHINE/SUITE``, which is replaced.

    Records and samples are copied byte by byte. In ``suite.yaml`` and in the commands of ``runs.jsonl``, a path from the
    root keeps only its last part, and ``runs.jsonl`` has the new hash of the suite. Locks, tracebacks and records of
    earlier runs are not copied.

    Returns:
        The new folder.

    Raises:
        SuiteError: ``folder`` has no finished run, or ``machine`` is no name.
        StorageError: a file cannot be read or written.
    """
    if not re.fullmatch(NAME, machine):
        raise SuiteError(f"{machine!r}: a machine's name has letters, digits, '-' and '_'")
    results = Results(folder)
    plan = read_plan(folder)
    if plan is None or plan.suite is None:
        raise SuiteError(f"{folder}: has no plan.json of a run; `harness run` writes it")
    if not re.fullmatch(NAME, plan.suite):
        raise SuiteError(f"{folder}/plan.json: {plan.suite!r} is no name of a suite")
    cells = frozenset(plan.cells)
    valid, _ = results.scan()
    numbers = {number for number, record in valid if record.cell_id in cells}
    target, aside = root / machine / plan.suite, root / machine / f".{plan.suite}.new"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        lines = _read(folder / "records.jsonl").split(b"\n")
        kept = [line + b"\n" for number, line in enumerate(lines, 1) if number in numbers]
        write_atomically(aside / "records.jsonl", b"".join(kept), 0o644)
        for record in (record for number, record in valid if number in numbers and not record.samples.empty):
            if (problem := results.samples.problem(record)) is not None:
                raise StorageError(problem)
            name = str(record.samples.file)
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(aside / name, _read(folder / name), 0o644)
        write_atomically(aside / "plan.json", _read(folder / "plan.json"), 0o644)
        suite = _read(folder / "suite.yaml")
        public = without_paths(suite.decode("utf-8", "replace")).encode()
        hashes = {hashlib.sha256(suite).hexdigest(): hashlib.sha256(public).hexdigest()}
        write_atomically(aside / "suite.yaml", public, 0o644)
        write_atomically(aside / "runs.jsonl", _runs(_read(folder / "runs.jsonl"), hashes), 0o644)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    except OSError as error:
        raise StorageError(f"{error.filename or target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _read(path: Path) -> bytes:
    return read_regular(path, MOST_FILE_BYTES)


def _runs(content: bytes, hashes: Mapping[str, str]) -> bytes:
    """Return the lines about runs, with commands that name no folder of the machine, and with new hashes of suites."""
    lines = []
    for text in content.splitlines():
        try:
            run = json.loads(text)
        except (ValueError, RecursionError):  # a torn line
            continue
        if isinstance(run, dict):
            command, digest = str(run.get("command", "")), str(run.get("suite_sha256", ""))
            public = {"command": without_paths(command), "suite_sha256": hashes.get(digest, digest)}
            lines.append(json.dumps({**run, **public}) + "\n")
    return "".join(lines).encode()

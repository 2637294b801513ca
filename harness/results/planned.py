"""``plan.json`` of a results folder: the id of its run, and the cells of the last run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StorageError
from harness.store.files import read_regular, write_atomically
from harness.types.json import JsonObject
from harness.types.record import Record, checksum

__all__ = ["PlanFile", "move_aside", "read_plan", "run_id_of", "write_plan"]

_MOST_BYTES = 8 * 2**20
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
"""A run's id is a part of the name of a file."""


@dataclass(frozen=True)
class PlanFile:
    """The run id of a folder, the suite of its last run, and the ids of the cells that views of the folder show."""

    run_id: str
    suite: str | None
    cells: tuple[str, ...]


def read_plan(folder: Path) -> PlanFile | None:
    """Return the content of a folder's ``plan.json``, or None if there is none.

    Raises:
        StorageError: it cannot be read, or is no plan.
    """
    path = folder / "plan.json"
    try:
        content = json.loads(read_regular(path, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        content = None
    run_id, cells = (
        (content.get("run_id"), content.get("cells")) if isinstance(content, dict) else (None, None)
    )
    if not (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) and isinstance(cells, list)):
        raise StorageError(f'{path}: not a plan ({{"run_id": ..., "cells": [...]}})')
    if not _intact(content):
        raise StorageError(f"{path}: checksum does not match: the file was changed or damaged")
    return PlanFile(run_id, content.get("suite"), tuple(map(str, cells)))


def _intact(content: JsonObject) -> bool:
    """Return whether the content is what was written. Version 0.1.0 wrote no checksum."""
    try:
        return "checksum" not in content or content["checksum"] == checksum(content)
    except (ValueError, RecursionError):  # NaN is not JSON, although Python reads it
        return False


def write_plan(folder: Path, plan: PlanFile) -> None:
    """Write ``plan.json`` in one step.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / "plan.json"
    content: JsonObject = {"run_id": plan.run_id, "suite": plan.suite, "cells": list(plan.cells)}
    try:
        write_atomically(path, json.dumps({**content, "checksum": checksum(content)}))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None


def move_aside(folder: Path) -> Path:
    """Rename a damaged ``plan.json`` to ``plan-damaged.json``, with a number if that exists; return its new path.

    Raises:
        StorageError: it cannot be renamed.
    """
    path, target, count = folder / "plan.json", folder / "plan-damaged.json", 1
    while os.path.lexists(target):
        count += 1
        target = folder / f"plan-damaged-{count}.json"
    try:
        path.rename(target)
    except OSError as error:
        raise StorageError(f"cannot rename {path}: {error.strerror or error}") from None
    return target


def run_id_of(records: Iterable[Record], machine_id: str) -> str | None:
    """Return the run's id of the last record, one of this machine if there is one; None without records.

    It stands in for a lost ``plan.json``. A new id would make each cell that is measured again another cell.
    """
    usable = [record for record in records if _RUN_ID.fullmatch(record.run_id)]
    own = [record for record in usable if record.machine_id == machine_id]
    last = (own or usable)[-1:]
    return last[0].run_id if last else None

"""``plan.json`` of a results folder: the run id, and the cells that views of the folder show."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StorageError
from harness.results.folder import Results
from harness.run.outcome import Options
from harness.store.files import write_atomically
from harness.types.plan import Plan
from harness.types.selection import Selection

__all__ = ["begin"]


def begin(plan: Plan, results: Results, options: Options) -> str:
    """Write ``plan.json`` and return the run id. It is that of an earlier run in this folder, unless all is fresh.

    A run that is limited to a part of its suite changes only that part: the other cells stay in ``plan.json``, and
    ``fresh`` sets only the records of that part aside.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = results.folder / "plan.json"
    earlier = _read(path)
    selection = options.selection
    run_id = earlier.run_id
    if options.fresh and selection.everything:
        results.archive(run_id or "earlier")
        run_id = None
    elif options.fresh:
        results.archive(run_id or "earlier", lambda r: selection.covers(r.method, r.device.name))
    run_id = run_id or secrets.token_hex(8)
    cells = [cell.id for cell in plan.cells]
    others = _others(results, earlier, plan.suite, selection)
    content = {"run_id": run_id, "suite": plan.suite, "cells": list(dict.fromkeys([*cells, *others]))}
    try:
        write_atomically(path, json.dumps(content))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    return run_id


@dataclass(frozen=True)
class _Earlier:
    """The content of an earlier ``plan.json``; ``None`` if the file is missing or is not a plan."""

    run_id: str | None = None
    suite: str | None = None
    cells: tuple[str, ...] | None = None


def _read(path: Path) -> _Earlier:
    if not path.is_file():
        return _Earlier()
    try:
        content = json.loads(path.read_bytes())
        run_id = str(content["run_id"])
        suite, cells = content.get("suite"), tuple(str(cell) for cell in content["cells"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Earlier()
    return _Earlier(run_id, suite, cells) if re.fullmatch(r"[\w-]{1,64}", run_id) else _Earlier()


def _others(results: Results, earlier: _Earlier, suite: str, selection: Selection) -> list[str]:
    """Return the cells of earlier runs of the suite that this run does not select; none if it selects everything."""
    if selection.everything:
        return []
    return [
        record.cell_id
        for record in results.latest()
        if record.suite == suite
        and (earlier.cells is None or record.cell_id in earlier.cells)
        and not selection.covers(record.method, record.device.name)
    ]

"""``plan.json`` of a results folder: the run id, and the cells that views of the folder show."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from harness.errors import StorageError
from harness.machine.environment import machine_id
from harness.results.folder import Results
from harness.results.planned import PlanFile, move_aside, read_plan, run_id_of, write_plan
from harness.run.outcome import Options
from harness.types.plan import Plan
from harness.types.selection import Selection

__all__ = ["begin"]


def begin(plan: Plan, results: Results, options: Options, note: Callable[[str], None]) -> str:
    """Write ``plan.json`` and return the run id. It is that of an earlier run in this folder, unless all is fresh.

    A run that is limited to a part of its suite changes only that part: the other cells stay in ``plan.json``, and
    ``fresh`` sets only the records of that part aside. A damaged ``plan.json`` is set aside, and
    ``note`` is called with one line about it. Without a ``plan.json``, the run id is that of the last record.

    Raises:
        StorageError: the folder cannot be written.
    """
    earlier = _earlier(results, note)
    selection = options.selection
    run_id = run_id_of(results.records(), machine_id()) if earlier is None else earlier.run_id
    if options.fresh and selection.everything:
        results.archive(run_id or "earlier")
        run_id = None
    elif options.fresh:
        results.archive(run_id or "earlier", lambda r: selection.covers(r.method, r.device.name))
    run_id = run_id or secrets.token_hex(8)
    cells = [cell.id for cell in plan.cells]
    others = _others(results, earlier, plan.suite, selection)
    write_plan(results.folder, PlanFile(run_id, plan.suite, tuple(dict.fromkeys([*cells, *others]))))
    return run_id


def _earlier(results: Results, note: Callable[[str], None]) -> PlanFile | None:
    """Return the earlier ``plan.json``; None if there is none, or it is damaged and therefore set aside."""
    try:
        return read_plan(results.folder)
    except StorageError as error:
        note(f"{error}; set aside as {move_aside(results.folder).name}")
        return None


def _others(results: Results, earlier: PlanFile | None, suite: str, selection: Selection) -> list[str]:
    """Return the cells of earlier runs of the suite that this run does not select; none if it selects everything."""
    if selection.everything:
        return []
    return [
        record.cell_id
        for record in results.latest()
        if record.suite == suite
        and (earlier is None or record.cell_id in earlier.cells)
        and not selection.covers(record.method, record.device.name)
    ]

"""The order of the stages: prepare what is missing, then measure one cell at a time, then records.

The only module that knows this order. Preparing runs in child processes, in parallel; measuring has the
machine to itself, and this process sleeps while a window is open.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import StorageError
from harness.measure.cell import CellFailure, CellLost, Evaluations, measure_cell
from harness.plugins import Plugins
from harness.prepare.jobs import Jobs
from harness.results.folder import Results
from harness.run.lost_boards import LostBoards
from harness.run.outcome import Options, Outcome, Watcher
from harness.run.recorder import _Recorder
from harness.store.artifacts import Store
from harness.store.files import write_atomically
from harness.suite.suite import Prepare
from harness.types.plan import Cell, Plan, PrepareHost
from harness.types.record import Record

__all__ = ["job_count", "run"]


ATTEMPTS = 3
"""How often a cell is begun in one run whose board is lost."""


def job_count(prepare: Prepare, host: PrepareHost) -> int:
    """Trainings at the same time: as many as the cores carry, one where a GPU trains."""
    if prepare.jobs != "auto":
        return int(prepare.jobs)
    if host.device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // (prepare.threads * prepare.processes))


def run(
    plan: Plan, plugins: Plugins, store: Store, results: Results, watcher: Watcher, options: Options
) -> Outcome:
    """Run a plan into a results folder; cells that have a good record there are kept.

    Raises:
        StorageError: the folder is in use by another run, or cannot be written.
        KeyboardInterrupt: after ending every process; all that is finished is on disk.
    """
    outcome = Outcome()
    run_id = _begin(plan, results, options.fresh)
    known = {record.cell_id: record for record in results.latest(current_only=True)}
    pending = [cell for cell in plan.cells if not _settled(cell, known.get(cell.id), options)]
    outcome.kept = len(plan.cells) - len(pending)
    possible = [cell for cell in pending if cell.impossible is None]
    needed = dict.fromkeys(key for cell in possible for key in plan.needed_by(cell))
    nodes = [node for key, node in plan.nodes.items() if key in needed and not store.has(key)]
    watcher.started(plan, nodes, pending, outcome.kept)
    plugins.notify("harness_run_started", plan=plan)
    recorder = _Recorder(plan, plugins, results, run_id, watcher, outcome)

    jobs = Jobs(store.root, plugins.blocked, options.threads, options.jobs, options.processes)
    try:
        outcome.failed_nodes = jobs.prepare(nodes, watcher)
        if not options.prepare_only:
            preprocess = _preprocess_times(plan, possible, outcome, jobs)
            jobs.close()  # nothing else runs while cells are measured
            _measure_all(pending, outcome, recorder, plan, plugins, store, preprocess)
    finally:
        jobs.close()
    ids = {cell.id for cell in plan.cells}
    outcome.records = [record for record in results.latest(current_only=True) if record.cell_id in ids]
    plugins.notify("harness_run_finished", records=outcome.records)
    return outcome


def _measure_all(
    pending: Sequence[Cell],
    outcome: Outcome,
    recorder: _Recorder,
    plan: Plan,
    plugins: Plugins,
    store: Store,
    preprocess: Mapping[str, float | None],
) -> None:
    """One cell after another. Cells whose board is lost come after all others, when it is back."""
    evaluations = Evaluations(store)
    lost = LostBoards(plugins)
    attempts: Counter[str] = Counter()
    queue = deque(pending)
    while queue:
        cell = queue.popleft()
        failure = next(
            (outcome.failed_nodes[k] for k in plan.needed_by(cell) if k in outcome.failed_nodes), None
        )
        if cell.impossible is not None or failure is not None:
            recorder.start(cell)
            if failure is None:
                recorder.skipped(cell)
            else:
                recorder.failed(cell, failure.stage, failure.plugin, failure.reason)
            continue
        board = lost.away(cell)
        if board is not None:
            if any(lost.away(other) is None for other in queue):
                queue.append(cell)
                continue
            if lost.left_s(board):
                recorder.watcher.board_awaited(board, lost.left_s(board))
            if not lost.back(board):
                if not attempts[cell.id]:
                    recorder.start(cell)
                    recorder.failed(cell, "measure", None, f"{board} does not answer, and did not come back")
                continue
        recorder.start(cell)
        attempts[cell.id] += 1
        try:
            measured = measure_cell(cell, plugins, store, evaluations, preprocess.get(cell.data))
        except CellLost as error:
            recorder.failed(cell, error.stage, error.plugin, str(error))
            if lost.lose(cell, error.board) and attempts[cell.id] < ATTEMPTS:
                recorder.watcher.cell_delayed(cell, error.board)
                queue.append(cell)
        except CellFailure as error:
            recorder.failed(cell, error.stage, error.plugin, str(error))
        else:
            recorder.measured(cell, measured)


def _settled(cell: Cell, record: Record | None, options: Options) -> bool:
    """Whether a cell needs no further attempt."""
    if record is None:
        return False
    if record.status == "skipped":
        return record.reason == cell.impossible
    return record.good and not (options.retry_flagged and record.flags)


def _begin(plan: Plan, results: Results, fresh: bool) -> str:
    """Write ``plan.json``; the run id of an earlier run in this folder goes on, unless ``fresh``."""
    path = results.folder / "plan.json"
    earlier: Mapping[str, Any] = {}
    if path.exists():
        try:
            earlier = json.loads(path.read_text())
        except ValueError:
            earlier = {}
    if fresh:
        results.archive(str(earlier.get("run_id", "earlier")))
    run_id = str(earlier["run_id"]) if "run_id" in earlier and not fresh else secrets.token_hex(8)
    text = json.dumps({"run_id": run_id, "suite": plan.suite, "cells": [cell.id for cell in plan.cells]})
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None
    return run_id


def _preprocess_times(
    plan: Plan, cells: Sequence[Cell], outcome: Outcome, jobs: Jobs
) -> dict[str, float | None]:
    """Time to preprocess one image, per data set; measured while nothing else runs."""
    keys = dict.fromkeys(cell.data for cell in cells if cell.data not in outcome.failed_nodes)
    return {key: jobs.preprocess_ms(plan.nodes[key]) for key in keys}

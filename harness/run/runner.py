"""Run a plan: prepare what is missing, then measure one cell at a time.

No other module knows this order. Nodes are prepared in parallel, in child processes. A cell has the machine to itself
while it is measured, and this process sleeps while a window is open.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from harness.errors import Stopped, SuiteError
from harness.machine import environment
from harness.measure.cell import CellFailure, CellLost, measure_cell
from harness.measure.discarded import run_discarded
from harness.measure.measured import Measured
from harness.measure.predictions import PredictionCache
from harness.plan.planner import Planned
from harness.plugins import Plugins
from harness.prepare.jobs import Jobs, NodeWatcher
from harness.prepare.messages import Failure
from harness.prepare.team import Setup
from harness.results.folder import Results
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.results.merged import Merged
from harness.results.summary import Summary
from harness.run.cell_queue import CellQueue
from harness.run.lost_boards import LostBoards
from harness.run.made_by import keep_origin
from harness.run.outcome import Options, Outcome, Watcher
from harness.run.plan_file import begin
from harness.run.recorder import Recorder
from harness.run.tracebacks import Tracebacks, trace_of
from harness.store.artifacts import Store
from harness.suite.suite import Prepare
from harness.types.plan import Cell, Node, Plan, PrepareHost
from harness.types.record import Record

__all__ = ["Prepares", "job_count", "run", "run_suite", "worker_count"]


def run_suite(
    planned: Planned, plugins: Plugins, store: Store, folder: Path, watcher: Watcher, options: Options
) -> Outcome:
    """Run a planned suite into a results folder, which no other run may use at the same time.

    Ctrl-C, a signal, or output that cannot be written ends every process. Everything that is finished is on disk, and
    the outcome has ``interrupted``.

    Raises:
        SuiteError: a package that the plan needs is missing, or the data of all of its cells.
        StorageError: another run uses the folder, or it cannot be written.
    """
    plan, prepare = planned.plan, planned.resolved.suite.prepare
    for reason in plan.missing_extras:
        raise SuiteError(reason)
    if plan.missing_data and all(cell.skipped for cell in plan.cells):
        raise SuiteError("; ".join(plan.missing_data))
    jobs = job_count(prepare, plan.host)
    options = replace(
        options,
        jobs=jobs,
        threads=prepare.threads,
        processes=prepare.processes,
        workers=worker_count(prepare, jobs),
    )
    results = Results(folder, create=True)
    with results.lock():
        try:
            outcome = run(plan, plugins, store, results, watcher, options)
        except KeyboardInterrupt as error:
            return Outcome(records=_records_of(plan, results), interrupted=Stopped.of(error))
        finally:
            watcher.close()
    if options.prepare_only:
        return outcome
    ids = {cell.id for cell in plan.cells}
    merged = Merged([results], current_only=True)
    records = [record for record in merged.records if record.cell_id in ids]  # of other machines too
    board = leaderboard_of(records, merged.answers_of, rank_by=plan.rank_by, baseline=plan.baseline)
    return replace(outcome, leaderboard=board)


def job_count(prepare: Prepare, host: PrepareHost) -> int:
    """Return the number of trainings that run at the same time: as many as the cores allow, or 1 on a GPU."""
    if prepare.jobs != "auto":
        return int(prepare.jobs)
    if host.device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // (prepare.threads * prepare.processes))


def worker_count(prepare: Prepare, jobs: int) -> int:
    """Return the number of processes that read images for each training process.

    ``auto``: the cores that ``jobs`` trainings leave free, and at most 16.
    """
    if prepare.workers != "auto":
        return int(prepare.workers)
    trainers = jobs * prepare.processes
    return min(16, max(0, (os.cpu_count() or 1) - trainers * prepare.threads) // trainers)


class Prepares(Protocol):
    """A protocol for objects that prepare nodes, such as :class:`~harness.prepare.jobs.Jobs`."""

    def prepare(self, nodes: Sequence[Node], watcher: NodeWatcher) -> dict[str, Failure]:
        """Make all nodes, each after its inputs. Return the failures by key."""
        ...

    def preprocess_ms(self, node: Node) -> float | None:
        """Return the milliseconds to preprocess one test image of a data node, or None if they cannot be measured."""
        ...

    def close(self) -> None:
        """End all preparing processes."""
        ...


def run(
    plan: Plan,
    plugins: Plugins,
    store: Store,
    results: Results,
    watcher: Watcher,
    options: Options,
    *,
    jobs: Prepares | None = None,
    boards: LostBoards | None = None,
) -> Outcome:
    """Run a plan into a results folder. Cells that have a good record there are not measured again.

    ``jobs`` and ``boards`` are made from ``options`` and ``plugins`` by default.

    Raises:
        StorageError: the folder cannot be written.
        KeyboardInterrupt: the user or a signal interrupted. Every process is ended, and everything that is finished is on disk.
    """
    machine = environment.machine_id()
    run_id = begin(plan, results, options, watcher.noted)
    if options.made_by is not None:
        keep_origin(results.folder, run_id, options.made_by)
    known = _known(plan, results, machine, watcher)
    pending = [cell for cell in plan.cells if not _settled(cell, known.get(cell.id), options)]
    possible = [cell for cell in pending if cell.skipped is None]
    needed = dict.fromkeys(key for cell in possible for key in plan.needed_by(cell))
    nodes = [node for key, node in plan.nodes.items() if key in needed and not store.usable(key)]
    kept = len(plan.cells) - len(pending)
    watcher.started(plan, nodes, pending, kept)
    plugins.notify("harness_run_started", plan=plan)
    recorder = Recorder(plan, plugins, results, run_id, watcher)

    setup = Setup(store.root, plugins.blocked, options.threads, options.processes, workers=options.workers)
    tracebacks = Tracebacks(results.folder, watcher.traced if options.traceback else None)
    jobs = jobs or Jobs(setup, options.jobs, tracebacks.keep)
    try:
        failed_nodes = jobs.prepare(nodes, watcher)
        if not options.prepare_only:
            preprocess = _preprocess_times(plan, possible, failed_nodes, jobs)
            jobs.close()  # nothing else runs while cells are measured
            cells = _measurable(pending, plan, failed_nodes, recorder)
            queue = CellQueue(cells, boards or LostBoards(plugins), watcher)
            _measure_all(queue, recorder, plugins, store, preprocess, tracebacks)
    finally:
        jobs.close()
    records = _records_of(plan, results)
    plugins.notify("harness_run_finished", records=records)
    absent = [cell for cell in plan.cells if cell.impossible is None and cell.absent]
    return Outcome(
        records=records, measured=recorder.count, kept=kept, failed_nodes=failed_nodes, without_data=absent
    )


def _measurable(
    pending: Sequence[Cell], plan: Plan, failed_nodes: Mapping[str, Failure], recorder: Recorder
) -> list[Cell]:
    """Record the cells that cannot be measured, as skipped or failed. Return the other cells."""
    cells = []
    for cell in pending:
        failure = next((failed_nodes[key] for key in plan.needed_by(cell) if key in failed_nodes), None)
        if failure is not None:
            attempt = recorder.start(cell)
            attempt.failed(failure.stage, failure.plugin or None, failure.reason, failure.traceback)
        elif cell.skipped is not None:
            recorder.start(cell).skipped(cell.skipped)
        else:
            cells.append(cell)
    return cells


def _measure_all(
    queue: CellQueue,
    recorder: Recorder,
    plugins: Plugins,
    store: Store,
    preprocess: Mapping[str, float | None],
    tracebacks: Tracebacks,
) -> None:
    """Measure one cell after another. Before the first cell on a device or fleet, one process is run and discarded."""
    cache = PredictionCache(store)
    processes: Counter[str] = Counter()  # by device or fleet: the processes that were measured
    while (turn := queue.next()) is not None:
        cell = turn.cell
        if turn.absent is not None:
            if not turn.begun:
                reason = f"{turn.absent} does not answer, and did not come back"
                recorder.start(cell).failed("measure", None, reason)
            continue
        attempt = recorder.start(cell)
        device = cell.task.device
        if device not in processes:
            run_discarded(cell, plugins, store)
        processes[device] += 1
        try:
            measured = measure_cell(cell, plugins, store, cache, preprocess.get(cell.data))
        except CellLost as error:
            attempt.failed(error.stage, error.plugin, str(error))
            if queue.again(cell, error.board):
                recorder.watcher.cell_delayed(cell, error.board)
        except CellFailure as error:
            traceback = tracebacks.keep(error.stage, cell.id, trace_of(error))
            attempt.failed(error.stage, error.plugin, str(error), traceback)
        else:
            attempt.measured(_numbered(measured, processes[device]))


def _numbered(measured: Measured, number: int) -> Measured:
    """Return the fields of a record with the number of its process on the device."""
    return replace(measured, state=measured.state.model_copy(update={"process": number}))


def _settled(cell: Cell, record: Summary | None, options: Options) -> bool:
    """Return whether a cell needs no further attempt."""
    if record is None:
        return False
    if record.status == "skipped":
        return record.reason == cell.skipped
    return record.good and not (options.retry_flagged and record.flags)


def _known(plan: Plan, results: Results, machine: str, watcher: Watcher) -> dict[str, Summary]:
    """Return the records of the plan's cells that were made on this machine and whose samples are not damaged."""
    merged = Merged([results], current_only=True)
    for problem in merged.problems:
        watcher.noted(problem)
    ids = {cell.id for cell in plan.cells}
    records = [record for record in merged.records if record.cell_id in ids]
    known = {record.cell_id: record for record in records if record.machine_id == machine}
    elsewhere = {record.cell_id for record in records if record.good} - known.keys()
    if elsewhere:
        cells = "1 cell was" if len(elsewhere) == 1 else f"{len(elsewhere)} cells were"
        watcher.noted(
            f"{cells} measured on another machine, whose records stay, and are measured on this machine too"
        )
    return known


def _records_of(plan: Plan, results: Results) -> list[Record]:
    """Return the latest record of each of the plan's cells that was made on this machine."""
    ids, machine = {cell.id for cell in plan.cells}, environment.machine_id()
    latest = results.latest(current_only=True)
    return [record for record in latest if record.cell_id in ids and record.machine_id == machine]


def _preprocess_times(
    plan: Plan, cells: Sequence[Cell], failed_nodes: Mapping[str, Failure], jobs: Prepares
) -> dict[str, float | None]:
    """Return the milliseconds to preprocess one image, by key of the data.

    They are measured before any cell, while nothing else runs.
    """
    keys = dict.fromkeys(cell.data for cell in cells if cell.data not in failed_nodes)
    return {key: jobs.preprocess_ms(plan.nodes[key]) for key in keys}

"""Options and outcome of a run, and the protocol of objects that show its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import Stopped
from harness.prepare.jobs import NodeWatcher
from harness.prepare.messages import Failure
from harness.results.leaderboard.leaderboard import Leaderboard
from harness.run.made_by import MadeBy
from harness.types.plan import Cell, Node, Plan
from harness.types.record import Record
from harness.types.selection import Selection

__all__ = ["Options", "Outcome", "Watcher"]


class Watcher(NodeWatcher, Protocol):
    """A protocol for objects that show the progress of a run. No method is called while a measuring window is open."""

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None:
        """Show that the run begins, with ``nodes`` to prepare and ``cells`` to measure.

        ``kept`` cells are measured already.
        """
        ...

    def cell_started(self, cell: Cell) -> None:
        """Show that an attempt of a cell begins."""
        ...

    def cell_finished(self, cell: Cell, record: Record) -> None:
        """Show that the record of an attempt is written."""
        ...

    def cell_delayed(self, cell: Cell, board: str) -> None:
        """Show that a cell will be tried again after the others, because its board was lost."""
        ...

    def board_awaited(self, board: str, seconds: float) -> None:
        """Show that the run waits for a lost board, for at most ``seconds``."""
        ...

    def traced(self, trace: str) -> None:
        """Show the traceback of a step or cell that failed, if the user asked for it."""
        ...

    def close(self) -> None:
        """End the display. This is also called after an error or an interruption."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run that are not in its suite.

    ``jobs``: number of trainings at the same time. ``threads``: threads of each training process. ``processes``:
    processes that share each training. ``workers``: processes that read images for each of these. ``prepare_only``: measure nothing. ``fresh``: set earlier records aside.
    ``retry_flagged``: measure cells again whose record has flags. ``selection``: the part of the suite that the plan
    is limited to. ``made_by``: how the run was started, which the results folder keeps. ``traceback``: show the
    tracebacks of failures instead of writing them into the results folder.
    """

    jobs: int = 1
    threads: int = 1
    processes: int = 1
    workers: int = 0
    prepare_only: bool = False
    fresh: bool = False
    retry_flagged: bool = False
    selection: Selection = field(default_factory=Selection)
    made_by: MadeBy | None = None
    traceback: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a run.

    ``records``: the latest record of each cell of the plan that has one. ``measured``: number of attempts. ``kept``:
    number of cells that had a good record before. ``failed_nodes``: failures of nodes, by key. ``without_data``: the
    cells that were skipped because their data are not here. ``leaderboard``: of the records, or ``None`` if nothing was
    to be measured or the run was interrupted. ``interrupted``: why the run ended early.
    """

    records: Sequence[Record] = ()
    measured: int = 0
    kept: int = 0
    failed_nodes: Mapping[str, Failure] = field(default_factory=dict)
    without_data: Sequence[Cell] = ()
    interrupted: Stopped | None = None
    leaderboard: Leaderboard | None = None

    @property
    def failed(self) -> list[Record]:
        """Return the records of cells that failed."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def exit_code(self) -> int:
        """Return 0 if every cell is measured, 1 if a node or cell failed or has no data, or the interruption's code."""
        if self.interrupted is not None:
            return self.interrupted.code
        return 1 if self.failed or self.failed_nodes or self.without_data else 0

"""Options and outcome of a run, and the protocol of what shows its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.prepare.jobs import NodeWatcher
from harness.prepare.messages import Failure
from harness.results.leaderboard.leaderboard import Leaderboard
from harness.types.plan import Cell, Node, Plan
from harness.types.record import Record

__all__ = ["Options", "Outcome", "Watcher"]


class Watcher(NodeWatcher, Protocol):
    """Shows the progress of a run. Its methods are never called while a measuring window is open."""

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None:
        """The run begins: ``nodes`` to prepare, ``cells`` to measure; ``kept`` cells are measured already."""
        ...

    def cell_started(self, cell: Cell) -> None:
        """An attempt of a cell begins."""
        ...

    def cell_finished(self, cell: Cell, record: Record) -> None:
        """The record of an attempt is written."""
        ...

    def cell_delayed(self, cell: Cell, board: str) -> None:
        """A cell is tried again after the others, because its board was lost."""
        ...

    def board_awaited(self, board: str, seconds: float) -> None:
        """The run waits for a lost board, at most for so long."""
        ...

    def close(self) -> None:
        """The run is over, also by an error or an interruption."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run does beyond its suite.

    ``jobs``: trainings at the same time. ``threads``: of each training process. ``processes``: that share each
    training. ``prepare_only``: measure nothing. ``fresh``: set earlier records aside. ``retry_flagged``: measure
    cells again whose record has flags.
    """

    jobs: int = 1
    threads: int = 1
    processes: int = 1
    prepare_only: bool = False
    fresh: bool = False
    retry_flagged: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did.

    ``records``: the latest of every cell of the plan that has one. ``measured``: attempts made. ``kept``: cells that
    had a good record before. ``failed_nodes``: by key. ``leaderboard``: of the records; ``None`` where nothing was to
    be measured, or the run was interrupted.
    """

    records: Sequence[Record] = ()
    measured: int = 0
    kept: int = 0
    failed_nodes: Mapping[str, Failure] = field(default_factory=dict)
    interrupted: bool = False
    leaderboard: Leaderboard | None = None

    @property
    def failed(self) -> list[Record]:
        """Records of cells that failed."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def exit_code(self) -> int:
        """0: every cell is measured; 1: some cell failed; 130: interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.failed_nodes else 0

"""Options and outcome of a run, and the protocol of those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.prepare.messages import Failure
from harness.types.plan import Cell, Node, Plan
from harness.types.record import Record

__all__ = ["Options", "Outcome", "Watcher"]


class Watcher(Protocol):
    """Tells a person what happens. Never called while a measuring window is open."""

    def started(self, plan: Plan, nodes: Sequence[Node], cells: Sequence[Cell], kept: int) -> None: ...
    def node_started(self, node: Node) -> None: ...
    def node_progress(self, node: Node, text: str, fraction: float | None) -> None: ...
    def node_finished(self, node: Node, seconds: float) -> None: ...
    def node_failed(self, node: Node, failure: Failure) -> None: ...
    def tick(self) -> None: ...
    def cell_started(self, cell: Cell) -> None: ...
    def cell_finished(self, cell: Cell, record: Record) -> None: ...
    def cell_delayed(self, cell: Cell, board: str) -> None: ...
    def board_awaited(self, board: str, seconds: float) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """What of a run is not in its suite."""

    jobs: int = 1
    threads: int = 1
    processes: int = 1
    prepare_only: bool = False
    fresh: bool = False
    retry_flagged: bool = False


@dataclass
class Outcome:
    """What a run did. ``records`` are the latest of every cell of the plan that has one."""

    records: list[Record] = field(default_factory=list)
    measured: int = 0
    kept: int = 0
    failed_nodes: dict[str, Failure] = field(default_factory=dict)

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.records if record.status == "failed"]

"""The cells of a run that are still to be measured, and when a cell waits for its board."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from harness.run.lost_boards import LostBoards
from harness.run.outcome import Watcher
from harness.types.plan import Cell

__all__ = ["CellQueue", "Turn"]

ATTEMPTS = 3
"""Largest number of times that a run begins a cell, if its board is lost each time."""


@dataclass(frozen=True)
class Turn:
    """The next cell of a run.

    ``absent`` is a board that the cell needs and that did not come back, or None. If it is set, the cell cannot be
    measured. ``begun``: whether the cell was begun before in this run.
    """

    cell: Cell
    absent: str | None
    begun: bool


class CellQueue:
    """The cells of a run in the order of the plan. A cell whose board is lost comes after all others."""

    def __init__(self, cells: Sequence[Cell], boards: LostBoards, watcher: Watcher) -> None:
        self._cells = deque(cells)
        self._boards, self._watcher = boards, watcher
        self._begun: Counter[str] = Counter()

    def next(self) -> Turn | None:
        """Return the next cell, or ``None`` at the end. If only cells with a lost board remain, wait for the board."""
        while self._cells:
            cell = self._cells.popleft()
            board = self._boards.away(cell)
            if board is not None and any(self._boards.away(other) is None for other in self._cells):
                self._cells.append(cell)
                continue
            return self._turn(cell, None if board is None or self._back(board) else board)
        return None

    def again(self, cell: Cell, board: str) -> bool:
        """Queue a cell again because ``board`` was lost. Return whether it is queued.

        It is not queued if the cell does not need the board, or if it was begun :data:`ATTEMPTS` times.
        """
        if not self._boards.lose(cell, board) or self._begun[cell.id] >= ATTEMPTS:
            return False
        self._cells.append(cell)
        return True

    def _turn(self, cell: Cell, absent: str | None) -> Turn:
        begun = self._begun[cell.id] > 0
        if absent is None:
            self._begun[cell.id] += 1
        return Turn(cell, absent, begun)

    def _back(self, board: str) -> bool:
        if self._boards.left_s(board):
            self._watcher.board_awaited(board, self._boards.left_s(board))
        return self._boards.back(board)

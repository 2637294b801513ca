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
"""How often a run begins a cell whose board is lost each time."""


@dataclass(frozen=True)
class Turn:
    """The next cell. ``absent``: a board that it needs, which did not come back: it cannot be measured.

    ``begun``: whether the cell was begun before in this run.
    """

    cell: Cell
    absent: str | None
    begun: bool


class CellQueue:
    """Gives cells in the order of the plan; cells whose board is lost come after all others."""

    def __init__(self, cells: Sequence[Cell], boards: LostBoards, watcher: Watcher) -> None:
        self._cells = deque(cells)
        self._boards, self._watcher = boards, watcher
        self._begun: Counter[str] = Counter()

    def next(self) -> Turn | None:
        """Return the next cell, after waiting for its board where it is lost; ``None`` at the end."""
        while self._cells:
            cell = self._cells.popleft()
            board = self._boards.away(cell)
            if board is not None and any(self._boards.away(other) is None for other in self._cells):
                self._cells.append(cell)
                continue
            return self._turn(cell, None if board is None or self._back(board) else board)
        return None

    def again(self, cell: Cell, board: str) -> bool:
        """Queue a cell again because ``board`` was lost; return whether it is queued.

        It is not where the board is unknown to the cell, or the cell was begun :data:`ATTEMPTS` times.
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

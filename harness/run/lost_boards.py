"""Boards that stopped answering during a run: which cells need one, and whether it is back."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.errors import BoardLost, HarnessError
from harness.machine.environment import is_board
from harness.measure.deploy import names_of
from harness.plugins import Plugins
from harness.types import DeviceSpec
from harness.types.plan import Cell, DeviceRef

__all__ = ["LostBoards"]

WAIT_S = 60.0
"""How long a run waits for one board, all its absences together."""

LOOK_S = 2.0


class LostBoards:
    """Lost boards by name. A worker of this machine is none: it is started anew for every cell."""

    def __init__(
        self,
        plugins: Plugins,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plugins = plugins
        self._clock, self._sleep = clock, sleep
        self._lost: dict[str, DeviceRef] = {}
        self._left: dict[str, float] = {}

    def lose(self, cell: Cell, board: str) -> bool:
        """A cell found that ``board`` does not answer; whether the cell may be tried again."""
        spec = self._needed(cell).get(board)
        if spec is None:
            return False
        self._lost[board] = spec
        return True

    def away(self, cell: Cell) -> str | None:
        """A lost board that a cell needs."""
        return next((board for board in self._needed(cell) if board in self._lost), None)

    def left_s(self, board: str) -> float:
        """How long the run still waits for a board."""
        return self._left.get(board, WAIT_S)

    def back(self, board: str) -> bool:
        """Wait until a lost board answers, in what time is left for it; whether it does."""
        end = self._clock() + self.left_s(board)
        while self._clock() < end:
            if self._answers(self._lost[board]):
                self._left[board] = max(0.0, end - self._clock())
                del self._lost[board]
                return True
            self._sleep(min(LOOK_S, max(0.0, end - self._clock())))
        self._left[board] = 0.0
        return False

    def _answers(self, spec: DeviceRef) -> bool:
        backend = self._plugins.backends.get(spec.backend).entry
        params = backend.params(**spec.params)
        try:
            with backend.open(
                DeviceSpec(name=spec.name, backend=spec.backend, params=params, threads=spec.threads)
            ):
                return True
        except BoardLost:
            return False
        except HarnessError:
            return True  # it answers; what is wrong, the cell will tell

    @staticmethod
    def _needed(cell: Cell) -> dict[str, DeviceRef]:
        """A cell's boards by every name under which they may be told: in the suite, and where they are listed."""
        found: dict[str, DeviceRef] = {}
        for name, spec, info in zip(names_of(cell.task), cell.task.specs, cell.task.infos, strict=False):
            if is_board(info.details):
                found |= {name: spec, spec.params.get("board") or spec.name: spec}
        return found

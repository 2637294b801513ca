"""Boards that stopped answering during a run: the cells that need them, and whether they answer again."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.errors import BoardLost
from harness.measure.deploy import device_names
from harness.plugins import Plugins
from harness.types import DeviceSpec
from harness.types.plan import Cell, DeviceRef

__all__ = ["LostBoards"]

WAIT_S = 60.0
"""Total time in seconds that a run waits for one board, over all its absences."""

LOOK_S = 2.0
"""Pause in seconds between two attempts to open a lost board."""


class LostBoards:
    """The lost boards, by name. A worker of this machine is not a board: every cell starts its own worker.

    ``wait_s``: total time to wait for one board, over all its absences. ``look_s``: pause between two attempts.
    """

    def __init__(
        self,
        plugins: Plugins,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        *,
        wait_s: float = WAIT_S,
        look_s: float = LOOK_S,
    ) -> None:
        self._plugins = plugins
        self._clock, self._sleep = clock, sleep
        self._wait_s, self._look_s = wait_s, look_s
        self._lost: dict[str, DeviceRef] = {}
        self._left: dict[str, float] = {}

    def lose(self, cell: Cell, board: str) -> bool:
        """Note that ``board`` does not answer ``cell``. Return whether the cell needs that board."""
        spec = self._needed(cell).get(board)
        if spec is None:
            return False
        self._lost[board] = spec
        return True

    def away(self, cell: Cell) -> str | None:
        """Return a lost board that the cell needs, or None."""
        return next((board for board in self._needed(cell) if board in self._lost), None)

    def left_s(self, board: str) -> float:
        """Return the seconds for which the run still waits for a board."""
        return self._left.get(board, self._wait_s)

    def back(self, board: str) -> bool:
        """Wait until a lost board answers, but not longer than the time that is left. Return whether it answers."""
        end = self._clock() + self.left_s(board)
        while self._clock() < end:
            if self._answers(self._lost[board]):
                self._left[board] = max(0.0, end - self._clock())
                del self._lost[board]
                return True
            self._sleep(min(self._look_s, max(0.0, end - self._clock())))
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
        except (Exception, SystemExit):  # noqa: BLE001 - a backend may raise anything
            return True  # it answers, and the cell will record the error

    @staticmethod
    def _needed(cell: Cell) -> dict[str, DeviceRef]:
        """Return the boards of a cell by each of their names: in the suite and in the inventory."""
        needed: dict[str, DeviceRef] = {}
        for name, spec, info in zip(device_names(cell.task), cell.task.specs, cell.task.infos, strict=False):
            if info.is_board:
                needed |= {name: spec, spec.params.get("board") or spec.name: spec}
        return needed

"""Run a process on a device before its first cell, and discard it.

The first process on a machine can be slower than the later ones: files are not cached yet, and clocks and a virtual
machine's cores are still slow. Its times are in no figure.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

from harness.measure.cell_data import open_cell
from harness.measure.deploy import deploy
from harness.plugins import Plugins
from harness.store.artifacts import Store
from harness.types import Monitor
from harness.types.plan import Cell

__all__ = ["DISCARDED_S", "run_discarded"]

DISCARDED_S = 0.3
"""Seconds for which the process answers queries. The query that is in progress is still answered."""


def run_discarded(cell: Cell, plugins: Plugins, store: Store, seconds: float = DISCARDED_S) -> bool:
    """Deploy a cell, answer queries for ``seconds``, and end its processes. Return whether this succeeded.

    A failure is no result of this function. The cell is measured next, fails in the same way, and has a record of it.
    """
    task = replace(cell.task, monitors=tuple(Monitor() for _ in cell.task.monitors))
    try:
        data = open_cell(cell, store)
        batch = cell.task.measure.batch
        images = data.parity_images()[:batch]
        with ExitStack() as stack:
            deployed = deploy(replace(cell, task=task), data.export, plugins, store, stack)
            end = time.monotonic() + seconds
            while True:
                deployed.central.infer(images, batch)
                if time.monotonic() >= end:
                    return True
    except (Exception, SystemExit):  # noqa: BLE001 - a plugin may raise anything, and the next process reports it
        return False

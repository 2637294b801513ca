"""Work for a second process, which imports it by name."""

from __future__ import annotations

import multiprocessing
import os
import signal


def doubled(part: int) -> tuple[int, int]:
    """Return twice the part, and the process that computed it."""
    return 2 * part, os.getpid()


def killed(part: int) -> int:
    """Return twice the part, or kill the process if it is a child."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * part


def refused(part: int) -> int:
    """Raise an error for the first part."""
    if part == 0:
        raise ValueError("part 0")
    return part

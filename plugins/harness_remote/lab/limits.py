"""Limits of a board's memory: cgroups of version 1 or 2, if this machine allows them.

A cgroup outlives its processes, so the supervisor must remove the folders with :func:`sweep`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["controller", "group", "join", "sweep"]

ROOT = Path("/sys/fs/cgroup")
PREFIX = "harness-lab"


def controller() -> tuple[Path, str]:
    """Return the folder for memory groups, and the name of the file with the limit."""
    if (ROOT / "memory").is_dir():
        return ROOT / "memory", "memory.limit_in_bytes"
    return ROOT, "memory.max"


def group(lab: str, board: str, limit: int) -> Path | str:
    """Make a board's group with a limit in bytes. Return its folder, or a text with the reason why there is none."""
    root, name = controller()
    folder = root / f"{PREFIX}-{lab}" / board
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name == "memory.max":
            for parent in (root, folder.parent):
                (parent / "cgroup.subtree_control").write_text("+memory")
        (folder / name).write_text(str(limit))
        swap = folder / ("memory.swap.max" if name == "memory.max" else "memory.memsw.limit_in_bytes")
        with contextlib.suppress(OSError):  # no swap accounting
            swap.write_text("0" if name == "memory.max" else str(limit))
    except OSError as error:
        sweep(lab)
        return f"no memory limit: {error.filename or folder}: {error.strerror or error}"
    return folder


def join(folder: Path) -> None:
    """Put this process, and every process that it starts, into the group."""
    (folder / "cgroup.procs").write_text(str(os.getpid()))


def sweep(lab: str, wait_s: float = 2.0) -> None:
    """Remove a lab's groups after their processes have ended. Give up after ``wait_s`` seconds."""
    root, _ = controller()
    top = root / f"{PREFIX}-{lab}"
    end = time.monotonic() + wait_s
    while top.is_dir():
        late = time.monotonic() > end
        with contextlib.suppress(OSError):  # another process sweeps, too
            for folder in (*(path for path in top.iterdir() if path.is_dir()), top):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        if late:
            return
        time.sleep(0.02)

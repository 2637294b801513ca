"""``harness run`` on the boards of a lab, as a child process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["COMMAND", "die_with_parent", "run_suite"]

COMMAND = (sys.executable, "-m", "harness", "run")
PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None)

_BOUND = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Binds a process to its parent, then becomes another program. ``preexec_fn`` is unsafe in a process with threads."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent thread ends. Called in a child before ``exec``."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run_suite(arguments: Sequence[str], inventory: Path, command: Sequence[str] = COMMAND) -> int:
    """Run ``harness run`` with ``arguments`` on the boards of ``inventory`` and return its exit code.

    Ctrl-C in a terminal reaches parent and child, so the parent only waits for the child to end. Without a
    terminal the parent passes the signal on. A child that was ended by a signal gives 128 plus its number.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", _BOUND, str(os.getpid()), *command, *arguments],
        env={**os.environ, "HARNESS_DEVICES": str(inventory)},
    )
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                child.send_signal(signal.SIGINT)
        else:
            return 128 - code if code < 0 else code

"""Run ``harness run`` on the boards of a lab, in a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import Stopped
from harness.processes import bound

__all__ = ["COMMAND", "run_suite"]

COMMAND = (sys.executable, "-m", "harness", "run")


def run_suite(arguments: Sequence[str], inventory: Path, command: Sequence[str] = COMMAND) -> int:
    """Run ``harness run`` with ``arguments`` on the boards of ``inventory`` and return its exit code.

    In a terminal, Ctrl-C reaches parent and child, so the parent only waits for the child. Without a terminal, the
    parent forwards the signal. It always forwards SIGTERM and SIGHUP. The exit code of a child that a signal ended is 128 plus the signal's number.
    """
    child = subprocess.Popen(
        bound([*command, *arguments]), env={**os.environ, "HARNESS_DEVICES": str(inventory)}
    )
    while True:
        try:
            code = child.wait()
        except Stopped as stopped:
            child.send_signal(stopped.signal or signal.SIGTERM)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                child.send_signal(signal.SIGINT)
        else:
            return 128 - code if code < 0 else code

"""Settings that every process of the harness makes before it imports a library, for itself and for its children.

A library that sends telemetry, or a file in the current folder that is imported in place of a module, changes the
result of a measurement. Therefore telemetry is switched off, and the current folder is not on the path of a process
of the harness.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import MappingProxyType

__all__ = [
    "NO_TELEMETRY",
    "as_started",
    "be_quiet",
    "clean_path",
    "no_current_folder",
    "telemetry_off",
    "without_current_folder",
]

SAFE_PATH = "PYTHONSAFEPATH"
OURS = "harness"
"""The value of ``PYTHONSAFEPATH`` that the harness sets. Python only asks whether there is one."""

NO_TELEMETRY: Mapping[str, str] = MappingProxyType(
    {
        # onnxruntime 1.32 for Linux: its import starts threads, connects to its maker and writes to ~/.cache/Microsoft;
        # disable_telemetry_events() comes too late
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",  # consoledonottrack.com: other libraries of plugins
    }
)
"""Environment variables that switch the telemetry of libraries off."""


def be_quiet(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch telemetry off for this process and for its children."""
    environment.update(NO_TELEMETRY)


def no_current_folder(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the current folder off the path of the Python processes that this process starts.

    Only the processes of the harness call this. A program that imports the harness keeps its path, and so do the
    programs that it starts. A user's own setting of ``PYTHONSAFEPATH`` is kept.

    Python 3.10 has no variable for the path. Under it, files in the current folder can replace modules of the
    standard library while a worker starts.
    """
    environment.setdefault(SAFE_PATH, OURS)


def as_started(environment: MutableMapping[str, str] = os.environ) -> None:
    """Undo :func:`no_current_folder` in a process that runs code of plugins, which may start scripts of theirs."""
    if environment.get(SAFE_PATH) == OURS:
        del environment[SAFE_PATH]


@contextmanager
def clean_path(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Start processes in this block without the current folder on their path."""
    before = environment.get(SAFE_PATH)
    no_current_folder(environment)
    try:
        yield
    finally:
        if before is None:
            as_started(environment)


def telemetry_off(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables of :data:`NO_TELEMETRY` that are in force."""
    return [name for name, value in NO_TELEMETRY.items() if environment.get(name) == value]


def without_current_folder(module: str) -> list[str]:
    """Return the command that runs a module as ``python -m`` does, without the current folder on its path."""
    code = (
        "import sys; sys.path[:] = [place for place in sys.path if place]; "
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code]

"""Settings that every process of the harness makes before it imports a library, for itself and for its children.

A library that sends telemetry, or a file in the current folder that is imported in place of a module, changes the
result of a measurement. Therefore telemetry is switched off, and the current folder is not on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

__all__ = ["NO_TELEMETRY", "be_quiet", "telemetry_off", "without_current_folder"]

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


def be_quiet(environment: MutableMapping[str, str] = os.environ, path: list[str] = sys.path) -> None:
    """Switch telemetry off, and keep the current folder off the path of this process and of its children.

    Python 3.10 has no variable for the path. Under it, files in the current folder can replace modules of the
    standard library while a worker starts.
    """
    environment.update(NO_TELEMETRY)
    environment["PYTHONSAFEPATH"] = "1"
    if "" in path:  # python -c
        path.remove("")


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

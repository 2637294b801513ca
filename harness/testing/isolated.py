"""Call a plugin's hooks and planning functions in a new process."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.contracts.need import Need
from harness.errors import last_line
from harness.hookspecs import COLLECTING

__all__ = ["HEAVY", "call_hooks", "in_new_process", "serve"]


HEAVY = ("torch", "timm", "onnx", "onnxruntime")
"""Modules that a plugin's module and its planning functions must not import."""


def in_new_process(need: Need, function: Callable[..., Any], *arguments: Any, light: bool = True) -> Any:
    """Return ``function(*arguments)`` from a new interpreter. If ``light``, the call must not import torch there."""
    name = getattr(function, "__qualname__", function)
    where = "where it, and all it is given, must be importable by name"
    with tempfile.NamedTemporaryFile() as answer:
        code = (
            "import sys; sys.path[:] = [place for place in sys.path if place]\n"  # without the current folder
        )
        code += "import pickle; sys.path[:] = pickle.load(sys.stdin.buffer)\n"
        code += "from harness.testing.isolated import serve; serve(sys.argv[1])"
        try:
            call = pickle.dumps(sys.path) + pickle.dumps((function, arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise AssertionError(f"{name} cannot be called in a new process, {where}: {error}") from None
        child = subprocess.run(
            [sys.executable, "-c", code, answer.name], input=call, capture_output=True, check=False
        )
        last = last_line(child.stderr.decode(errors="replace"))
        need(child.returncode == 0, f"{name} fails in a new process, {where}: {last}", "hookspecs")
        result, heavy = pickle.load(answer)
    need(not (light and heavy), f"{name} imports {', '.join(heavy)} at planning time", "hookspecs")
    return result


def serve(answer: str) -> None:
    """Call the function that is pickled on stdin.

    Write its result, and the heavy modules that it imported, to ``answer``.
    """
    function, arguments = pickle.load(sys.stdin.buffer)
    result = function(*arguments), [name for name in HEAVY if name in sys.modules]
    Path(answer).write_bytes(pickle.dumps(result))


def call_hooks(module: str) -> None:
    """Import a plugin's module and call all its collecting hooks."""
    plugin = importlib.import_module(module)
    for hook in COLLECTING:
        list(getattr(plugin, hook, tuple)())

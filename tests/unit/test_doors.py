"""The doors for plugin authors: what they export is documented, and nothing else is."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOOKS = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
DOORS = ("harness.methods",)
EXPORTS = [(door, name) for door in DOORS for name in importlib.import_module(door).__all__]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_gives_what_it_lists_and_nothing_else(door: str) -> None:
    module = importlib.import_module(door)
    public = {name for name in vars(module) if not name.startswith("_")}
    assert public == set(module.__all__)
    assert len(module.__all__) == len(public)


@pytest.mark.parametrize(("door", "name"), EXPORTS)
def test_what_a_door_gives_is_documented(door: str, name: str) -> None:
    value = getattr(importlib.import_module(door), name)
    if inspect.isclass(value) or inspect.isroutine(value):
        doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert doc, f"{name} has no docstring"
        assert not doc.startswith(f"{name}("), f"{name} has a dataclass's own docstring only"
    section = HOOKS.partition(f"`{door}`")[2]
    assert re.search(rf"`{name}\b", section), f"docs/hooks.md does not say what {name} of {door} is"


@pytest.mark.parametrize("door", DOORS)
def test_a_door_imports_nothing_heavy(door: str) -> None:
    code = f"import {door}, sys; print(*{{'torch', 'timm', 'onnx', 'onnxruntime'}} & {{*sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []

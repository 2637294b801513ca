"""Tests of ``harness.methods``, the interface for authors of models, compressors, partitioners and placers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from harness import methods

HOOKS = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()


@pytest.mark.parametrize("name", methods.__all__)
def test_every_exported_name_has_a_docstring_and_is_documented(name: str) -> None:
    value = getattr(methods, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        doc = inspect.getdoc(value) or ""
        assert doc, f"{name} has no docstring"
        assert not doc.startswith(f"{name}("), f"{name} has only the docstring that a dataclass makes"
    section = HOOKS.partition("## What models, compressors, partitioners, placers and data sets import")[2]
    assert f"| `{name}` |" in section.partition("## ")[0]


def test_nothing_else_is_exported() -> None:
    given = {name for name in vars(methods) if not name.startswith("_")}
    assert given - {"TYPE_CHECKING", "annotations", "door"} <= set(methods.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        methods.fit  # noqa: B018


def test_the_door_does_not_import_torch() -> None:
    script = "import sys, harness.methods; assert not {'torch', 'timm', 'onnx'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

"""Tests of ``harness.devices``, the interface for authors of backends, runtimes and meters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import devices

HOOKS = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()


@pytest.mark.parametrize("name", devices.__all__)
def test_every_exported_name_has_a_docstring_and_is_documented(name: str) -> None:
    assert getattr(devices, name).__doc__
    assert f"| `{name}` |" in HOOKS.partition("## What backends, runtimes and meters import")[2]


def test_nothing_else_is_exported() -> None:
    given = {name for name in vars(devices) if not name.startswith("_")}
    assert given - {"TYPE_CHECKING", "annotations", "door"} <= set(devices.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Samples'"):
        devices.Samples  # noqa: B018


def test_the_door_is_light_until_a_name_is_used() -> None:
    script = (
        "import sys, harness.devices as d\n"
        "assert 'numpy' not in sys.modules\n"
        "[getattr(d, name) for name in d.__all__]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

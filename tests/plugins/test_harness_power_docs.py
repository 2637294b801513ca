"""Tests of docs/meters.md: its example of a meter works, from probing to a reading."""

from __future__ import annotations

import importlib
import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import pluggy
import pytest

from harness import hookspecs
from harness.types import MeterEntry, MeterInfo, Unavailable

DOCS = Path(__file__).parents[2] / "docs" / "meters.md"
HEADING = "## A meter of your own"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return the Python code of the section, imported under the module name that the section gives."""
    section = DOCS.read_text().split(f"\n{HEADING}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    name = re.findall(r'^battery = "(\w+)"$', section, re.MULTILINE)[0]
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HARNESS_SYSROOT", str(tmp_path))
    return importlib.import_module(name)


@pytest.fixture
def battery(tmp_path):
    folder = tmp_path / "sys/class/power_supply/BAT0"
    folder.mkdir(parents=True)
    (folder / "status").write_text("Discharging\n")
    (folder / "power_now").write_text("7250000\n")
    return folder


def entry(plugin) -> MeterEntry:
    manager = pluggy.PluginManager("harness")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    ((found,),) = manager.hook.harness_meters()
    return found


def test_it_reads(plugin, battery):
    found = entry(plugin)
    (info,) = found.probe()
    opened = getattr(plugin, found.open.__qualname__)  # by name, in another process
    meter = opened(MeterInfo(**json.loads(json.dumps(asdict(info)))))
    before = time.monotonic_ns()
    at, watts = meter.read()
    assert before <= at <= time.monotonic_ns()
    assert watts == 7.25
    (battery / "status").write_text("Charging\n")
    with pytest.raises(OSError, match="charger"):
        meter.read()
    meter.close()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("status", "Charging\n", "charger"),
        ("power_now", None, "No such file"),
        ("power_now", "-", "invalid literal"),
    ],
)
def test_it_gives_the_reason_if_it_cannot_be_read(plugin, battery, name, text, reason):
    (battery / name).unlink()
    if text is not None:
        (battery / name).write_text(text)
    (unavailable,) = entry(plugin).probe()
    assert isinstance(unavailable, Unavailable)
    assert reason in unavailable.reason
    assert unavailable.fix


def test_without_a_battery_there_is_no_meter(plugin):
    assert list(entry(plugin).probe()) == []

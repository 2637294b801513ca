"""Tests of docs/hardware.md: it has the table that docs/hardware.py writes, without data about the owner of a board."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness_remote.agent.board import describe
from harness_remote.inventory.check import BoardCheck

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("hardware_page", DOCS / "hardware.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checked():
    """Return what `harness devices check --json` reports for this machine."""
    check = BoardCheck(
        name="my-secret-name",
        target="10.1.2.3:50151",
        backend="agent",
        emulated=False,
        checked="2026-01-02",
        usable=True,
        version="0.1.0",
        description=describe(),
    )
    return json.loads(json.dumps(check.to_json()))


def test_a_row_describes_the_board_and_not_its_owner(page, checked):
    (line,) = page.table([checked]).splitlines()[2:]
    assert checked["model"] in line
    assert "2026-01-02" in line
    assert len(line.split(" | ")) == len(page.HEADER)
    for secret in (
        "my-secret-name",
        "10.1.2.3",
        checked["machine_id"],
        checked["boot_id"],
        socket.gethostname(),
    ):
        assert not secret or secret not in line


def test_a_row_of_a_jetson_has_its_providers_and_its_release(page, checked):
    jetson = {
        **checked,
        "model": "NVIDIA Jetson Orin Nano",
        "soc": "tegra234",
        "jetpack": {"l4t": "36.4", "release": "6.2"},
        "onnxruntime": {
            "version": "1.23.0",
            "providers": ["TensorrtExecutionProvider", "CPUExecutionProvider"],
        },
        "meters": [{"name": "ina3221:b"}, {"name": "ina3221:a"}],
        "usable": False,
        "virtualised": None,
    }
    (line,) = page.table([jetson]).splitlines()[2:]
    for words in (
        "NVIDIA Jetson Orin Nano (tegra234)",
        "JetPack 6.2",
        "1.23.0 (Tensorrt, CPU)",
        "ina3221:a, ina3221:b",
        "not usable",
    ):
        assert words in line


def test_the_page_has_such_rows_and_only_emulated_boards(page):
    lines = [line for line in (DOCS / "hardware.md").read_text().splitlines() if line.startswith("| ")]
    assert lines[:2] == page.table([]).splitlines()
    assert lines[2:]
    assert all(line.startswith("| emulated: ") for line in lines[2:])


def test_boards_that_were_not_reached_have_no_row(page, checked, tmp_path):
    (tmp_path / "mine.json").write_text(
        json.dumps([checked, {"name": "pi1", "usable": False, "problem": "gone"}])
    )
    done = subprocess.run(
        [sys.executable, DOCS / "hardware.py", tmp_path / "mine.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 3

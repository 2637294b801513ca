"""Tests of the way of a data set's note to the user: plan, record and tables show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli import cli
from harness.measure.fields import fields_known_before
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.render import render
from harness.results.leaderboard.leaderboard import leaderboard_of
from harness.suite.loading import load_suite
from harness.types.plan import PrepareHost
from harness.types.record import Record

SUITE = """
suite: notes
data: {{name: imagefolder, path: {path}, image_size: 16, note: "photos [b]of[/b] pets"}}
methods:
  vit: {{build: {{vit: {{patch_size: 4, dim: 24, depth: 1, heads: 2}}}}}}
devices: {{here: {{backend: cpu}}}}
run: [{{methods: all, devices: [here]}}]
"""
HOST = PrepareHost(torch="1")
COUNTED = "1 of 2 test pictures have the bytes of a training picture"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for value, place in ((1, "train/a"), (2, "train/b"), (1, "test/a"), (3, "test/b")):
        (tmp_path / "pets" / place).mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / "pets" / place / "0.png")
    path = tmp_path / "notes.yaml"
    path.write_text(SUITE.format(path=tmp_path / "pets"))
    return path


def test_a_note_is_in_the_plan_the_record_and_every_table(suite: Path) -> None:
    printed = CliRunner().invoke(cli, ["plan", str(suite)], catch_exceptions=False)
    assert printed.exit_code == 0
    assert f"data pets: photos [b]of[/b] pets; images stored as PNG; {COUNTED}" in " ".join(
        printed.output.split()
    )

    plugins = load_plugins()
    cell = make_plan(load_suite(suite), plugins, HOST).plan.cells[0]
    (suite.parent / "pets/train/a/readme.txt").write_text("no picture")
    again = make_plan(load_suite(suite), plugins, HOST).plan.cells[0]
    assert (again.id, "readme.txt" in again.task.data.note) == (cell.id, True)
    known = fields_known_before(cell)
    assert COUNTED in (known.data.note or "")
    record = Record(
        run_id="r",
        machine_id="m",
        suite="s",
        method="vit",
        method_key="k",
        seed=0,
        cell_id="c",
        attempt=1,
        status="ok",
        baseline="vit",
        rank_by="top1",
        accuracy={"top1": 90.0, "n": 2, "on": "device"},
        data=known.data,
        device=known.device,
        runtime=known.runtime,
        scenario=known.scenario,
    )
    board = leaderboard_of([record])
    assert board.tables[0].note == known.data.note
    for form in ("table", "github", "latex"):
        text = " ".join(render(board, form).replace("\n%", "").split())
        assert f"Data: photos {'[b]of[/b] pets' if form != 'github' else ''}" in text
        assert COUNTED in text

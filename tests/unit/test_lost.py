"""Tests of a board that is lost in a run: its cells come last, after it is back, and the run does not wait forever."""

from __future__ import annotations

import sys

import pytest

from harness.render.progress import PlainWatcher
from harness.results.folder import Results
from harness.run.lost_boards import LostBoards
from harness.run.outcome import Options
from harness.run.runner import run as run_plan

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 6, size: 8, channels: 1, train: 60, test: 12}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 1ms, min_queries: 1, max_time: 5s, warmup: one, energy: off}
methods: {whole: {build: toy}}
devices:
  b1: {backend: board, machine: m1}
  b2: {backend: board, machine: m2}
  here: {backend: cpu}
run: [{methods: all, devices: [b1, b2, here]}]
"""


@pytest.fixture(scope="module")
def prepared(prepare_toys):
    return prepare_toys(SUITE)


class NoJobs:
    """All is prepared."""

    def prepare(self, nodes, watcher):
        assert not nodes
        return {}

    def preprocess_ms(self, node):
        return None

    def close(self):
        pass


@pytest.fixture
def ran(prepared, toys, tmp_path, capsys):
    def run(falls: dict[str, int], wait_s: float = 60.0):
        """Return (device, status, attempt) of each attempt, the outcome and the output.

        ``falls`` is the number of looks for which each board is away.
        """
        toys.AWAY.clear()
        toys.FALLS.update(falls)
        results = Results(tmp_path / "out", create=True)
        plan, plugins, store = prepared
        boards = LostBoards(plugins, wait_s=wait_s, look_s=0.01)
        watcher = PlainWatcher(sys.stdout)
        outcome = run_plan(plan, plugins, store, results, watcher, Options(), jobs=NoJobs(), boards=boards)
        attempts = [(record.device.name, record.status, record.attempt) for record in results.records()]
        return attempts, outcome, capsys.readouterr().out

    yield run
    toys.FALLS.clear()


def test_the_suite_continues_and_comes_back(ran):
    attempts, outcome, said = ran({"b1": 3})
    assert attempts == [("b1", "failed", 1), ("b2", "ok", 1), ("here", "ok", 1), ("b1", "ok", 2)]
    assert not outcome.failed
    assert "whole on b1 is tried again when b1 is back" in said
    assert "waiting for b1, 60 s at most" in said
    assert "[4/4]" in said


def test_a_board_that_stays_away_fails_its_cells_alone(ran):
    attempts, outcome, _ = ran({"b1": 10**6}, wait_s=0.05)
    assert attempts == [("b1", "failed", 1), ("b2", "ok", 1), ("here", "ok", 1)]
    assert [record.reason for record in outcome.failed] == ["b1 does not answer"]


def test_a_board_that_is_lost_each_time_is_tried_three_times(ran, toys, monkeypatch):
    from harness.errors import BoardLost

    def lost_at_work(self, name, artifact, runtime):
        raise BoardLost(f"{self.info.name} went away", board=self.info.name)

    monkeypatch.setattr(toys.Board, "load", lost_at_work)
    attempts, outcome, _ = ran({})
    tried = [attempt for device, status, attempt in attempts if device == "b1" and status == "failed"]
    assert tried == [1, 2, 3]
    assert len(outcome.failed) == 2


def test_the_wait_for_a_board_is_bounded_over_all_its_absences(prepared, toys):
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    plan, plugins, _ = prepared
    cell = next(cell for cell in plan.cells if cell.task.device == "b1")
    boards = LostBoards(plugins, clock=lambda: now[0], sleep=sleep)
    assert boards.away(cell) is None
    for away, back, left in ((20, True, 20), (5, True, 10), (100, False, 0)):
        assert boards.lose(cell, "b1")
        assert boards.away(cell) == "b1"
        toys.AWAY["b1"] = away
        assert boards.back("b1") is back
        assert boards.left_s("b1") == left
    assert not boards.back("b1")
    assert now[0] == 60
    toys.AWAY.clear()


def test_a_worker_of_this_machine_is_not_waited_for(prepared):
    plan, plugins, _ = prepared
    cell = next(cell for cell in plan.cells if cell.task.device == "here")
    assert not LostBoards(plugins).lose(cell, "here")

"""Tests of the process that is run and discarded before the first cell on a device."""

from __future__ import annotations

import sys

import pytest

from harness.errors import BoardLost
from harness.measure.discarded import run_discarded
from harness.render.progress import PlainWatcher
from harness.results.folder import Results
from harness.run.lost_boards import LostBoards
from harness.run.outcome import Options
from harness.run.runner import run as run_plan

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 6, size: 8, channels: 1, train: 60, test: 12}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 1ms, min_queries: 1, max_time: 5s, warmup: one, energy: auto, idle_time: 1ms, repeats: 2}
methods: {whole: {build: toy}}
devices:
  b1: {backend: board, machine: m1, watts: 5}
  b2: {backend: board, machine: m2}
run: [{methods: all, devices: [b1, b2]}]
"""


class NoJobs:
    """All is prepared."""

    def prepare(self, nodes, watcher):
        return {}

    def preprocess_ms(self, node):
        return None

    def close(self):
        pass


@pytest.fixture(scope="module")
def prepared(prepare_toys):
    return prepare_toys(SUITE)


@pytest.fixture
def loads(toys, monkeypatch):
    """The boards on which a part was loaded, each with the number of its meters, in order."""
    seen, load = [], toys.Board.load
    meters = {}
    init = toys.Board.__init__

    def opened(self, spec):
        init(self, spec)
        meters[self] = len(spec.monitor.meters)

    def loaded(self, name, artifact, runtime):
        seen.append((self.info.name, meters[self]))
        return load(self, name, artifact, runtime)

    monkeypatch.setattr(toys.Board, "__init__", opened)
    monkeypatch.setattr(toys.Board, "load", loaded)
    return seen


def ran(prepared, folder):
    plan, plugins, store = prepared
    results = Results(folder, create=True)
    boards = LostBoards(plugins, wait_s=0.1, look_s=0.01)
    run_plan(plan, plugins, store, results, PlainWatcher(sys.stdout), Options(), jobs=NoJobs(), boards=boards)
    return results.records()


def test_one_process_is_discarded_before_the_first_cell_on_each_device(prepared, loads, tmp_path):
    records = ran(prepared, tmp_path / "out")
    assert [(record.device.name, record.status, record.state.process) for record in records] == [
        ("b1", "ok", 1),
        ("b2", "ok", 1),
        ("b1", "ok", 2),
        ("b2", "ok", 2),
    ]
    assert [name for name, _ in loads] == ["b1", "b1", "b2", "b2", "b1", "b2"]
    assert [meters for name, meters in loads if name == "b1"] == [0, 1, 1]  # the discarded process reads none


def test_nothing_is_discarded_if_nothing_is_measured(prepared, loads, tmp_path):
    ran(prepared, tmp_path / "out")
    del loads[:]
    ran(prepared, tmp_path / "out")
    assert loads == []


def test_a_discarded_process_answers_for_a_bounded_time(prepared, toys, monkeypatch):
    plan, plugins, store = prepared
    answered = []
    infer = toys.Board.infer

    def counted(self, images, batch, *more):
        answered.append(len(images))
        return infer(self, images, batch, *more)

    monkeypatch.setattr(toys.Board, "infer", counted)
    assert run_discarded(plan.cells[0], plugins, store, seconds=0.0)
    assert answered == [1]


@pytest.mark.parametrize("error", [RuntimeError("broken"), BoardLost("gone", board="b1"), SystemExit(3)])
def test_a_discarded_process_that_fails_changes_nothing(prepared, toys, monkeypatch, error):
    plan, plugins, store = prepared

    def fails(self, name, artifact, runtime):
        raise error

    monkeypatch.setattr(toys.Board, "load", fails)
    assert not run_discarded(plan.cells[0], plugins, store)

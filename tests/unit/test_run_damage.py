"""A run into a damaged results folder, or one of another machine: what is sound is kept, the rest is measured again."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys

import pytest

from damages import BAD_PLANS, DAMAGES
from harness.machine import environment
from harness.prepare.nodes import preprocess_ms, run_node
from harness.render.progress import PlainWatcher
from harness.results.folder import Results
from harness.run.outcome import Options
from harness.run.runner import run as run_plan

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 3, size: 8, channels: 1, train: 30, test: 6}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 20ms, min_queries: 44, max_time: 60s, warmup: one, energy: off}
methods: {whole: {build: toy}, split: {from: whole, partition: toys}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


class InThisProcess:
    """Prepares nodes without child processes."""

    def __init__(self, plugins, store) -> None:
        self.plugins, self.store = plugins, store

    def prepare(self, nodes, watcher):
        for node in nodes:
            run_node(node, self.plugins, self.store)
        return {}

    def preprocess_ms(self, node):
        return preprocess_ms(node, self.plugins, 2)

    def close(self):
        pass


@pytest.fixture(scope="module")
def prepared(prepare_toys):
    return prepare_toys(SUITE)


@pytest.fixture(scope="module")
def first(prepared, tmp_path_factory):
    """A results folder after a first run."""
    plan, plugins, store = prepared
    folder = tmp_path_factory.mktemp("first") / "out"
    jobs = InThisProcess(plugins, store)
    run_plan(
        plan, plugins, store, Results(folder, create=True), PlainWatcher(sys.stderr), Options(), jobs=jobs
    )
    return folder


@pytest.fixture
def run(prepared, first, tmp_path):
    """Copies the folder of the first run; `run.again` runs into the copy and returns (attempts, what was said)."""
    plan, plugins, store = prepared
    shutil.copytree(first, tmp_path / "out")
    results = Results(tmp_path / "out")

    class Run:
        folder = results.folder

        def again(self, **options) -> tuple[int, list[str]]:
            said = io.StringIO()
            jobs = InThisProcess(plugins, store)
            opened = Results(self.folder, create=True)
            outcome = run_plan(
                plan, plugins, store, opened, PlainWatcher(said), Options(**options), jobs=jobs
            )
            assert len(outcome.records) == 2
            warned = [line for line in said.getvalue().splitlines() if line.startswith("warning: ")]
            return outcome.measured, warned

    return Run()


def test_nothing_is_measured_twice(run):
    assert run.again() == (0, [])


def test_a_damaged_record_is_said_and_its_cell_is_measured_again(run):
    records = run.folder / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"status"', b'"Status"', 1))
    measured, warned = run.again()
    assert (measured, len(warned)) == (1, 1)
    assert warned[0].endswith("1 bad line left out; see `harness results validate`")


@pytest.mark.parametrize("name", ["a pipe", "a flipped bit", "empty", "6 GiB of holes"])
def test_a_cell_whose_samples_are_damaged_is_measured_again(run, name):
    path = next(run.folder.glob("samples/*/*"))
    DAMAGES[name](path)
    measured, warned = run.again()
    assert measured == 1
    assert len(warned) == 1
    assert path.name in warned[0]
    assert run.again() == (0, [])


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_run_mends_a_damaged_plan_and_keeps_the_records(run, name):
    run_id = json.loads((run.folder / "plan.json").read_text())["run_id"]
    BAD_PLANS[name](run.folder / "plan.json")
    measured, warned = run.again()
    assert measured == 0
    assert len(warned) == 1
    assert warned[0].endswith("; set aside as plan-damaged.json")
    assert json.loads((run.folder / "plan.json").read_text())["run_id"] == run_id
    assert os.path.lexists(run.folder / "plan-damaged.json")
    assert run.again() == (0, [])


def test_a_cell_measured_again_after_the_plan_was_lost_counts_once(run):
    results = Results(run.folder)
    flagged = results.latest()[0].model_copy(update={"attempt": 2, "flags": ["contended"]})
    results.append(flagged)
    (run.folder / "plan.json").unlink()
    count = sum(bool(record.flags) for record in results.latest())  # a busy machine may flag the other too
    measured, _ = run.again(retry_flagged=True)
    assert measured == count
    assert len(Results(run.folder).latest()) == 2


def test_another_machine_measures_for_itself(run, monkeypatch):
    other = "another-machine0"
    monkeypatch.setattr(environment, "machine_id", lambda: other)
    measured, warned = run.again()
    assert measured == 2
    assert warned == [
        "warning: 2 cells were measured on another machine, whose records stay, and are measured on this machine too"
    ]
    latest = Results(run.folder).latest(current_only=True)
    assert sorted({record.machine_id for record in latest} - {other}) != []
    assert len(latest) == 4
    assert run.again()[0] == 0

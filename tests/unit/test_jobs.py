"""Tests of the preparing processes: the effect on a run if one of them ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.prepare.jobs import Jobs
from harness.prepare.team import Setup
from harness.store.artifacts import Store
from harness.suite.loading import load_suite
from harness.types.plan import Node, PrepareHost

SUITE = """
suite: jobs
data: {{name: synthetic, num_classes: 3, size: {size}, channels: 1, train: 9, test: 6}}
methods:
  small: {{build: {{timm: {{name: resnet18, pretrained: false}}}}}}
devices:
  here: {{backend: cpu}}
run:
  - {{methods: all, devices: [here]}}
"""


class Recording:
    """A watcher that records its calls."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: self.all.append(name)


def data_of(folder: Path, size: int) -> Node:
    path = folder / f"{size}.yaml"
    path.write_text(SUITE.format(size=size))
    nodes = make_plan(load_suite(path), load_plugins(), PrepareHost(torch="1")).plan.nodes.values()
    return next(node for node in nodes if node.stage == "data")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(Setup(Store(tmp_path / "cache").root), 1)
    yield made
    made.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in str(child.cmdline())]


def end(child: psutil.Process) -> None:
    """Kill a child as the system does, and leave its exit code to the process that started it."""
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_a_child_that_ended_while_idle_is_replaced(jobs: Jobs, tmp_path: Path) -> None:
    """The system ends processes if memory is short."""
    assert jobs.prepare([data_of(tmp_path, 8)], Recording()) == {}
    (child,) = children()
    end(child)
    watcher = Recording()
    assert jobs.prepare([data_of(tmp_path, 9)], watcher) == {}
    assert [event for event in watcher.all if event != "tick"] == ["node_started", "node_finished"]
    (other,) = children()
    assert other.pid != child.pid


def test_a_child_that_ends_as_it_is_given_a_node_fails_that_node(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.prepare([data_of(tmp_path, 8)], Recording()) == {}
    (child,) = children()
    end(child)
    with monkeypatch.context() as patch:  # it was seen alive just before
        patch.setattr("multiprocessing.process.BaseProcess.is_alive", lambda self: True)
        node = data_of(tmp_path, 9)
        (failure,) = jobs.prepare([node], Recording()).values()
    assert failure.reason == "its process was ended by SIGKILL (out of memory?)"
    assert jobs.prepare([node], Recording()) == {}


PRINTS = """
import os
from harness.hookspecs import hookimpl

print("noise", flush=True)
os.system("echo more noise")
"""


def test_what_a_plugin_prints_while_it_prepares_is_not_the_answer_of_the_run(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    node = data_of(tmp_path, 8)
    site, info = tmp_path / "site", tmp_path / "site" / "prints-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prints\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness]\nprints = prints\n")
    (site / "prints.py").write_text(PRINTS)
    monkeypatch.syspath_prepend(str(site))
    assert jobs.prepare([node], Recording()) == {}
    out, err = capfd.readouterr()
    assert (out, "noise" in err, "more noise" in err) == ("", True, True)

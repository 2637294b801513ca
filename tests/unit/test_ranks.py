"""Tests of several processes that train one model: their results, and their end if something goes wrong."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import threading
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from harness.data.splits import subset
from harness.errors import CellError, SuiteError
from harness.plan.host import check_accelerate, training_device
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.prepare.jobs import Jobs
from harness.prepare.messages import Failure
from harness.prepare.team import Follower, Leader, Setup
from harness.registry import Registry
from harness.store.artifacts import Store
from harness.suite.loading import load_suite
from harness.train.loop import fit
from harness.train.ranks import SINGLE_PROCESS
from harness.types import DeviceInfo
from harness.types.plan import PrepareHost
from harness.types.recipe import TrainRecipe

pytest.importorskip("accelerate")
pytestmark = pytest.mark.timeout(900)  # a dozen processes load torch before the first test

PLUGIN = Path(__file__).parents[1] / "data" / "ranked"
HOWS = ("plain", "noisy", "killed", "raises", "dies")
SUITE = """
suite: ranked
data: {{name: synthetic, num_classes: 3, size: 8, channels: 1, train: 150, test: 30, validation: 0.2}}
prepare: {{processes: {processes}, device: cpu}}
defaults:
  train:
    {{epochs: 0, lr: 0.05, optimizer: momentum, batch_size: 16, clip_grad: 1.0, augment: crop-flip, ema: 0.5,
     early_stop: 3}}
methods:
{methods}
devices:
  here: {{backend: cpu}}
run:
  - {{methods: all, devices: [here]}}
"""


class Quiet:
    """A watcher."""

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder from which processes load the plugin ``ranked``, as if it were installed."""
    folder = tmp_path_factory.mktemp("ranked")
    (folder / "harness_ranked.py").write_text((PLUGIN / "harness_ranked.py").read_text())
    info = folder / "harness_ranked-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-ranked\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[harness]\nranked = harness_ranked\n")
    (info / "RECORD").write_text("harness_ranked.py,,\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


def plan_of(place, processes, hows):
    methods = "\n".join(f"  {how}: {{build: {{ranked: {{how: {how}, out: '{place}'}}}}}}" for how in hows)
    path = place / "ranked.yaml"
    path.write_text(SUITE.format(processes=processes, methods=methods))
    return make_plan(load_suite(path), load_plugins(), PrepareHost(torch="1")).plan


def prepare(place, processes, hows, **limits):
    """Build ``hows`` as a run does; return the failures by name."""
    plan = plan_of(place, processes, hows)
    nodes = [node for node in plan.nodes.values() if node.stage == "build"]
    jobs = Jobs(Setup(Store(place / "cache").root, processes=processes, **limits), 1)
    try:
        failures = jobs.prepare(nodes, Quiet())
        children = [c for c in psutil.Process().children(recursive=True) if "spawn_main" in str(c.cmdline())]
        assert len(children) == processes or failures
    finally:
        jobs.close()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    name = {node.key: node.task.params["how"] for node in nodes}
    return {name[key]: failure for key, failure in failures.items()}


def outcome(place, how, processes, rank=0):
    return torch.load(place / f"{how}-{processes}" / f"{rank}.pt")


@pytest.fixture(scope="module")
def ran(place):
    """Once with one process, once with two, and what was killed once more."""
    assert prepare(place, 1, ["plain", "noisy"]) == {}
    failures = prepare(place, 2, HOWS) | prepare(place, 2, ["strays"], finish_s=2.0)
    again = prepare(place, 2, ["killed"])
    return SimpleNamespace(place=place, failures=failures, again=again)


def test_two_processes_compute_what_one_does(ran):
    alone, together = outcome(ran.place, "plain", 1), outcome(ran.place, "plain", 2)
    assert list(alone["weights"]) == list(together["weights"])
    for name, weights in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weights, rtol=1e-4, atol=1e-6)
    assert together["passes"] == alone["passes"] == 3 * 81
    for first, second in zip(alone["history"], together["history"], strict=True):
        assert second == pytest.approx(first, rel=1e-5)
    assert together["top1"] == alone["top1"]


def test_each_process_has_its_part_of_each_batch(ran):
    assert outcome(ran.place, "plain", 1)["updates"] == 18
    # of a last batch of one sample the first rank has none
    assert [outcome(ran.place, "plain", 2, rank)["updates"] for rank in (0, 1)] == [15, 18]


@pytest.mark.parametrize("how", ["plain", "noisy"])
def test_all_ranks_end_with_the_same_weights(ran, how):
    first, second = (outcome(ran.place, how, 2, rank) for rank in (0, 1))
    for name, weights in first["weights"].items():
        assert torch.equal(second["weights"][name], weights), name
    assert second["history"] == first["history"]


def test_a_last_batch_that_leaves_a_batch_norm_one_sample_is_left_out(ran):
    assert [outcome(ran.place, "noisy", count)["passes"] for count in (1, 2)] == [3 * 83, 3 * 80]


def test_dropout_differs_between_ranks(ran):
    alone, together = outcome(ran.place, "noisy", 1), outcome(ran.place, "noisy", 2)
    assert not torch.allclose(
        together["weights"]["0.weight"], alone["weights"]["0.weight"], rtol=1e-4, atol=1e-6
    )


def test_killed_and_resumed_is_bit_identical(ran):
    assert ran.failures["killed"].reason == "its process was ended by SIGKILL (out of memory?)"
    assert ran.again == {}
    digests = {
        (ran.place / f"{how}-2" / f"{rank}.digest").read_text()
        for how in ("noisy", "killed")
        for rank in (0, 1)
    }
    assert len(digests) == 1
    assert outcome(ran.place, "killed", 2)["updates"] == 5  # two epochs were in the checkpoint


def test_what_is_made_once_is_made_by_all_ranks_together_and_once(ran):
    taught = {how: sorted(f.name[:8] for f in (ran.place / f"{how}-2").glob("taught-*")) for how in HOWS}
    assert taught == {**{how: [] for how in HOWS}, "plain": ["taught-0", "taught-1"]}


def test_a_rank_that_raises_fails_the_node_with_its_error(ran):
    failure = ran.failures["raises"]
    assert failure.reason == "ValueError: rank 1 does not like this batch"
    assert "harness_ranked.py" in failure.trace
    assert (failure.stage, failure.plugin) == ("build", "ranked")


def test_a_rank_that_dies_fails_the_node_and_says_so(ran):
    reason = "training process 2 of 2: its process was ended by SIGKILL (out of memory?)"
    assert ran.failures["dies"].reason == reason


def test_ranks_that_part_are_not_waited_for(ran):
    assert ran.failures["strays"].reason == ("another training process is not done 2 s after the first")


def test_no_failure_but_the_expected(ran):
    assert set(ran.failures) == {"killed", "raises", "dies", "strays"}


# --- one at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 16])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_the_batch(n, count):
    rows = np.arange(n) + 5
    team = [Follower(rank, count, None) for rank in range(count)]
    shares = [rows[slice(*ranks.shard(n))] for ranks in team]
    assert np.concatenate(shares).tolist() == rows.tolist()
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert SINGLE_PROCESS.shard(n) == (0, n)


def test_a_rank_that_hangs_up_and_lives_fails_the_node(place, monkeypatch):
    monkeypatch.setattr(Leader, "join", lambda self, port, device, threads, listening: os.close(listening))
    messages = Queue()

    def give_up(message):
        messages.put(message)
        threading.Event().wait()  # the process would end here

    nodes = plan_of(place, 2, ["plain"]).nodes.values()
    node = next(node for node in nodes if node.stage == "build")
    hangs_up = importlib.import_module("harness_ranked").hangs_up
    leader = Leader(Setup(place, processes=2, finish_s=0.0), give_up, hangs_up)
    with pytest.raises(CellError), leader.run_on_all(node):
        message = messages.get(timeout=60)
    for process in multiprocessing.active_children():
        process.kill()
    reason = "training process 2 of 2: its connection ended"
    assert message == Failure("build", "ranked", reason)


def test_each_rank_has_its_gpu():
    assert [Follower(rank, 3, None).device("cuda:0") for rank in (1, 2)] == ["cuda:1", "cuda:2"]
    assert Follower(1, 3, None).device("cpu") == "cpu"
    assert SINGLE_PROCESS.device("cuda:3") == "cuda:3"


def test_ranks_at_different_places_are_reported():
    ours, theirs = Pipe()
    ours.send_bytes(pickle.dumps(("an evaluation", 1)))
    ours.send_bytes(pickle.dumps(("an evaluation", 2)))
    follower = Follower(1, 2, theirs)
    assert follower.broadcast_object("an evaluation", lambda: 3) == 1
    with pytest.raises(RuntimeError, match="the first one at an evaluation, another one at the checkpoint"):
        follower.broadcast_object("the checkpoint", lambda: 3)


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        SUITE.format(processes=2, methods="  a: {build: vit}").replace("device: cpu", "device: auto")
    )
    return load_suite(path)


def test_fewer_gpus_than_processes_are_refused(suite):
    for gpus in (0, 1, 2):
        infos = [
            DeviceInfo(name=f"cuda:{i}", backend="cuda", model="a GPU", kind="cuda", cores=1, memory_bytes=1)
            for i in range(gpus)
        ]
        cuda = load_plugins().backends.get("cuda")
        cuda = replace(cuda, entry=replace(cuda.entry, probe=lambda infos=infos: infos))
        known = SimpleNamespace(backends=Registry("backend", [cuda]))
        if gpus == 1:
            with pytest.raises(
                SuiteError, match=r"mine\.yaml:4: .*processes: 2 take a GPU each, and 1 answer "
            ):
                training_device(suite, known)
        else:
            assert training_device(suite, known) == (("cuda:0", "a GPU") if gpus else ("cpu", ""))


def test_without_accelerate_it_is_said_how_to_get_it(suite, monkeypatch):
    monkeypatch.setattr("harness.plan.host.find_spec", lambda name: None)
    with pytest.raises(SuiteError, match=r"mine\.yaml:4: .*need accelerate: .*\[multi-gpu\]"):
        check_accelerate(suite)


def test_a_batch_has_a_sample_for_each_rank():
    points = SimpleNamespace(labels=np.zeros(8, np.int64), __len__=None)
    data = subset(points, np.arange(8))
    for recipe, samples in ((TrainRecipe(batch_size=2), data), (TrainRecipe(), subset(points, np.arange(2)))):
        with pytest.raises(ValueError, match="3 processes need batches of 3 samples or more, not 2 "):
            fit(
                torch.nn.Linear(4, 2),
                recipe,
                samples,
                None,
                seed=0,
                device="cpu",
                folder=Path(),
                progress=print,
                ranks=Follower(1, 3, None),
            )

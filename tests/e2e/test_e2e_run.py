"""Tests of whole runs as a user starts them: watched, interrupted, killed, resumed, repeated."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("interruptible")]

SUITE = """
suite: tiny
data: {name: digits, image_size: 16, validation: 0.1}
defaults: {train: {epochs: 3, lr: 2.0e-3, batch_size: 64}}
measure: {min_time: 50ms, min_queries: 20, max_time: 5s, repeats: 2}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 2, heads: 3}}}
  edge:
    from: cloud
    compress: [{edgevit: {blocks: 1, train: head}}]
  cut:
    from: cloud
    partition: {pipeline: {after: 1}}
devices:
  here: {backend: cpu}
  pair: {fleet: [here, here]}
run:
  - {methods: all, devices: [here]}
  - {methods: [cut], devices: [pair]}
baseline: cloud
"""
CELLS = 4 * 2  # four method-device pairs, two repeats


@pytest.fixture(scope="module")
def interruptible():
    """A shell's background jobs ignore SIGINT, and so would what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SUITE)
    return tmp_path


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The suite run from nothing: the folder, and what the command said."""
    place = tmp_path_factory.mktemp("first")
    (place / "tiny.yaml").write_text(SUITE)
    return place, run(place)


@pytest.fixture
def prepared(place, first_run):
    """A place where all is trained and exported, and nothing is measured yet."""
    shutil.copytree(first_run[0] / "cache", place / "cache")
    return place


def command(place: Path, *arguments: str, suite: str = "tiny.yaml") -> list[str]:
    return [sys.executable, "-m", "harness", "run", suite, "--out", "out", "--plain", *arguments]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "HARNESS_CACHE": str(place / "cache")}


def run(
    place: Path, *arguments: str, timeout: float = 240, suite: str = "tiny.yaml"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(place, *arguments, suite=suite),
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(place, *arguments),
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def records(place: Path) -> list[dict]:
    path = place / "out" / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return found


def good(place: Path) -> Counter[str]:
    return Counter(record["cell_id"] for record in records(place) if record["status"] == "ok")


def family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process], within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while left := [one for one in processes if runs(one)]:
        if time.monotonic() > end:
            print(*left, sep="\n")
            return False
        time.sleep(0.02)
    return True


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], process: subprocess.Popen[str], within: float = 120) -> None:
    """Wait until ``condition`` holds of a run that continues."""
    end = time.monotonic() + within
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def training(place: Path, name: str = "train") -> list[str]:
    """Return the checkpoints of running trainings. ``Path.glob`` would raise for a folder that disappears meanwhile."""
    return glob.glob(str(place / "cache" / "work" / "*" / f"{name}*"))


def test_a_run_and_the_same_run_again(first_run):
    place, first = first_run
    assert first.returncode == 0, first.stdout + first.stderr
    cells = good(place)
    assert sorted(cells.values()) == [1] * CELLS
    assert "cloud" in first.stdout
    assert "Traceback" not in first.stderr

    again = run(place)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 cells to measure" in again.stdout
    assert good(place) == cells

    fresh = run(place, "--fresh", "--json", "--device", "here")
    assert fresh.returncode == 0, fresh.stderr
    boards = json.loads(fresh.stdout)["boards"]
    rows = [row for board in boards for row in board["rows"]]
    assert {row["method"] for row in rows} == {"cloud", "edge", "cut"}
    (aside,) = (place / "out").glob("records-*.jsonl")
    assert len(aside.read_text().splitlines()) == 6  # the two cells on the pair stay
    assert good(place) == cells

    assert (place / "out" / "suite.yaml").read_text() == SUITE
    runs = [json.loads(line) for line in (place / "out" / "runs.jsonl").read_text().splitlines()]
    assert [line["command"].endswith("--device here") for line in runs] == [False, False, True]
    rerun = run(place, suite="out/suite.yaml")
    assert "0 cells to measure" in rerun.stdout, rerun.stdout + rerun.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a full disk: needs root")
def test_a_full_disk_is_said_and_keeps_what_is_there(prepared):
    out = prepared / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        filler = out / "filler"
        with filler.open("wb") as file:
            file.write(b"0" * (200 * 1024))
        full = run(prepared)
        assert full.returncode == 2
        assert "No space left" in full.stderr
        assert "Traceback" not in full.stderr
        before = good(prepared)
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(out)], check=True)
        assert run(prepared).returncode == 0
        assert before.keys() <= good(prepared).keys()
        assert sorted(good(prepared).values()) == [1] * CELLS
    finally:
        subprocess.run(["umount", str(out)], check=False)


@pytest.mark.clock
def test_ctrl_c_ends_within_two_seconds_and_the_run_continues(place):
    """While training, then while measuring; the same place continues."""
    cut = ("--only", "cut")
    for reached in (training, records):
        process = start(place, *cut)
        until(lambda reached=reached: reached(place), process)
        processes = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        begin = time.monotonic()
        output, _ = process.communicate(timeout=20)
        took = time.monotonic() - begin
        assert process.returncode == 130, output
        assert "interrupted" in output
        assert "continues from here" in output
        assert took < 2.5
        assert gone(processes)
    assert "Traceback" not in output
    kept = good(place)
    assert kept
    assert run(place, *cut).returncode == 0
    assert sorted(good(place).values()) == [1] * 4  # two devices, two repeats
    assert kept.keys() <= good(place).keys()


RANKED = """
suite: tiny
data: {name: digits, image_size: 16, validation: 0.1}
prepare: {processes: 2, device: cpu}
defaults: {train: {epochs: 3, lr: 2.0e-3, batch_size: 64}, runtime: torch}
measure: {min_time: 50ms, min_queries: 20, max_time: 5s}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 2, heads: 3}}}
  edge:
    from: cloud
    compress: [{edgevit: {blocks: 1, train: head}}]
  split:
    from: cloud
    partition:
      devit: {parts: 2, dim: 16, heads: 2, sub_stage: {epochs: 2}, ensemble_stage: {epochs: 2}}
devices:
  here: {backend: cpu}
run:
  - {methods: all, devices: [here]}
"""


def test_two_processes_that_train_together(place):
    pytest.importorskip("accelerate")
    (place / "tiny.yaml").write_text(RANKED)
    for name, ending in (("train", signal.SIGKILL), ("ensemble", signal.SIGINT)):
        process = start(place)
        until(lambda name=name: training(place, name), process)
        processes = family(process.pid)
        assert len(processes) >= 3
        os.kill(process.pid, signal.SIGKILL) if ending == signal.SIGKILL else os.killpg(process.pid, ending)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == (-9 if ending == signal.SIGKILL else 130), output
        assert gone(processes)
    last = run(place)
    assert last.returncode == 0, last.stdout + last.stderr
    assert sorted(good(place).values()) == [1, 1, 1]
    assert "warning" not in last.stderr.lower()


def kill_one(process: subprocess.Popen[str], chance: random.Random) -> None:
    """Send SIGKILL to the run itself, or to one of its children."""
    processes = family(process.pid)
    victim = chance.choice(processes) if processes and chance.random() < 0.5 else None
    with contextlib.suppress(psutil.NoSuchProcess):
        (victim or psutil.Process(process.pid)).send_signal(signal.SIGKILL)


def killed_runs(place: Path, kills: int, seed: int, longest: float) -> None:
    chance = random.Random(seed)
    seen: set[str] = set()
    for number in range(kills):
        process = start(place)
        processes: list[psutil.Process] = []
        end = time.monotonic() + chance.uniform(0.3, longest)
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        processes = family(process.pid)
        kill_one(process, chance)
        if chance.random() < 0.7:  # else the run lives on without the child that it lost
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=240)
        assert gone(processes), f"kill {number}: processes left behind"
        now = good(place)
        assert seen <= now.keys(), f"kill {number}: records lost"
        assert all(count == 1 for count in now.values()), f"kill {number}: a cell counted twice"
        seen = set(now)
    last = run(place)
    assert last.returncode == 0, last.stdout + last.stderr
    assert sorted(good(place).values()) == [1] * CELLS
    check = subprocess.run(
        [sys.executable, "-m", "harness", "results", "show", "out", "--json"],
        cwd=place,
        check=False,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert check.returncode == 0, check.stderr


def test_kill_9_at_random_moments_loses_and_doubles_nothing(place):
    killed_runs(place, kills=5, seed=1, longest=10)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_sixty_kills(place):
    killed_runs(place, kills=60, seed=2, longest=14)


def test_a_second_run_into_the_folder_is_refused_and_named(place):
    process = start(place)
    until((place / "out" / ".lock").exists, process)
    second = run(place)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    assert second.returncode == 2
    assert f"process {process.pid}" in second.stderr
    assert second.stderr.count("error:") == 1


def test_a_child_killed_fails_its_cells_and_the_rest_continues(place):
    two = ("--set", "seeds=[0, 1]", "--only", "cloud")
    process = start(place, *two)
    until(lambda: training(place), process)
    trainers = [p for p in family(process.pid)[1:] if p.memory_info().rss > 200e6]
    trainers[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "SIGKILL" in output
    statuses = Counter(record["status"] for record in records(place))
    assert statuses["failed"] > 0
    assert statuses["ok"] > 0
    assert run(place, *two).returncode == 0  # what failed is tried again
    assert sorted(good(place).values()) == [1] * 3  # two repeats on the first seed, one on the second

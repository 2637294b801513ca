"""Tests of the lab as a user runs it: agents with TLS and token on virtual boards, a suite over two, and no remains."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.lab, pytest.mark.timeout(300)]

LAB = """
lab: e2e
boards: [a, b]
link: {rate: 2 MB/s, rtt: 2ms, ports: per-link}
cores: 1
replay: solo
suite: tiny.yaml
"""
SUITE = """
suite: tiny
data: {name: synthetic, size: 64, train: 64, test: 16}
defaults: {train: {epochs: 0}}
measure: {min_time: 50ms, min_queries: 24, max_time: 5s, warmup: one, energy: "off"}
methods:
  cloud: {build: {vit: {patch_size: 16, dim: 24, depth: 2, heads: 3}}}
  cut:
    from: cloud
    partition: {pipeline: {after: 1}}
devices:
  a: {backend: agent}
  b: {backend: agent}
  pair: {fleet: [a, b], central: a}
run:
  - {methods: [cut], devices: [pair]}
"""
IMAGE_MS = 1e3 * 4 * 3 * 64 * 64 / 2e6


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "tiny.yaml").write_text(SUITE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def harness(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments], cwd=place, capture_output=True, text=True, check=False
    )


def left(place: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(place / "state") in words:
                found.append(words)
    return found


def test_a_suite_runs_over_virtual_boards(place: Path) -> None:
    up = harness(place, "lab", "up", "lab.yaml")
    assert up.returncode == 0, up.stderr
    assert f"export HARNESS_DEVICES={place}/state/harness/lab/e2e/devices.yaml\n" in up.stdout
    assert left(place)
    done = harness(place, "lab", "run", "lab.yaml", "--out", "out", "-q")
    assert done.returncode == 0, done.stderr
    (line,) = (place / "out" / "records.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["status"] == "ok"
    network = record["network"]
    assert network["input_bytes"] == 4 * 3 * 64 * 64
    assert IMAGE_MS + 2 <= record["latency"]["p50_ms"] < 2 * IMAGE_MS  # the link's time is in it
    assert network["over_bound"] >= 0.95
    assert all(facts["replayed"] for facts in record["runtime"]["facts"].values())
    assert harness(place, "lab", "status").stdout == up.stdout  # it was up before, and stays so
    assert harness(place, "lab", "down").stdout == "lab e2e: down\n"
    assert not left(place)
    assert harness(place, "lab", "status").stdout == "no lab is up\n"

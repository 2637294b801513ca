"""A run over a damaged cache and a damaged results folder, as a user sees it: named, mended, the same accuracy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SUITE = """
suite: tiny
data: {name: digits, image_size: 16, validation: 0.1}
defaults: {train: {epochs: 1, lr: 2.0e-3, batch_size: 64}}
measure: {min_time: 50ms, min_queries: 44, max_time: 5s, energy: off}
methods:
  cloud: {build: {vit: {patch_size: 4, dim: 24, depth: 2, heads: 3}}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flipped,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a pipe": pipe,
}
FILES = ("labels.npy", "model.safetensors", "model.onnx", "evaluation.npz")
"""One of each artifact that a run uses."""


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "run", "tiny.yaml", "--out", "out", "--plain", *words]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "HARNESS_CACHE": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def records(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "out/records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("first"))
    (place.folder / "tiny.yaml").write_text(SUITE)
    done = place.run()
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("name", DAMAGES)
def test_a_run_over_damages_of_every_artifact(first, tmp_path, name):
    shutil.copytree(first.folder, tmp_path / "again")
    place = Place(tmp_path / "again")
    for file in FILES:
        (path,) = (place.folder / "cache").rglob(file)
        DAMAGES[name](path)
    (samples,) = (place.folder / "out/samples").rglob("*.npz")
    DAMAGES[name](samples)
    DAMAGES["truncated"](place.folder / "out/plan.json")
    done = place.run()
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    warned = [line for line in said.splitlines() if line.startswith("warning: ")]
    for file in (*FILES, samples.name, "plan.json"):
        assert sum(file in line for line in warned) == 1, (file, said)
    assert len(warned) == len(FILES) + 2
    before, after = place.records()
    assert after["status"] == "ok"
    assert after["accuracy"]["top1"] == before["accuracy"]["top1"]
    assert after["run_id"] == before["run_id"]
    assert len(list((place.folder / "cache/damaged").iterdir())) == len(FILES)
    again = place.run()
    assert (again.returncode, again.stderr) == (0, "")
    assert len(place.records()) == 2

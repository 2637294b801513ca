"""Tests of what a plan says that its comparison can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.results.folder import Results
from harness.types.record import Record

SUITE = """
suite: mine
data: {name: digits, validation: 0.1}
seeds: [0, 1, 2, 3, 4, 5]
defaults: {train: {epochs: 1}}
measure: {repeats: 3}
methods:
  one: {build: {vit: {patch_size: 8, dim: 24, depth: 2, heads: 2}}}
  other: {build: {vit: {patch_size: 8, dim: 24, depth: 3, heads: 2}}}
  third: {build: {vit: {patch_size: 8, dim: 24, depth: 1, heads: 2}}}
devices: {here: {backend: cpu}}
run:
  - {methods: all, devices: [here]}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SUITE)
    return tmp_path


def planned(*words: str) -> str:
    result = CliRunner().invoke(cli, ["plan", "mine.yaml", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def figures(*words: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(planned("--json", *words))["sensitivity"]
    return values


def test_a_plan_ends_with_what_it_can_see_and_the_assumptions(place: Path) -> None:
    *_, accuracy, latency = [
        line for line in planned().splitlines() if line.startswith(("accuracy", "latency"))
    ]
    assert accuracy.startswith("accuracy: 6 seeds x 360 test images show a difference from ")
    assert "points on between two of 3 rows on here (80% power); 1 point needs " in accuracy
    assert accuracy.endswith(
        "assumed: two methods differ in being right in 4.3% of answers, as in edge on a virtual machine with 2 cores"
    )
    assert latency.startswith("latency: 8 processes show a difference from ")
    assert "2% needs " in latency
    assert "assumed: p50 spreads by 1.0% between processes, as in edge on " in latency


def test_more_seeds_and_processes_see_smaller_differences(place: Path) -> None:
    few, many = figures("--set", "seeds=[0, 1, 2]"), figures("--set", f"seeds={list(range(20))}")
    assert many["accuracy"]["points"] < few["accuracy"]["points"]
    assert many["latency"]["ratio"] < few["latency"]["ratio"]
    assert (few["rows"], few["latency"]["processes"], many["latency"]["processes"]) == (3, 5, 22)


def test_as_many_processes_as_are_needed_are_enough(place: Path) -> None:
    needed = figures()["latency"]["needed_processes"]
    enough = figures("--set", f"measure.repeats={needed}", "--set", "seeds=[0]")["latency"]
    assert enough["processes"] == needed
    assert enough["ratio"] <= 1.02
    assert figures("--set", f"measure.repeats={needed - 1}", "--set", "seeds=[0]")["latency"]["ratio"] > 1.02


def test_fewer_than_three_processes_see_nothing(place: Path) -> None:
    text = planned("--set", "seeds=[0]", "--set", "measure.repeats=1")
    assert "latency: a test needs 3 processes, and a row has 1; 2% needs " in text


def test_an_unknown_number_of_test_images_is_said(place: Path) -> None:
    text = planned("--set", "data.classes=[0, 1, 2, 3]")
    assert "accuracy: the number of test images is not known before the data is read" in text


def test_one_method_is_compared_with_nothing(place: Path) -> None:
    assert figures("--only", "one") is None


def recorded(method: str, seed: int, p50: float) -> Record:
    return Record.model_validate(
        {
            "run_id": "r",
            "machine_id": "m",
            "suite": "mine",
            "method": method,
            "method_key": method,
            "seed": seed,
            "repeat": 0,
            "cell_id": f"{method} {seed}",
            "attempt": 1,
            "status": "ok",
            "rank_by": "top1",
            "device": {"name": "here", "model": "CPU 1", "kind": "cpu", "nodes": 1},
            "runtime": {"name": "onnxruntime", "params": {}, "precision": "float32"},
            "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
            "data": {
                "task": "image-classification",
                "name": "digits",
                "split": "test",
                "classes": 10,
                "n": 500,
            },
            "counts": {"params": 1, "macs": 1, "weight_bytes": 4},
            "accuracy": {"top1": 90.0, "n": 500},
            "latency": {"n": 662, "p50_ms": p50},
        }
    )


def test_the_spreads_are_those_of_the_suite_s_own_records(place: Path) -> None:
    results = Results(place / "results" / "local" / "mine", create=True)
    random = np.random.default_rng(1)
    labels = np.zeros(500, np.int64)
    for method in ("one", "other"):
        for seed in range(4):
            wrong = random.random(500) < 0.2
            arrays = {"labels": labels, "predictions": wrong.astype(np.int64)}
            record = recorded(method, seed, float(np.exp(random.normal(0, 0.1))))
            results.append(record.model_copy(update={"samples": results.store_samples(arrays)}))
    here = figures()
    assert here["accuracy"]["source"] == here["latency"]["source"] == "as in results/local/mine"
    assert here["accuracy"]["discordance"] == pytest.approx(32, abs=3)  # 2 x 0.2 x 0.8
    assert 0.05 < here["latency"]["spread"] < 0.2
    unknown = figures("--set", "data.classes=[0, 1, 2, 3]")
    assert unknown["accuracy"]["images"] == 500


def test_results_that_cannot_be_read_are_named_and_not_used(place: Path) -> None:
    folder = place / "results" / "local" / "mine"
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_bytes(b"\xff\xfe not JSON\n")
    assert "as in edge" in planned()

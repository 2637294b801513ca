"""Tests of the comparison of two captures: it finds forbidden changes, and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMPARE = Path(__file__).parents[1] / "regression" / "compare.py"
DATA, BUILD, CELL, METHOD = (
    hashlib.md5(word).hexdigest() for word in (b"data", b"build", b"cell", b"method")
)
NAME = "seed 0 repeat 0 on here, offline"

PLAN = {
    "suite": "s",
    "nodes": [
        {"key": DATA, "stage": "data", "label": "data digits", "inputs": [], "task": {"made_with": METHOD}},
        {"key": BUILD, "stage": "build", "label": "vit seed 0", "inputs": [DATA], "task": {"lr": 0.001}},
    ],
    "cells": [
        {
            "id": CELL,
            "method": "vit",
            "method_key": METHOD,
            "seed": 0,
            "repeat": 0,
            "export": BUILD,
            "task": {"device": "here", "runtime": {"name": "ort"}, "measure": {"scenario": "offline"}},
        }
    ],
}
RECORD = {
    "method": "vit",
    "repeat": 0,
    "device": {"name": "here"},
    "scenario": {"name": "offline"},
    "accuracy": {"top1": 97.5},
    "latency": {"p50_ms": 2.0},
    "parts": [{"name": "model", "params": 10}],
    "origins": {"model:vit": "box 1"},
    "checksum": "1",
}


class Captures:
    """Two captures that are equal until a test changes the second one's plan, records or predictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "allowed.txt"
        self.plan: dict[str, Any] = copy.deepcopy(PLAN)
        self.records: list[dict[str, Any]] = [{**copy.deepcopy(RECORD), "seed": seed} for seed in (0, 1)]
        self.predictions = list(range(10))
        self.write("before", latency=1)

    def write(self, name: str, latency: int) -> None:
        answer = self.folder / name / "answers" / "plan" / "s.json"
        run = self.folder / name / "runs" / "smoke"
        for folder in (answer.parent, run):
            folder.mkdir(parents=True, exist_ok=True)
        answer.write_text(json.dumps({"exit": 0, "stdout": self.plan, "stderr": []}))
        np.savez(run / "raw.npz", predictions=np.array(self.predictions), latency_ns=np.array([latency]))
        samples = {"file": "raw.npz", "sha256": name}
        lines = [
            json.dumps({**record, "cell_id": f"{name}{index}", "samples": samples})
            for index, record in enumerate(self.records)
        ]
        (run / "records.jsonl").write_text("\n".join(lines) + "\n")

    def compare(self, *options: str) -> tuple[int, list[str]]:
        """Return the exit code and the lines of compare.py."""
        self.write("after", latency=2)
        self.allowed.touch()
        folders = [self.folder / "before", self.folder / "after"]
        command = [sys.executable, COMPARE, *folders, "--allow", self.allowed, *options]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not answer.stderr
        return answer.returncode, answer.stdout.splitlines()


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return Captures(tmp_path)


def test_equal_captures_have_no_differences(captures: Captures) -> None:
    assert captures.compare() == (
        0,
        [
            "latency smoke: p50 after / before: median 1.000, 1.000 to 1.000, 2 cells",
            "5 documents: 0 differences, 0 allowed, 0 added",
        ],
    )


def test_another_prediction_is_a_difference(captures: Captures) -> None:
    captures.predictions[7] = 0
    code, lines = captures.compare()
    assert code == 1
    line = f"changed arrays/smoke/vit {NAME}:predictions.values  1 of 10 items; [7]: 7 -> 0"
    assert lines[0] == f"{line}  (and in 1 more)"
    assert captures.compare("--all")[1][0] == line


def test_measured_values_and_identities_may_change(captures: Captures) -> None:
    for record in captures.records:
        record["latency"]["p50_ms"] = 3.0
        record["checksum"] = "2"
    code, lines = captures.compare()
    assert code == 0
    assert lines[0].startswith("latency smoke: p50 after / before: median 1.500")


def test_a_measured_value_that_is_missing_is_lost(captures: Captures) -> None:
    for record in captures.records:
        record["latency"] = {}
    code, lines = captures.compare()
    assert code == 1
    assert lines[0] == f"lost    record/smoke/vit {NAME}:latency.p50_ms  2.0  (and in 1 more)"


def test_the_last_bit_and_the_type_of_a_number_count(captures: Captures) -> None:
    captures.records[0]["accuracy"]["top1"] = 97.50000000000001
    captures.records[0]["parts"][0]["params"] = 10.0
    code, lines = captures.compare()
    assert code == 1
    assert lines[:2] == [
        f"changed record/smoke/vit {NAME}:accuracy.top1  97.5 -> 97.50000000000001",
        f"changed record/smoke/vit {NAME}:parts[model].params  10 -> 10.0",
    ]


def test_an_added_object_is_one_line_and_allowed(captures: Captures) -> None:
    captures.records[0]["blame"] = {"plugin": "vit", "hook": "build"}
    code, lines = captures.compare()
    assert code == 0
    assert lines[0] == "added   record/smoke/vit " + NAME + ":blame  {...}"
    assert lines[-1] == "5 documents: 0 differences, 0 allowed, 1 added"


def test_a_value_that_becomes_an_object_is_one_line(captures: Captures) -> None:
    for record in captures.records:
        record["origins"] = {"model:vit": {"version": "1"}}
    code, lines = captures.compare()
    assert code == 1
    assert lines[0] == (
        f"changed record/smoke/vit {NAME}:origins.model:vit  'box 1' -> {{...}}  (and in 1 more)"
    )
    assert lines[-1] == "5 documents: 2 differences, 0 allowed, 0 added"


def test_other_keys_in_a_plan_are_no_difference(captures: Captures) -> None:
    text = json.dumps(captures.plan)
    for key in (DATA, BUILD, CELL, METHOD):
        text = text.replace(key, hashlib.md5(key.encode()).hexdigest())
    captures.plan = json.loads(text)
    assert captures.compare()[0] == 0


def test_another_input_of_a_node_is_a_difference(captures: Captures) -> None:
    captures.plan["nodes"][1]["inputs"] = []
    code, lines = captures.compare()
    assert code == 1
    assert lines[0] == (
        "changed plan/s:stdout.nodes[build vit seed 0].inputs  "
        "0 of 1 and 0 items; [0]: 'data data digits' -> nothing"
    )


def test_another_order_of_nodes_is_a_difference(captures: Captures) -> None:
    captures.plan["nodes"].reverse()
    code, lines = captures.compare()
    assert code == 1
    assert lines[0] == (
        "changed plan/s:stdout.order.nodes  2 of 2 items; [0]: 'data data digits' -> 'build vit seed 0'"
    )


def test_the_allow_list_names_what_may_change(captures: Captures) -> None:
    for record in captures.records:
        record["origins"] = {"model:vit": {"version": "1"}}
    captures.allowed.write_text(
        "# a comment\n\nrecord/*:origins.*  # versions are objects now\nplan/*:stdout.x\n"
    )
    code, lines = captures.compare()
    assert code == 0
    assert "allowed, but no such difference: plan/*:stdout.x" in lines
    assert lines[-1] == "5 documents: 0 differences, 2 allowed, 0 added"


def test_a_missing_record_is_lost(captures: Captures) -> None:
    captures.records.pop()
    code, lines = captures.compare()
    assert code == 1
    assert lines[1] == f"lost    record/smoke/vit {NAME.replace('seed 0', 'seed 1')}:  the document"
    assert captures.compare("--common")[0] == 0

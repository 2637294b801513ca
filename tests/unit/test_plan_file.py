"""Tests of ``plan.json``: a run that is limited to a part of its suite changes only that part."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StorageError
from harness.results.folder import Results
from harness.results.planned import PlanFile, read_plan, write_plan
from harness.run import plan_file
from harness.run.outcome import Options
from harness.types.record import Record
from harness.types.selection import Selection


def begin(plan: Any, results: Results, options: Options) -> str:
    return plan_file.begin(plan, results, options, print)


METHODS = ("cloud", "edge-a", "edge-b")
DEVICES = ("here", "pi")


def record(method: str, device: str, **more: Any) -> Record:
    values = {"run_id": "run1", "machine_id": "m", "suite": "s", "method_key": "k", "seed": 0, "attempt": 1}
    return Record(
        **{
            **values,
            "method": method,
            "device": {"name": device},
            "cell_id": f"{method}@{device}",
            "status": "ok",
            **more,
        }
    )


def plan(*cells: str, suite: str = "s") -> Any:
    return SimpleNamespace(suite=suite, cells=[SimpleNamespace(id=cell) for cell in cells])


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Six cells, and one of before a change of ``edge-a``."""
    folder = Results(tmp_path / "out", create=True)
    begin(plan(*(f"{m}@{d}" for m in METHODS for d in DEVICES)), folder, Options())
    for method in METHODS:
        for device in DEVICES:
            folder.append(record(method, device))
    folder.append(record("edge-a", "here", cell_id="edge-a@here, before"))
    return folder


def shown(results: Results) -> set[str]:
    return {r.cell_id for r in results.latest(current_only=True)}


ALL = {f"{m}@{d}" for m in METHODS for d in DEVICES}


@pytest.mark.parametrize(
    ("selection", "named"),
    [
        (Selection(("edge-a",)), {"edge-a@here", "edge-a@pi"}),
        (Selection(("edge-*",), ("pi",)), {"edge-a@pi", "edge-b@pi"}),
        (Selection(("edge-b", "cl*"), ("pi",)), {"cloud@pi", "edge-b@pi"}),
        (Selection((), ("here",)), {"cloud@here", "edge-a@here", "edge-b@here"}),
    ],
)
def test_a_limited_run_changes_the_cells_that_it_names_and_no_other(
    results: Results, selection: Selection, named: set[str]
) -> None:
    lines = (results.folder / "records.jsonl").read_bytes().splitlines()
    run_id = begin(plan(*named), results, Options(selection=selection))
    assert shown(results) == ALL
    changed = {cell + ", changed" for cell in named}
    assert begin(plan(*changed), results, Options(selection=selection)) == run_id
    assert shown(results) == ALL - named
    assert (results.folder / "records.jsonl").read_bytes().splitlines() == lines
    # fresh: the records of what is named are set aside, stale ones too
    assert begin(plan(*named), results, Options(selection=selection, fresh=True)) == run_id
    left = (results.folder / "records.jsonl").read_bytes().splitlines()
    (aside,) = results.folder.glob("records-*.jsonl")
    moved = aside.read_bytes().splitlines()
    assert [line for line in lines if line not in moved] == left
    assert {r.cell_id for r in results.records()} == ALL - named | (
        {"edge-a@here, before"} if "edge-a@here" not in named else set()
    )
    assert results.validate() == []
    assert results.next_attempt("m", run_id, min(named)) == 1


def test_a_whole_run_replaces_the_plan_and_a_fresh_one_sets_everything_aside(results: Results) -> None:
    first = begin(plan("cloud@here"), results, Options())
    assert shown(results) == {"cloud@here"}
    assert begin(plan(*ALL), results, Options(fresh=True)) != first
    assert results.records() == []
    (aside,) = results.folder.glob("records-*.jsonl")
    assert len(aside.read_bytes().splitlines()) == 7


def test_a_limited_run_of_another_suite_does_not_keep_the_cells_of_the_first(results: Results) -> None:
    begin(plan("cloud@here", suite="other"), results, Options(selection=Selection(("cloud",))))
    assert shown(results) == {"cloud@here"}


def test_without_a_plan_a_limited_run_hides_no_record(results: Results) -> None:
    (results.folder / "plan.json").unlink()
    begin(plan("cloud@here", "cloud@pi"), results, Options(selection=Selection(("cloud",))))
    assert shown(results) == ALL | {"edge-a@here, before"}


def test_lines_that_are_no_records_stay_where_they_are(results: Results) -> None:
    with (results.folder / "records.jsonl").open("ab") as file:
        file.write(b"junk\n\n{torn")
    begin(plan("cloud@here"), results, Options(selection=Selection(("cloud",)), fresh=True))
    content = (results.folder / "records.jsonl").read_bytes()
    assert b"junk\n{torn\n" in content
    assert b'"cloud"' not in content


@given(
    st.sampled_from(["", "[]", "7", "null", '{"cells": 3}', '{"run_id": "../../x", "cells": []}', "[" * 9999])
)
def test_what_is_no_plan_is_replaced(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    folder = Results(tmp_path_factory.mktemp("out"), create=True)
    (folder.folder / "plan.json").write_text(content)
    run_id = begin(plan("a"), folder, Options(fresh=True))
    assert read_plan(folder.folder) == PlanFile(run_id, "s", ("a",))
    assert run_id.isalnum()


def test_every_flipped_bit_of_a_plan_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    plan = PlanFile("0123abcd", "s", ("a", "b"))
    write_plan(tmp_path, plan)
    path = tmp_path / "plan.json"
    content = path.read_bytes()
    noticed = 0
    for index in range(8 * len(content)):
        changed = bytearray(content)
        changed[index // 8] ^= 1 << index % 8
        path.write_bytes(changed)
        try:
            assert read_plan(tmp_path) == plan
        except StorageError:
            noticed += 1
    assert noticed > 7 * len(content)  # the others are in the name of the checksum's key


def test_a_plan_of_version_0_1_0_has_no_checksum(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"run_id": "r", "suite": "s", "cells": ["a"]}')
    assert read_plan(tmp_path) == PlanFile("r", "s", ("a",))

"""Tests of records: they survive crashes, show that they were changed, and give each cell once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import cli
from harness.cli.results import command
from harness.errors import StorageError, SuiteError
from harness.measure.latency import latency_summary
from harness.render.outcome import failure_lines
from harness.results.folder import Results, latest_of
from harness.results.leaderboard.place import Place
from harness.results.merged import Merged
from harness.types import LatencyTrace, Samples, WarmUp
from harness.types.figures import Latency
from harness.types.record import Record

CONTRACT = [
    "schema",
    "run_id",
    "machine_id",
    "cell_id",
    "attempt",
    "status",
    "reason",
    "suite",
    "method",
    "seed",
    "repeat",
    "device",
    "runtime",
    "scenario",
    "data",
    "counts",
    "accuracy",
    "latency",
    "memory",
    "energy",
    "network",
    "parts",
    "state",
    "flags",
    "origins",
    "environment",
    "samples",
    "checksum",
]


def record(cell: str = "c1", attempt: int = 1, status: str = "ok", **more: Any) -> Record:
    values = {"run_id": "r", "machine_id": "m", "suite": "s", "method": "vit", "method_key": "k", "seed": 0}
    return Record(**{**values, "cell_id": cell, "attempt": attempt, "status": status, **more})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "out", create=True)


def lines(results: Results) -> list[bytes]:
    return (results.folder / "records.jsonl").read_bytes().splitlines()


# --- one record ---------------------------------------------------------------------------------


def test_a_record_has_the_contracts_keys_and_comes_back_as_written(results: Results) -> None:
    written = results.append(record(accuracy={"top1": 97.5}, flags=["short"], reason="größer | ✗"))
    assert set(CONTRACT) <= json.loads(lines(results)[0]).keys()
    assert written.dump()["schema"] == 1
    assert results.records() == [written]
    assert results.validate() == []


def test_what_json_cannot_say_becomes_null(results: Results) -> None:
    results.append(record(latency={"p50_ms": float("nan"), "all": [float("inf"), 1.0]}))
    assert results.records()[0].dump()["latency"] == {"p50_ms": None, "all": [None, 1.0]}


def test_text_that_utf8_cannot_hold_is_written_and_read(results: Results) -> None:
    """A file name in a reason or in a note can be such text."""
    data = {"note": "a\udcff.png", "n": 3}
    results.append(record(reason="a\udcff", data=data, latency={"p50_ms": float("nan")}))
    assert results.validate() == []
    (read,) = results.records()
    assert (read.reason, read.data.note, read.data.n) == ("a?", "a?.png", 3)
    assert read.latency.p50_ms is None


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="top_1"):
        record(top_1=3)


def test_of_two_records_with_one_attempt_the_later_counts() -> None:
    first, second = record(reason="first"), record(reason="second")
    assert [kept.reason for kept in latest_of([first, second])] == ["second"]


def test_folders_are_merged_and_each_record_has_its_own_samples(tmp_path: Path) -> None:
    folders = []
    for number, cell in enumerate(("a", "b", "a")):
        folder = Results(tmp_path / str(number), create=True)
        folder.append(record(cell, samples=folder.store_samples({"number": np.array(number)})))
        folders.append(folder)
    merged = Merged(folders)
    assert [(r.cell_id, int(merged.load_samples(r)["number"])) for r in merged.records] == [
        ("a", 2),
        ("b", 1),
    ]


def test_a_copy_of_a_folder_is_no_other_folder_and_two_runs_are(tmp_path: Path) -> None:
    folders = [Results(tmp_path / name, create=True) for name in ("first", "copy", "other")]
    for folder, run in zip(folders, ("r1", "r1", "r2"), strict=True):
        folder.append(record("a", run_id=run))
        folder.append(record("before", run_id=run))
        (folder.folder / "plan.json").write_text(json.dumps({"run_id": run, "cells": ["a"]}))
    merged = Merged(folders)
    first, other = (str(folders[i].folder) for i in (0, 2))
    assert [merged.place_of(r) for r in merged.records] == [
        Place(first),
        Place(first, "earlier"),
        Place(other),
        Place(other, "earlier"),
    ]
    assert len(Merged(folders, current_only=True).records) == 2
    text = (
        CliRunner().invoke(cli, ["leaderboard", *(str(f.folder) for f in folders), "--format", "json"]).stdout
    )
    (board,) = json.loads(text)["boards"]
    assert [(row["folder"], row["seeds"], row["repeats"]) for row in board["rows"]] == [
        (first, 1, 1),
        (other, 1, 1),
    ]


# --- the view -----------------------------------------------------------------------------------


def test_the_view_takes_the_latest_good_attempt_else_the_latest(results: Results) -> None:
    for cell, attempt, status in [
        ("a", 1, "failed"),
        ("b", 1, "failed"),
        ("a", 2, "ok"),
        ("a", 3, "failed"),
        ("b", 2, "failed"),
        ("c", 1, "ok"),
        ("c", 2, "partial"),
    ]:
        results.append(record(cell, attempt, status))
    view = [(r.cell_id, r.attempt, r.status) for r in results.latest()]
    assert view == [("a", 2, "ok"), ("b", 2, "failed"), ("c", 2, "partial")]
    assert results.next_attempt("m", "r", "a") == 4
    assert results.next_attempt("m", "r", "new") == 1
    results.append(record("new"))
    assert results.next_attempt("m", "r", "new") == 2


def test_cells_of_other_machines_and_runs_are_other_cells(results: Results) -> None:
    results.append(record())
    results.append(record(machine_id="m2"))
    results.append(record(run_id="r2"))
    assert len(results.latest()) == 3


def test_only_the_cells_of_the_current_plan(results: Results) -> None:
    results.append(record("old"))
    results.append(record("new"))
    plan = results.folder / "plan.json"
    assert len(results.latest(current_only=True)) == 2
    plan.write_text(json.dumps({"run_id": "r", "cells": ["new"]}))
    assert [r.cell_id for r in results.latest(current_only=True)] == ["new"]
    plan.write_text("[]")
    with pytest.raises(StorageError, match=r"plan\.json"):
        results.latest(current_only=True)


def test_show_prefers_a_cell_of_the_last_run(results: Results) -> None:
    results.append(record("before", reason="before the change"))
    results.append(record("after", status="failed", stage="build", plugin="mine", reason="after the change"))
    (results.folder / "plan.json").write_text(json.dumps({"run_id": "r", "cells": ["after"]}))
    shown = CliRunner().invoke(command, ["show", str(results.folder), "vit"], standalone_mode=False).output
    assert "failed at build in plugin mine: after the change" in shown.splitlines()[1]
    assert "before the change" in shown.splitlines()[-2]


def test_the_list_of_records_distinguishes_scenarios(results: Results) -> None:
    results.append(record("a", scenario={"name": "single-stream", "batch": 1}))
    results.append(record("b", scenario={"name": "offline", "batch": 16}))
    heading, first, second = show(results).splitlines()
    at = heading.index("scenario")
    assert first[at:].startswith("single-stream ")
    assert second[at:].startswith("offline, batch 16 ")


def test_a_cell_that_the_last_run_did_not_have_is_marked(results: Results) -> None:
    results.append(record("before"))
    results.append(record("after", seed=1))
    listed = show(results)
    assert "earlier" not in listed
    (results.folder / "plan.json").write_text(json.dumps({"run_id": "r", "cells": ["after"]}))
    heading, before, after, note = show(results).splitlines()
    assert heading.split()[:2] == ["cell", "run"]
    assert before.split()[:2] == ["before", "earlier"]
    assert after.split()[:2] == ["after", "last"]
    assert note.startswith("earlier: the folder's last run did not have this cell")
    assert show(results, "before").startswith("Run          earlier: the folder's last run")
    assert "earlier" not in show(results, "after")


def show(results: Results, *which: str) -> str:
    return CliRunner().invoke(command, ["show", str(results.folder), *which], standalone_mode=False).output


def test_the_leaderboard_says_how_many_cells_it_leaves_out(results: Results) -> None:
    results.append(record("before"))
    results.append(record("after", seed=1))
    (results.folder / "plan.json").write_text(json.dumps({"run_id": "r", "cells": ["after"]}))
    answer = CliRunner().invoke(cli, ["leaderboard", str(results.folder)])
    assert answer.stderr == (
        "note: 1 cell left out that the folder's last run did not have; --all shows them\n"
    )
    assert CliRunner().invoke(cli, ["leaderboard", str(results.folder), "--all"]).stderr == ""


def test_a_failure_names_the_stage_and_the_plugin() -> None:
    failed = [
        record(str(seed), seed=seed, status="failed", stage="build", plugin="mine", reason="no")
        for seed in (0, 1)
    ]
    unknown = record(status="failed", stage="load", reason="gone", traceback="tracebacks/load-1.txt")
    broken = record(status="failed", stage="build", plugin="mine", reason="plugin mine (x 1): model 'm': no")
    assert list(failure_lines([*failed, unknown, broken], Path("out"))) == [
        "failed: vit (seed 0), vit (seed 1): build in plugin mine: no",
        "failed: vit (seed 0): load: gone (traceback: out/tracebacks/load-1.txt)",
        "failed: vit (seed 0): build: plugin mine (x 1): model 'm': no",
    ]


def test_archived_records_are_kept_aside(results: Results) -> None:
    for _ in range(2):
        results.append(record())
        results.archive("r")
    assert results.records() == []
    assert results.next_attempt("m", "r", "c1") == 1
    assert len(list(results.folder.glob("records-r*.jsonl"))) == 2


# --- faults -------------------------------------------------------------------------------------


@given(data=st.data())
def test_a_write_cut_off_anywhere_costs_at_most_that_record(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    results = Results(tmp_path_factory.mktemp("torn"), create=True)
    results.append(record("a"))
    whole = len(b"".join(lines(results))) + 1
    results.append(record("b"))
    file = results.folder / "records.jsonl"
    content = file.read_bytes()
    cut = data.draw(st.integers(whole, len(content)))
    file.write_bytes(content[:cut])
    complete = cut >= len(content) - 1  # all but the line's end is there
    assert [r.cell_id for r in results.records()] == (["a", "b"] if complete else ["a"])
    results.append(record("c"))
    assert [r.cell_id for r in results.records()] == (["a", "b", "c"] if complete else ["a", "c"])
    assert len(results.validate()) == (0 if complete or cut == whole else 1)


@given(st.binary(max_size=200))
def test_junk_is_reported_and_never_raises(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    results = Results(tmp_path_factory.mktemp("junk"), create=True)
    results.append(record("a"))
    with (results.folder / "records.jsonl").open("ab") as file:
        file.write(junk + b"\n")
    results.append(record("b"))
    assert [r.cell_id for r in results.records()] == ["a", "b"]
    assert bool(results.validate()) == any(line.strip() for line in junk.split(b"\n"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(seed=9), "checksum does not match"),
        (lambda c: c.pop("method"), "method: Field required"),
        (lambda c: c.update(schema=2), "schema 2 is not one"),
        (lambda c: c.update(status="great"), "status: Input should be"),
    ],
)
def test_a_changed_line_is_found(results: Results, change: Any, reason: str) -> None:
    results.append(record("a"))
    results.append(record("b"))
    first, second = lines(results)
    content = json.loads(second)
    change(content)
    (results.folder / "records.jsonl").write_bytes(first + b"\n" + json.dumps(content).encode() + b"\n")
    assert [r.cell_id for r in results.records()] == ["a"]
    (problem,) = results.validate()
    assert "records.jsonl:2: " in problem
    assert reason in problem


def test_a_doubled_record_is_found(results: Results) -> None:
    results.append(record())
    results.append(record())
    (problem,) = results.validate()
    assert "records.jsonl:2: attempt 1 of cell c1 stands in line 1 already" in problem


def test_a_full_disk_is_one_line_and_leaves_earlier_records_intact(results: Results) -> None:
    results.append(record("a"))
    size = (results.folder / "records.jsonl").stat().st_size
    code = (
        "import resource, sys; from harness.results.folder import Record, Results; from harness.errors import StorageError\n"
        f"results = Results({str(results.folder)!r})\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 50}, {size + 50}))\n"
        "values = dict(run_id='r', machine_id='m', suite='s', method='v', method_key='k', seed=0)\n"
        "try: results.append(Record(**values, cell_id='b', attempt=1, status='ok'))\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "records.jsonl: No space left" in done.stdout
    assert [r.cell_id for r in results.records()] == ["a"]
    results.append(record("c"))
    assert [r.cell_id for r in results.records()] == ["a", "c"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: path.mkdir(), "holds no records.jsonl"),
    ],
)
def test_what_is_no_results_folder_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(SuiteError, match=reason):
        Results(tmp_path / "x")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        Results(tmp_path / "file" / "out", create=True)


# --- the lock -----------------------------------------------------------------------------------


def test_a_second_run_is_refused_naming_the_first_until_that_is_gone(results: Results) -> None:
    code = (
        "import time; from harness.results.folder import Results\n"
        f"with Results({str(results.folder)!r}).lock(): print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=rf"in use by process {first.pid} on .* since "),
            results.lock(),
        ):
            pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with results.lock():
        pass
    with results.lock():
        pass


# --- samples ------------------------------------------------------------------------------------


def test_samples_come_back_and_equal_content_is_one_file(results: Results) -> None:
    arrays = {"latency_ns": np.arange(5), "compute:front": np.arange(3), "first_ns": np.int64(7)}
    samples = results.store_samples(arrays)
    assert samples == results.store_samples(arrays)
    loaded = results.load_samples(results.append(record(samples=samples)))
    assert {name: array.tolist() for name, array in loaded.items()} == {
        "latency_ns": [0, 1, 2, 3, 4],
        "compute:front": [0, 1, 2],
        "first_ns": 7,
    }
    assert len(list(results.folder.glob("samples/*/*"))) == 1
    assert results.load_samples(record()) == {}


def test_python_objects_are_no_samples(results: Results) -> None:
    with pytest.raises(ValueError, match="'x' holds Python objects"):
        results.store_samples({"x": np.array([{}])})


@pytest.mark.parametrize("fault", ["missing", "changed", "elsewhere"])
def test_sample_files_are_checked(results: Results, fault: str) -> None:
    samples = results.store_samples({"latency_ns": np.arange(5)})
    path = results.folder / str(samples.file)
    if fault == "missing":
        path.unlink()
    elif fault == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        samples = samples.model_copy(update={"file": "../../secret.npz"})
    written = results.append(record(samples=samples))
    assert len(results.validate()) == 1
    with pytest.raises(StorageError):
        results.load_samples(written)


def test_samples_that_cannot_be_written_are_one_line(results: Results) -> None:
    (results.folder / "samples").write_text("")
    with pytest.raises(StorageError, match="samples"):
        results.store_samples({"latency_ns": np.arange(5)})


# --- the latency block --------------------------------------------------------------------------


def samples_of(n: int, batch: int = 1) -> Samples:
    latency = np.random.default_rng(0).permutation(np.arange(1, n + 1) * 1_000_000)
    return Samples(
        trace=LatencyTrace(latency_ns=latency, window_ns=2_000_000_000, reached=True),
        warmup=WarmUp(latency_ns=latency[:0], steady=True),
        first_ns=9_000_000,
        batch=batch,
    )


def test_latency_is_derived_from_raw_samples() -> None:
    latency = latency_summary(samples_of(100, batch=4), preprocess_ms=0.25)
    assert latency.n == 100
    assert (latency.p50_ms, latency.p90_ms, latency.first_ms, latency.preprocess_ms) == (51, 91, 9, 0.25)
    assert latency.mean_ms == 50.5
    assert latency.std_ms == pytest.approx(np.std(np.arange(1, 101), ddof=1))
    assert latency.throughput_ips == 200
    assert latency.bounds.p90_ms > latency.p90_ms


def test_percentiles_of_too_few_queries_are_null() -> None:
    latency = latency_summary(samples_of(661))
    assert latency.p97_ms is not None
    assert latency.p99_ms is latency.p999_ms is latency.bounds.p99_ms is None
    assert latency_summary(samples_of(662)).p99_ms is not None
    single = latency_summary(samples_of(1))
    assert (single.n, single.p50_ms, single.mean_ms, single.std_ms) == (1, None, 1.0, None)


def test_an_observer_may_read_a_block_as_a_mapping() -> None:
    latency = Latency(n=11, p50_ms=2.5)
    assert latency["p50_ms"] == latency.p50_ms == 2.5
    assert latency.get("n") == 11
    assert "p99_ms" not in latency
    assert latency.get("p99_ms", 0.0) == 0.0
    with pytest.raises(KeyError, match="p99_ms"):
        latency["p99_ms"]
    assert dict(latency) == dict(latency.items()) == {**latency} == {"n": 11, "p50_ms": 2.5}

"""Records and plans may be damaged, odd or hostile: each fault is one line, costs itself alone, and takes no memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

import damages
from damages import BAD_PLANS, DAMAGES, NOT_FILES, replaced
from harness.errors import StorageError
from harness.results import lines
from harness.results.folder import Results
from harness.types.record import line_of

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def bounded():
    with damages.little_memory():
        yield


@pytest.fixture
def results(tmp_path):
    return damages.filled(tmp_path / "out")


@pytest.mark.parametrize("name", [*NOT_FILES, "6 GiB of holes", "a link to nothing"])
@pytest.mark.parametrize(
    "words", [["results", "validate", "out"], ["leaderboard", "out"], ["results", "show", "out"]]
)
def test_records_that_are_no_file_are_one_line(results, harness, name, words):
    DAMAGES[name](results.folder / "records.jsonl")
    code, said, error = harness(*words)
    assert (code, said) == (2, "")
    assert error.startswith("error: out")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", [*NOT_FILES, "a link to nothing", "a link to a file"])
@pytest.mark.parametrize("file", ["records.jsonl", ".lock"])
def test_a_run_writes_into_no_link_and_no_pipe(results, tmp_path, name, file):
    mine = tmp_path / "mine"
    mine.write_text("keep")
    link = {"a link to a file": replaced(lambda path: path.symlink_to(mine))}
    path = results.folder / file
    path.touch()
    {**DAMAGES, **link}[name](path)
    with (
        pytest.raises(StorageError, match=r"(records\.jsonl|\.lock): "),
        Results(results.folder, create=True).lock(),
    ):
        raise AssertionError("it writes")
    assert mine.read_text() == "keep"
    assert not (results.folder / "nowhere").exists()


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_samples_that_are_no_folder_are_said_before_anything_is_measured(results, make):
    shutil.rmtree(results.folder / "samples")
    make(results.folder / "samples")
    with pytest.raises(StorageError, match=r"samples: is not a folder; give another --out"):
        Results(results.folder, create=True)


BAD_LINES = {
    "a number": b"7",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep inside": b'{"schema": 1, "device": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "9 MiB": b'"' + b"x" * (9 * 2**20) + b'"',
    "not UTF-8": b"\xff\xfe",
    "a long number": b"9" * 100_000,
    "a schema of a megabyte": b'{"schema": "' + b"x" * 2**20 + b'"}',
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_bad_line_is_named_and_costs_nothing_else(results, name, end):
    with (results.folder / "records.jsonl").open("ab") as file:
        file.write(BAD_LINES[name] + end)
    valid, problems = results.scan()
    assert [number for number, _ in valid] == [1, 2, 3]
    (problem,) = problems
    assert len(problem) < 500
    assert "records.jsonl:4: " in problem
    assert problem.endswith(" (torn: the last write was cut off)") == (end == b"")


@pytest.mark.parametrize(
    ("problem", "block", "text"),
    [
        ("latency.p50_ms: is beyond 1e+100, which no figure is", "latency", '{"p50_ms":1e400}'),
        ("latency.p50_ms: is beyond 1e+100, which no figure is", "latency", '{"p50_ms":-1e308}'),
        ("counts.params: is beyond 1e+100, which no figure is", "counts", '{"params":' + "9" * 400 + "}"),
        (
            "energy.1.details.more: is beyond 1e+100, which no figure is",
            "energy",
            '[{},{"details":{"more":1e101}}]',
        ),
        ("latency.p50_ms: is below 0", "latency", '{"p50_ms":-1}'),
        ("latency.throughput_ips: is below 0", "latency", '{"throughput_ips":-0.5}'),
        ("counts.macs: is below 0", "counts", '{"macs":-1}'),
        ("memory.process_peak_bytes: is below 0", "memory", '{"process_peak_bytes":-1}'),
        ("accuracy.top1: is above 100 percent", "accuracy", '{"top1":100.5,"n":1000}'),
        ("latency.p50_ms.int: Input should be a valid integer", "latency", '{"p50_ms":"1e400"}'),
        ("accuracy.top5: is below 0", "accuracy", '{"top5":-1}'),
    ],
)
def test_a_number_that_no_measurement_gives_is_named(results, harness, problem, block, text):
    """The checksum is right: a person made the line, or a plugin gave the number."""
    line = json.loads(line_of(damages.record("four", **{block: {} if text[0] == "{" else [{}, {}]})))
    del line["checksum"]
    marked = json.dumps({**line, block: "here"}, sort_keys=True, separators=(",", ":"))
    content = marked.replace('"here"', text)
    digest = hashlib.sha256(content.encode()).hexdigest()
    with (results.folder / "records.jsonl").open("a") as file:
        file.write(f'{content[:-1]},"checksum":"{digest}"}}\n')
    assert results.validate() == [f"{results.folder}/records.jsonl:4: {problem}"]
    code, said, error = harness("leaderboard", "out", "--format", "json", "--all")
    assert (code, sorted(damages.rows(said))) == (0, ["one", "three", "two"])
    assert error.splitlines()[0] == "warning: out: 1 bad line left out; see `harness results validate`"


def test_a_million_bad_lines_are_counted(results):
    with (results.folder / "records.jsonl").open("ab") as file:
        file.write(b"x\n" * 50_000)
    problems = results.validate()
    assert len(problems) == lines.MOST_PROBLEMS + 1
    assert problems[-1].endswith("49,000 further bad lines")


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_plan_that_is_no_plan_is_one_line(results, harness, name):
    BAD_PLANS[name](results.folder / "plan.json")
    for words in (["leaderboard", "out"], ["results", "show", "out", "one"]):
        code, said, error = harness(*words)
        assert (code, said) == (2, "")
        assert error.startswith(f"error: {Path('out/plan.json')}: ")
        assert error.count("\n") == 1
    code, said, _ = harness("results", "validate", "out")
    assert code == 1
    assert said.count("plan.json") == 1
    assert harness("leaderboard", "out", "--all")[0] == 0

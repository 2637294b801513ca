"""A results folder may be damaged, odd or hostile: each fault is one line, costs its rows alone, and takes no memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness import cli
from harness.errors import StorageError
from harness.machine import environment
from harness.prepare.nodes import preprocess_ms, run_node
from harness.render.progress import PlainWatcher
from harness.results import lines
from harness.results.folder import Results
from harness.results.merged import Merged
from harness.run.outcome import Options
from harness.run.runner import run as run_plan
from harness.types.record import Record

pytestmark = pytest.mark.timeout(60)

N = 40


def record(method: str, seed: int = 0, **more) -> Record:
    values = {
        "run_id": "r1",
        "machine_id": "m",
        "suite": "s",
        "method_key": method,
        "status": "ok",
        "attempt": 1,
    }
    figures = {"accuracy": {"top1": 50.0}, "latency": {"p50_ms": 1.0}, "device": {"model": "board"}}
    return Record(
        **{**values, **figures, "cell_id": f"{method}{seed}", "method": method, "seed": seed, **more}
    )


def answers(right: int) -> dict[str, np.ndarray]:
    labels = np.arange(N, dtype=np.int64) % 4
    predictions = labels.astype(np.int32)
    predictions[right:] += 1
    return {"predictions": predictions, "labels": labels, "latency_ns": np.arange(100)}


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path / "out", create=True)
    for number, method in enumerate(("one", "two", "three")):
        results.append(record(method, samples=results.store_samples(answers(10 + number))))
    plan = {"run_id": "r1", "suite": "s", "cells": ["one0", "two0", "three0"]}
    (results.folder / "plan.json").write_text(json.dumps(plan))
    return results


@pytest.fixture
def harness(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code, said.out, said.err

    return call


def sample_of(results: Results, method: str) -> Path:
    found = next(item for item in results.records() if item.method == method)
    return results.folder / str(found.samples.file)


def rows(text: str) -> list[str]:
    return [row["method"] for board in json.loads(text)["boards"] for row in board["rows"]]


# --- what can become of a file --------------------------------------------------------------------


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.unlink()
        make(path)

    return plant


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": replaced(Path.mkdir),
    "a pipe": replaced(os.mkfifo),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "an empty device": replaced(lambda path: path.symlink_to("/dev/null")),
}
DAMAGES: dict[str, Callable[[Path], None]] = {
    **NOT_FILES,
    "a flipped bit": flipped,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "6 GiB of holes": lambda path: os.truncate(path, 6 * 2**30),
    "a link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
}


@pytest.fixture(autouse=True)
def bounded():
    """Less memory than the holes have, so that reading them whole fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# --- sample files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_sample_file_costs_its_row_and_is_named(results, harness, name):
    path = sample_of(results, "two")
    DAMAGES[name](path)
    code, said, _ = harness("results", "validate", "out")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith(str(Path("out") / "samples"))]
    assert path.name in line
    code, said, warned = harness("leaderboard", "out", "--format", "json")
    assert code == 0
    assert sorted(rows(said)) == ["one", "three"]
    (line,) = warned.splitlines()
    assert path.name in line
    assert line.endswith("the record of two, seed 0, repeat 0 is left out")
    code, said, warned = harness("results", "show", "out", "two")
    assert code == 0
    assert said.startswith("Method")
    assert warned.count("\n") == 1


def test_a_missing_sample_file_costs_the_tier_and_is_named(results, harness):
    sample_of(results, "two").unlink()
    code, said, warned = harness("leaderboard", "out", "--format", "json")
    assert code == 0
    tiers = {row["method"]: row["tier"] for board in json.loads(said)["boards"] for row in board["rows"]}
    assert tiers == {"one": 1, "three": 1, "two": None}
    assert "1 file of samples is missing" in warned
    assert harness("results", "validate", "out")[0] == 1


def test_of_many_damaged_files_ten_are_named(results, harness):
    for seed in range(1, 30):
        kept = results.append(
            record("one", seed, samples=results.store_samples({"latency_ns": np.arange(seed)}))
        )
        os.truncate(results.folder / str(kept.samples.file), 3)
    merged = Merged([results])
    assert len(merged.problems) == 11
    assert merged.problems[-1].endswith("19 further records with damaged samples left out")
    assert len(merged.records) == 3


def planted(results: Results, method: str, content: bytes) -> None:
    """Append a record whose sample file has this content, under its right hash."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"samples/{digest[:2]}/{digest}.npz"
    (results.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (results.folder / name).write_bytes(content)
    results.append(record(method, samples={"file": name, "sha256": digest}))


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def array(shape: tuple[int, ...], dtype: str = "<i8", data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def declared(content: bytes, size: int) -> bytes:
    """An archive of one member whose directory declares another size."""
    changed = bytearray(content)
    start = changed.rindex(b"PK\1\2")
    changed[start + 24 : start + 28] = size.to_bytes(4, "little")
    return bytes(changed)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{}], dtype=object))
    return buffer.getvalue()


HUGE = 3 * 2**30
HOSTILE = {
    "no archive": b"x" * 100,
    "nothing": b"",
    "an array alone": array((3,), data=bytes(24)),
    "a header of 8 EiB": archive({"a.npy": array((2**60,))}),
    "3 GiB unpacked": declared(archive({"a.npy": array((HUGE // 8 - 16,), data=bytes(64))}), HUGE),
    "negative shape": archive({"a.npy": array((-1,), data=bytes(8))}),
    "more than its header": archive({"a.npy": array((1,), data=bytes(800))}),
    "less than its header": archive({"a.npy": array((100,), data=bytes(8))}),
    "no array inside": archive({"a.txt": b"text"}),
    "a header that is code": archive({"a.npy": b"\x93NUMPY\1\0\x10\0__import__('os')"}),
    "a header cut off": archive({"a.npy": array((3,))[:20]}),
    "another version": archive({"a.npy": b"\x93NUMPY\x09\0" + bytes(50)}),
    "Python objects": pickled(),
    "a comment behind": npz(a=np.zeros(3)) + b"more",
    "predictions of two dimensions": npz(
        predictions=np.zeros((5, 2), np.int32), labels=np.zeros(5, np.int64)
    ),
    "predictions of other length": npz(predictions=np.zeros(7, np.int32), labels=np.zeros(5, np.int64)),
    "labels that are no integers": npz(predictions=np.zeros(5, np.int32), labels=np.zeros(5)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sample_file_whose_hash_is_right_and_content_is_not(results, harness, name):
    planted(results, "bad", HOSTILE[name])
    code, said, _ = harness("results", "validate", "out")
    assert code == 1
    assert said.count("\n") == 2
    code, said, warned = harness("leaderboard", "out", "--all", "--format", "json")
    assert code == 0
    assert sorted(rows(said)) == ["one", "three", "two"]
    assert warned.count("\n") == 1
    assert "the record of bad, seed 0, repeat 0 is left out" in warned


def test_an_archive_of_a_million_names_is_not_listed(results):
    directory = (b"PK\1\2" + bytes(42)) * 30_000
    end = b"PK\5\6" + bytes(8) + len(directory).to_bytes(4, "little") + bytes(4) + bytes(2)
    planted(results, "bad", directory + end)
    assert "its directory has more than 1,048,576 bytes" in Merged([results]).problems[0]


def test_content_that_does_not_unpack_is_one_line(results):
    content = bytearray(npz(a=np.random.default_rng(0).integers(0, 9, 1000)))
    content[400] ^= 255
    planted(results, "bad", bytes(content))
    with pytest.raises(StorageError, match="cannot be unpacked"):
        results.load_samples(results.records()[-1])


def test_the_same_samples_are_written_over_a_damaged_file(results):
    path = sample_of(results, "one")
    before = path.read_bytes()
    flipped(path)
    results.store_samples(answers(10))
    assert path.read_bytes() == before


# --- records and plan -----------------------------------------------------------------------------


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


def test_a_million_bad_lines_are_counted(results):
    with (results.folder / "records.jsonl").open("ab") as file:
        file.write(b"x\n" * 50_000)
    problems = results.validate()
    assert len(problems) == lines.MOST_PROBLEMS + 1
    assert problems[-1].endswith("49,000 further bad lines")


BAD_PLANS = {
    **{
        name: DAMAGES[name]
        for name in ("a folder", "a pipe", "a link to itself", "an endless device", "6 GiB of holes")
    },
    **{
        str(text[:20]): lambda path, text=text: path.write_bytes(text)
        for text in (
            *(b"", b"7", b"null", b"[]", b"{}", b"\xff", b"[" * 200_000, b'{"run_id": 3, "cells": []}'),
            *(b'{"run_id": "r", "cells": 3}', b'{"run_id": "../../up", "cells": []}', b'{"cells": ["one0"]}'),
        )
    },
}


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


# --- runs -----------------------------------------------------------------------------------------

SUITE = """\
suite: toys
data: {name: synthetic, num_classes: 3, size: 8, channels: 1, train: 30, test: 6}
defaults: {train: {epochs: 0}, runtime: plain}
measure: {min_time: 20ms, min_queries: 44, max_time: 60s, warmup: one, energy: off}
methods: {whole: {build: toy}, split: {from: whole, partition: toys}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


class InThisProcess:
    """Prepares nodes without child processes."""

    def __init__(self, plugins, store) -> None:
        self.plugins, self.store = plugins, store

    def prepare(self, nodes, watcher):
        for node in nodes:
            run_node(node, self.plugins, self.store)
        return {}

    def preprocess_ms(self, node):
        return preprocess_ms(node, self.plugins, 2)

    def close(self):
        pass


@pytest.fixture(scope="module")
def prepared(prepare_toys):
    return prepare_toys(SUITE)


@pytest.fixture(scope="module")
def first(prepared, tmp_path_factory):
    """A results folder after a first run."""
    plan, plugins, store = prepared
    folder = tmp_path_factory.mktemp("first") / "out"
    jobs = InThisProcess(plugins, store)
    run_plan(
        plan, plugins, store, Results(folder, create=True), PlainWatcher(sys.stderr), Options(), jobs=jobs
    )
    return folder


@pytest.fixture
def run(prepared, first, tmp_path):
    """Copies the folder of the first run; `run.again` runs into the copy and returns (attempts, what was said)."""
    plan, plugins, store = prepared
    shutil.copytree(first, tmp_path / "out")
    results = Results(tmp_path / "out")

    class Run:
        folder = results.folder

        def again(self, **options) -> tuple[int, list[str]]:
            said = io.StringIO()
            jobs = InThisProcess(plugins, store)
            opened = Results(self.folder, create=True)
            outcome = run_plan(
                plan, plugins, store, opened, PlainWatcher(said), Options(**options), jobs=jobs
            )
            assert len(outcome.records) == 2
            warned = [line for line in said.getvalue().splitlines() if line.startswith("warning: ")]
            return outcome.measured, warned

    return Run()


def test_nothing_is_measured_twice(run):
    assert run.again() == (0, [])


@pytest.mark.parametrize("name", ["a pipe", "a flipped bit", "empty", "6 GiB of holes"])
def test_a_cell_whose_samples_are_damaged_is_measured_again(run, name):
    path = next(run.folder.glob("samples/*/*"))
    DAMAGES[name](path)
    measured, warned = run.again()
    assert measured == 1
    assert len(warned) == 1
    assert path.name in warned[0]
    assert run.again() == (0, [])


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_run_mends_a_damaged_plan_and_keeps_the_records(run, name):
    run_id = json.loads((run.folder / "plan.json").read_text())["run_id"]
    BAD_PLANS[name](run.folder / "plan.json")
    measured, warned = run.again()
    assert measured == 0
    assert len(warned) == 1
    assert warned[0].endswith("; set aside as plan-damaged.json")
    assert json.loads((run.folder / "plan.json").read_text())["run_id"] == run_id
    assert os.path.lexists(run.folder / "plan-damaged.json")
    assert run.again() == (0, [])


def test_a_cell_measured_again_after_the_plan_was_lost_counts_once(run):
    results = Results(run.folder)
    flagged = results.latest()[0].model_copy(update={"attempt": 2, "flags": ["contended"]})
    results.append(flagged)
    (run.folder / "plan.json").unlink()
    count = sum(bool(record.flags) for record in results.latest())  # a busy machine may flag the other too
    measured, _ = run.again(retry_flagged=True)
    assert measured == count
    assert len(Results(run.folder).latest()) == 2


def test_another_machine_measures_for_itself(run, monkeypatch):
    other = "another-machine0"
    monkeypatch.setattr(environment, "machine_id", lambda: other)
    measured, warned = run.again()
    assert measured == 2
    assert warned == [
        "warning: 2 cells were measured on another machine, whose records stay, and are measured on this machine too"
    ]
    latest = Results(run.folder).latest(current_only=True)
    assert sorted({record.machine_id for record in latest} - {other}) != []
    assert len(latest) == 4
    assert run.again()[0] == 0

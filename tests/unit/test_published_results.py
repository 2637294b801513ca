"""Tests of published results: what is copied, what is refused of a submission, and the page that shows them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import StorageError, SuiteError
from harness.results.folder import Results
from harness.results.planned import PlanFile, write_plan
from harness.results.sharing.check import LIMITS, check_changes, check_published
from harness.results.sharing.privacy import private, texts, without_paths
from harness.results.sharing.publish import publish
from harness.suite.yamlfile import parse_yaml
from harness.types.record import Record, checksum

ROOT = Path(__file__).parents[2]
N = 200


@pytest.fixture
def page():
    spec = importlib.util.spec_from_file_location("published_page", ROOT / "docs" / "published.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(
    folder: Path, machine_id: str = "m1", run_id: str = "r1", suite: str = "edge", **changes: Any
) -> Path:
    """Write a results folder as a run leaves it: two methods, two seeds."""
    results = Results(folder, create=True)
    cells = []
    for method, top1 in (("cloud", 90), ("edge", 60)):
        for seed in (0, 1):
            labels = np.zeros(N, dtype=np.int64)
            wrong = np.arange(N) >= (top1 + seed) * N / 100
            cells.append(f"{machine_id}{method}{seed}")
            values: dict[str, Any] = {
                "run_id": run_id,
                "machine_id": machine_id,
                "suite": suite,
                "method": method,
                "seed": seed,
                "method_key": f"key-{method}",
                "cell_id": cells[-1],
                "attempt": 1,
                "status": "ok",
                "device": {"name": "here", "model": "a board", "kind": "cpu", "nodes": 1},
                "runtime": {"name": "onnxruntime", "params": {}},
                "scenario": {"name": "single-stream", "batch": 1, "threads": 1},
                "data": {"name": "digits", "split": "test", "classes": 10},
                "accuracy": {"top1": float(top1 + seed), "n": N},
                "latency": {"n": 662, "p50_ms": 4.0 + seed, "mean_ms": 4.0, "std_ms": 1.0},
                "environment": {
                    "cpu": "a board",
                    "cores_logical": 4,
                    "memory_bytes": 2**32,
                    "os": "Linux",
                    "kernel": "6",
                    "python": "3.12",
                    "versions": {"edge-harness": "0.1.0", "torch": "2"},
                },
                "started": "2026-01-02T03:04:05+00:00",
                "samples": results.store_samples({"predictions": wrong.astype(np.int64), "labels": labels}),
            }
            results.append(Record(**{**values, **changes}))
    write_plan(folder, PlanFile(run_id, suite, tuple(cells)))
    text = f"suite: {suite}\ndata: {{name: digits, path: /srv/data/digits}}\n"
    (folder / "suite.yaml").write_text(text)
    run = {
        "run_id": run_id,
        "command": "harness run edge --out /home/ann/results/edge",
        "suite_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "harness": {"version": "0.1.0", "commit": "0123456789abcdef", "dirty": False},
    }
    (folder / "runs.jsonl").write_text(json.dumps(run) + "\n")
    return folder


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder of published results with one suite of one machine."""
    root = tmp_path / "published"
    publish(make(tmp_path / "local"), "board-a", root)
    return root


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Change each record of a file, with a new checksum if ``sealed``."""
    records = lines(path)
    for record in records:
        change(record)
        if sealed:
            record["checksum"] = checksum(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


# --- publishing -------------------------------------------------------------------------------------


def test_a_published_folder_has_the_last_runs_records_and_no_path_of_the_machine(tmp_path):
    local = make(tmp_path / "local")
    (local / ".lock").touch()
    (local / "tracebacks").mkdir()
    (local / "records-old.jsonl").touch()
    older = lines(local / "records.jsonl")[0] | {"cell_id": "older"}
    older["checksum"] = checksum(older)
    with (local / "records.jsonl").open("a") as file:
        file.write(json.dumps(older) + "\n")
    target = publish(local, "board-a", tmp_path / "published")
    assert target == tmp_path / "published" / "board-a" / "edge"
    assert sorted(path.name for path in target.iterdir()) == [
        "plan.json",
        "records.jsonl",
        "runs.jsonl",
        "samples",
        "suite.yaml",
    ]
    kept = (local / "records.jsonl").read_text().splitlines()[:4]
    assert (target / "records.jsonl").read_text().splitlines() == kept
    suite = (target / "suite.yaml").read_bytes()
    assert suite == b"suite: edge\ndata: {name: digits, path: digits}\n"
    (run,) = lines(target / "runs.jsonl")
    assert run["command"] == "harness run edge --out edge"
    assert run["suite_sha256"] == hashlib.sha256(suite).hexdigest()
    assert check_published(tmp_path / "published") == []
    assert publish(local, "board-a", tmp_path / "published") == target, "an earlier copy is replaced"
    assert sorted(path.name for path in target.parent.iterdir()) == ["edge"]


def test_what_cannot_be_published_is_one_line(tmp_path):
    local = make(tmp_path / "local")
    for machine in ("../x", "a b", "", ".hidden"):
        with pytest.raises(SuiteError, match="a machine's name has letters"):
            publish(local, machine, tmp_path / "published")
    (sample, *_) = (local / "samples").rglob("*.npz")
    sample.write_bytes(b"changed")
    with pytest.raises(StorageError, match="content does not match its name"):
        publish(local, "board-a", tmp_path / "published")
    assert not list((tmp_path / "published" / "board-a").iterdir()), "nothing half copied stays"
    (local / "plan.json").unlink()
    with pytest.raises(SuiteError, match=r"has no plan\.json of a run"):
        publish(local, "board-a", tmp_path / "published")


def test_the_commands_print_what_is_wrong_and_have_exit_codes(tmp_path, harness):
    make(Path("local"))
    code, out, _ = harness("results", "publish", "local", "board-a", "--to", "published")
    assert (code, out.strip()) == (0, "published/board-a/edge: published")
    assert harness("results", "check-submission", "published")[:2] == (0, "published: 0 problems\n")
    shutil.copytree("published", "base")
    Path("published/board-a/edge/suite.yaml").write_text("data: {path: /home/ann/digits}\n")
    code, out, _ = harness("results", "check-submission", "published", "--base", "base")
    assert code == 1
    assert "suite.yaml:1: the path '/home/ann/digits' is private" in out
    code, out, _ = harness("results", "publish", "local", "board-b", "--to", "published")
    assert code == 1
    assert "copied, but not ready for a pull request" in out
    code, _, err = harness("results", "check-submission", "nowhere")
    assert (code, err.count("\n")) == (2, 1)


# --- planted faults ---------------------------------------------------------------------------------


def change_figure(folder: Path) -> None:
    rewrite(folder / "records.jsonl", lambda r: r["accuracy"].update(top1=99.9), sealed=False)


def change_sample(folder: Path) -> None:
    (sample, *_) = (folder / "samples").rglob("*.npz")
    sample.write_bytes(sample.read_bytes() + b"x")


def drop_sample(folder: Path) -> None:
    (sample, *_) = (folder / "samples").rglob("*.npz")
    sample.unlink()


def drop_records(folder: Path) -> None:
    first, *_ = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text(first)
    kept = lines(folder / "records.jsonl")[0]["samples"]["file"]
    for path in (folder / "samples").rglob("*.npz"):
        if not str(path).endswith(kept):
            path.unlink()


def repeat_record(folder: Path) -> None:
    text = (folder / "records.jsonl").read_text()
    (folder / "records.jsonl").write_text(text + text.splitlines(keepends=True)[0])


def add_sample(folder: Path) -> None:
    Results(folder).store_samples({"x": np.arange(3)})


def add_bomb(folder: Path) -> None:
    """8 MB of zeros in a few kB stands for gigabytes: the test's limit is 1 MB."""
    block = Results(folder).store_samples({"x": np.zeros(10**6)})
    first, *others = lines(folder / "records.jsonl")
    first["samples"] = block.model_dump()
    first["checksum"] = checksum(first)
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (first, *others)))


def escape(folder: Path) -> None:
    rewrite(
        folder / "records.jsonl", lambda r: r["samples"].update(file="../../../../etc/passwd"), sealed=True
    )


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("a figure edited by hand", change_figure, "checksum does not match"),
    ("a changed sample file", change_sample, "content does not match its name"),
    ("a missing sample file", drop_sample, "No such file"),
    ("cells of the plan without a record", drop_records, "3 of 4 cells of the plan have no record"),
    (
        "an accuracy that the predictions do not have, under a new checksum",
        lambda f: rewrite(f / "records.jsonl", lambda r: r["accuracy"].update(top1=99.9)),
        "cell m1cloud0: has top-1 99.9%, and its predictions 90%",
    ),
    (
        "a latency below 0",
        lambda f: rewrite(f / "records.jsonl", lambda r: r["latency"].update(p50_ms=-1)),
        "below 0",
    ),
    (
        "many lines",
        lambda f: (f / "records.jsonl").write_text("\n" * 50_001),
        "has 50,001 lines, at most 50,000",
    ),
    (
        "many runs",
        lambda f: (f / "runs.jsonl").write_text("1\n" * 50_001),
        "has 50,001 lines, at most 50,000",
    ),
    (
        "a folder too deep",
        lambda f: (f / "samples" / "ab" / "cd").mkdir(parents=True),
        "is a folder too deep",
    ),
    (
        "a line of 4 MB that could begin with an address",
        lambda f: (f / "suite.yaml").write_text("a" * (LIMITS.file - 3) + " /x"),
        "the path",
    ),
    ("a repeated attempt", repeat_record, "stands in line 1 already"),
    ("a sample file of no record", add_sample, "belongs to no record"),
    ("an archive that unpacks to more", add_bomb, "unpacks to 8,000,000 bytes, at most 1,000,000"),
    ("a sample path that leaves the folder", escape, "names no sample file of this folder"),
    ("no plan", lambda f: (f / "plan.json").unlink(), "has no plan.json"),
    ("a damaged plan", lambda f: (f / "plan.json").write_text("{}"), "not a plan"),
    ("no suite", lambda f: (f / "suite.yaml").unlink(), "has no suite.yaml"),
    ("no runs", lambda f: (f / "runs.jsonl").write_text(""), "says nothing about the run r1"),
    ("no line about a run", lambda f: (f / "runs.jsonl").write_text("[]\n"), "is not a line about a run"),
    ("a link", lambda f: (f / "x").symlink_to("/etc/passwd"), "is a link or no regular file"),
    ("a link to a folder", lambda f: (f / "samples" / "zz").symlink_to("/etc"), "is a link"),
    ("a pipe", lambda f: os.mkfifo(f / "pipe"), "is a link or no regular file"),
    ("a further file", lambda f: (f / "run.sh").touch(), "does not belong into results"),
    ("a lock", lambda f: (f / ".lock").touch(), "does not belong into results"),
    (
        "a file beside the suites",
        lambda f: (f.parent / "notes.md").touch(),
        "is not in a folder MACHINE/SUITE",
    ),
    (
        "a file beside the machines",
        lambda f: (f.parents[1] / "x").touch(),
        "is not in a folder MACHINE/SUITE",
    ),
    (
        "a name with control characters",
        lambda f: (f.parents[1] / "a\x1b[2J").mkdir() or (f.parents[1] / "a\x1b[2J" / "x").touch(),
        "\\x1b",
    ),
    (
        "a large file",
        lambda f: (f / "suite.yaml").write_bytes(b"#" * (LIMITS.file + 1)),
        "bytes, at most 4,194,304 are allowed",
    ),
    ("another suite's folder", lambda f: f.rename(f.parent / "smoke"), "is the folder of the suite 'edge'"),
    (
        "a failed cell",
        lambda f: rewrite(f / "records.jsonl", lambda r: r.update(status="failed")),
        "4 of 4 cells of the plan failed",
    ),
    (
        "a record without samples",
        lambda f: rewrite(f / "records.jsonl", lambda r: r.update(samples={})),
        "has no raw samples",
    ),
    (
        "a published figure as a record",
        lambda f: rewrite(f / "records.jsonl", lambda r: r.update(provenance="published")),
        "not measured",
    ),
    (
        "a method that is markup",
        lambda f: rewrite(f / "records.jsonl", lambda r: r.update(method="[x](http://y)")),
        "is no name of a method",
    ),
    (
        "a path in a record",
        lambda f: rewrite(f / "records.jsonl", lambda r: r.update(reason="see /home/ann/x")),
        "the path '/home/ann/x' is private",
    ),
    (
        "a name in a record",
        lambda f: rewrite(f / "records.jsonl", lambda r: r["device"].update(model="ann-laptop")),
        "'ann-laptop', the name of this machine",
    ),
    (
        "uncommitted changes",
        lambda f: (f / "runs.jsonl").write_text(
            (f / "runs.jsonl").read_text().replace('"dirty": false', '"dirty": true')
        ),
        "the harness had changes that are in no commit",
    ),
]


@pytest.mark.parametrize(
    ("plant", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_fault_of_a_submission_is_named(published, plant, words):
    plant(published / "board-a" / "edge")
    limits = dataclasses.replace(LIMITS, unpacked=10**6)
    problems = check_published(published, limits, names=["ann-laptop"])
    assert any(words in problem for problem in problems), problems
    assert all(problem.isprintable() for problem in problems)


def test_too_many_files_are_counted_and_not_read(published):
    limits = dataclasses.replace(LIMITS, files=5)
    (problem,) = check_published(published, limits)
    assert "more than 5 files" in problem
    limits = dataclasses.replace(LIMITS, suite_folder=1000)
    assert any(
        "bytes, at most 1,000 are allowed" in problem for problem in check_published(published, limits)
    )


def test_the_index_that_reading_leaves_is_no_problem(published):
    (published / "board-a" / "edge" / ".index").mkdir()
    (published / "board-a" / "edge" / ".index" / "x").symlink_to("/etc/passwd")
    assert check_published(published) == []


def test_one_machine_has_one_folder_and_one_cell_one_place(published, tmp_path):
    publish(make(tmp_path / "smoke", suite="smoke", run_id="r2"), "board-a", published)
    publish(make(tmp_path / "other", machine_id="m2"), "board-b", published)
    assert check_published(published) == []
    shutil.copytree(published / "board-a", published / "copy")
    problems = check_published(published)
    assert any("stands in board-a/edge already" in problem for problem in problems)
    assert any("its machine is that of the folder board-a" in problem for problem in problems)
    shutil.rmtree(published / "copy")
    publish(make(tmp_path / "third", machine_id="m3", run_id="r3", suite="third"), "board-a", published)
    assert any("board-a has records of 2 machines" in problem for problem in check_published(published))


# --- changes of what was published ------------------------------------------------------------------


def test_a_submission_adds_its_own_machine(published, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(published, base)
    assert check_changes(base, published) == []
    publish(make(tmp_path / "other", machine_id="m2"), "board-b", published)
    assert check_changes(base, published) == []
    assert check_changes(tmp_path / "nothing-yet", published) == [
        f"{published}: changes the folders of several machines: board-a, board-b"
    ]


def test_a_submission_changes_no_other_machine_and_no_published_record(published, tmp_path):
    publish(make(tmp_path / "other", machine_id="m2"), "board-b", published)
    base = tmp_path / "base"
    shutil.copytree(published, base)
    records = published / "board-a" / "edge" / "records.jsonl"
    rewrite(records, lambda r: r["latency"].update(p50_ms=0.5))
    assert check_published(published) == [], "a new checksum hides the change"
    problems = check_changes(base, published)
    assert len(problems) == 4
    assert "attempt 1 of cell m1cloud0 is not the published one" in problems[0]
    (published / "board-b" / "edge" / "suite.yaml").write_text("suite: edge\n")
    assert "changes the folders of several machines: board-a, board-b" in check_changes(base, published)[0]
    shutil.rmtree(published / "board-b")
    assert "changes the folders of several machines" in check_changes(base, published)[0]


def test_a_submission_deletes_no_published_suite(published, tmp_path):
    base = tmp_path / "base"
    publish(make(tmp_path / "other", machine_id="m2"), "board-b", published)
    shutil.copytree(published, base)
    shutil.rmtree(published / "board-b" / "edge")
    (problem,) = check_changes(base, published)
    assert "board-b/edge is published and is not there" in problem


def test_a_folder_keeps_its_machine_and_may_be_measured_again(published, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(published, base)
    publish(make(tmp_path / "again", run_id="r9"), "board-a", published)
    assert check_changes(base, published) == []
    publish(make(tmp_path / "else", machine_id="m2"), "board-a", published)
    assert check_published(published) == []
    (problem,) = check_changes(base, published)
    assert "is the folder of another machine; choose another name" in problem


# --- privacy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/home/ann/digits", "the path '/home/ann/digits'"),
        ("cannot read /data", "the path '/data'"),
        ("path: ~/digits", "the path '~/digits'"),
        ("path: ~ann/digits", "the path '~ann/digits'"),
        ("--out=/srv/x", "the path '/srv/x'"),
        ("file:///srv/x", "the path 'file:///srv/x'"),
        ("PATH:/srv/x", "the path '/srv/x'"),
        ("C:/Users/ann", "the path '/Users/ann'"),
        ("C:\\Users\\ann", "the path 'C:"),
        ("ann@example.org", "the address 'ann@example.org'"),
        ("host: 10.1.2.3", "the address 10.1.2.3"),
        ("measured on Ann-Laptop", "'ann-laptop', the name of this machine"),
    ],
)
def test_private_texts(text, words):
    assert str(private(text, ["ann-laptop"])).startswith(words)


@pytest.mark.parametrize(
    "text",
    [
        "images/s",
        "papers/on-digits",
        "data/cifar10",
        "uoft-cs/cifar10",
        "https://example.org/a/b",
        "no I2C bus here (/dev/i2c-*)",
        "/sys/class/powercap",
        "Intel(R) Xeon(R) CPU @ 2.50GHz",
        "550.54.15",
        "1.2.3.999",
        "a / b",
        "samples/ab/cd.npz",
        "channels",
    ],
)
def test_texts_that_are_not_private(text):
    assert private(text, ["ann"]) is None


def test_the_texts_of_a_value_and_a_command_without_paths():
    assert sorted(texts({"a": ["b", {"c": 1}], "d": None})) == ["a", "b", "c", "d"]
    command = "harness run edge --out /tmp/x/edge --set data.path=/srv/data/cifar10/ --only 'a-*'"
    assert without_paths("csv: /dev/ttyUSB0, /sys/x") == "csv: /dev/ttyUSB0, /sys/x"
    assert without_paths(command) == ("harness run edge --out edge --set data.path=cifar10 --only 'a-*'")


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_is_up_to_date_and_the_published_results_pass_their_check(page):
    root = ROOT / "results" / "published"
    if not (ROOT / ".git").exists():
        pytest.skip("a source distribution has the page without its records")
    assert (ROOT / "results" / "README.md").read_text() == page.page(root), "run: make published"
    if root.exists():
        assert check_published(root) == []


def test_the_page_has_the_machine_the_origin_and_the_board(page, published, tmp_path):
    publish(make(tmp_path / "other", machine_id="m2", suite="smoke"), "board-b", published)
    text = page.page(published)
    assert re.findall(r"^#+ (.*)", text, re.MULTILINE) == [
        "Results",
        "board-a",
        "edge",
        "digits test · single-stream · a board · measured",
        "board-b",
        "smoke",
        "digits test · single-stream · a board · measured",
    ]
    assert (
        "a board, 4 logical cores, 4 GiB memory. Linux, 6, Python 3.12, edge-harness 0.1.0, torch 2." in text
    )
    assert (
        "4 cells with the seeds 0, 1, measured 2026-01-02 with edge-harness 0.1.0 at commit 0123456789ab: "
        "`harness run edge --out edge`"
    ) in text
    assert re.search(r"\| +1 \| cloud +\| +90\.50", text)
    assert page.page(tmp_path / "nothing").endswith(page.NOTHING + "\n")
    assert max(map(len, [line for line in text.splitlines() if line.startswith("|")])) < 160


def test_texts_of_a_record_are_no_markup_on_the_page(page, tmp_path):
    environment = {"cpu": "a <b>[x](http://y)</b> `c`\n# Title", "cores_logical": 4, "memory_bytes": 2**32}
    local = make(tmp_path / "local", environment=environment)
    run = json.loads((local / "runs.jsonl").read_text())
    (local / "runs.jsonl").write_text(json.dumps({**run, "command": "harness run `x`"}) + "\n")
    publish(local, "board-a", tmp_path / "published")
    text = page.page(tmp_path / "published")
    assert "a \\<b\\>\\[x\\](http://y)\\</b\\> \\`c\\` \\# Title, 4 logical cores" in text
    assert "`harness run 'x'`" in text


def test_git_keeps_published_results_and_no_local_ones():
    """Skipped outside a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")

    def ignored(path: str) -> bool:
        return not subprocess.run(
            ["git", "-C", str(ROOT), "check-ignore", "-q", path], check=False
        ).returncode

    assert ignored("results/local/edge/records.jsonl")
    assert not ignored("results/published/board-a/edge/records.jsonl")
    assert not ignored("results/published/board-a/edge/samples/ab/x.npz")
    assert ignored("results/published/board-a/edge/.index/x")


# --- the workflow -----------------------------------------------------------------------------------


def test_the_workflow_checks_with_the_code_of_the_target_branch():
    text = (ROOT / ".github" / "workflows" / "results.yml").read_text()
    tree, _ = parse_yaml(text, "results.yml")
    assert tree["permissions"] == {"contents": "read"}
    assert list(tree["on"]) == ["pull_request"], "a pull request of a fork must get no secrets"
    steps = tree["jobs"]["check"]["steps"]
    assert [step["with"].get("ref") for step in steps if "checkout" in step.get("uses", "")] == [
        "${{ github.event.pull_request.base.sha }}",
        None,
    ]
    scripts = [step["run"] for step in steps if "run" in step]
    assert not [script for script in scripts if "${{" in script], "no text of a pull request is in a script"
    assert not [
        script
        for script in scripts
        if re.search(r"(python|pip)\b.* (-e )?(\./)?submission/(?!results)", script)
    ]


def test_the_workflows_script_finds_files_outside_the_results(tmp_path):
    text = (ROOT / ".github" / "workflows" / "results.yml").read_text()
    tree, _ = parse_yaml(text, "results.yml")
    (script,) = [
        s["run"] for s in tree["jobs"]["check"]["steps"] if "git -C submission diff" in s.get("run", "")
    ]
    submission = tmp_path / "submission"

    def git(*words: str) -> None:
        own = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(submission), *own, *words], check=True, capture_output=True)

    def changed(path: str) -> int:
        (submission / path).parent.mkdir(parents=True, exist_ok=True)
        (submission / path).write_text("x")
        git("add", "-A")
        git("commit", "-qm", path)
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, check=False
        ).returncode

    submission.mkdir()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert changed("results/published/a/edge/records.jsonl") == 0
    assert changed("results/README.md") == 0
    assert changed("results/published/a/edge/.index/x") == 1
    (submission / "results/published/a/edge/.index/x").unlink()
    assert changed("results/published/a/edge/plan.json") == 0
    assert changed("harness/results/sharing/check.py") == 1
    assert changed("results/other.py") == 1

"""A results folder says how it was made, and its suite reruns it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import StorageError
from harness.run.made_by import MadeBy, ProjectState, keep_origin, project_state
from harness.suite.loading import load_suite, suite_text
from harness.suite.shipped import shipped_suites
from harness.suite.yamlfile import dump_yaml, parse_yaml

STATE = ProjectState(version="1", commit="abc", dirty=False)


def runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_a_folder_has_the_last_suite_every_earlier_one_and_a_line_for_each_run(tmp_path: Path) -> None:
    first, second = MadeBy("suite: a\n", "harness run a.yaml"), MadeBy("suite: b\n", "harness run b.yaml -q")
    keep_origin(tmp_path, "r1", first, STATE)
    keep_origin(tmp_path, "r1", first, STATE)
    assert sorted(os.listdir(tmp_path)) == ["runs.jsonl", "suite.yaml"]
    keep_origin(tmp_path, "r2", second, replace(STATE, dirty=True))
    assert (tmp_path / "suite.yaml").read_text() == "suite: b\n"
    (earlier,) = tmp_path.glob("suite-*.yaml")
    assert earlier.read_text() == "suite: a\n"
    lines = runs(tmp_path)
    assert lines[0]["harness"] == {"version": "1", "commit": "abc", "dirty": False}
    assert [line["run_id"] for line in lines] == ["r1", "r1", "r2"]
    assert lines[0]["suite_sha256"].startswith(earlier.stem.removeprefix("suite-"))
    assert (lines[2]["command"], lines[2]["harness"]["dirty"]) == ("harness run b.yaml -q", True)


def test_a_suite_that_no_run_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("# my own\nsuite: a\n")
    keep_origin(tmp_path, "r", MadeBy("suite: a\n", "harness run suite.yaml --out ."), STATE)
    assert (tmp_path / "suite.yaml").read_text() == "# my own\nsuite: a\n"
    (kept,) = tmp_path.glob("suite-*.yaml")
    assert kept.read_text() == "suite: a\n"
    assert runs(tmp_path)[0]["suite_file"] == kept.name
    made_by = MadeBy("# my own\nsuite: a\n", "harness run suite.yaml --out .")
    keep_origin(tmp_path, "r", made_by, STATE)  # its own text does not make it a run's
    keep_origin(tmp_path, "r", MadeBy("suite: b\n", "harness run suite.yaml --set suite=b --out ."), STATE)
    assert (tmp_path / "suite.yaml").read_text() == made_by.suite


def test_an_odd_folder_is_one_line_or_is_mended(tmp_path: Path) -> None:
    made_by = MadeBy("suite: a\n", "harness run \udcff")
    os.mkfifo(tmp_path / "suite.yaml")
    keep_origin(tmp_path, "r", made_by, STATE)
    assert (tmp_path / "suite.yaml").read_text() == "suite: a\n"
    (tmp_path / "suite.yaml").unlink()
    (tmp_path / "suite.yaml").mkdir()
    with pytest.raises(StorageError, match=r"suite\.yaml"):
        keep_origin(tmp_path, "r", made_by, STATE)


def test_the_commit_and_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x")
    no_git = project_state(tmp_path)
    assert (no_git.commit, no_git.dirty) == (None, None)
    assert "no .git" in no_git.why
    subprocess.run([*git, "init", "-q"], check=True)
    assert "git rev-parse" in project_state(tmp_path).why
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    (tmp_path / "untracked").touch()
    clean = project_state(tmp_path)
    assert len(clean.commit or "") == 40
    assert clean.dirty is False
    (tmp_path / "a").write_text("2")
    assert project_state(tmp_path) == replace(clean, dirty=True)


def test_the_commit_is_that_of_the_harness_in_a_hook_of_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {}
    for name in ("harness", "other"):
        git = ("git", "-C", str(tmp_path / name), "-c", "user.name=n", "-c", "user.email=e@x")
        (tmp_path / name).mkdir()
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", name], check=True)
        commits[name] = project_state(tmp_path / name).commit
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert commits["harness"] != commits["other"]
    assert project_state(tmp_path / "harness").commit == commits["harness"]


@pytest.mark.parametrize("name", shipped_suites())
def test_the_text_of_a_suite_loads_as_the_suite_with_its_overrides(name: str, tmp_path: Path) -> None:
    path = shipped_suites()[name]
    method = next(iter(load_suite(path).methods))
    for overrides in ((), ("seeds=[7]", "measure.min_time=2s"), (f"methods.{method}.threads=2",)):
        (tmp_path / "suite.yaml").write_text(suite_text(path, overrides))
        again = load_suite(tmp_path / "suite.yaml")
        assert again.model_dump() == load_suite(path, overrides).model_dump()
    assert suite_text(path) == path.read_text()


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["1e3", "on", "yes", "0x1", "~", "1s", "null", ".inf", "2024-01-01", "a: b", "- a"])
)
TREES = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5),
    st.recursive(
        PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner), max_leaves=6
    ),
    max_size=4,
)


@example({"0": "\x85", "1": "a\u2028b", "2": "\x1b[31m", "3": "\ufeff"})
@given(TREES)
def test_a_dumped_tree_reads_back_as_it_was(tree: dict[str, Any]) -> None:
    again, _ = parse_yaml(dump_yaml(tree), "dumped")
    assert again == tree

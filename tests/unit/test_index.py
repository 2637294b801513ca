"""Tests of the index of a results folder: it changes no figure, whatever happens to it or to what it was made from."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.render import FORMATS, render
from harness.results.answers import SeedAnswers
from harness.results.folder import Results
from harness.results.index import FOLDER, LEAST, MOST_FILES, Index
from harness.results.indexed import Shown, leaderboard_in
from harness.results.kept_answers import KeptAnswers
from harness.store.user_key import KEY, keyed_hash, user_key
from harness.types.record import Record

OLD = Path(__file__).parents[1] / "data" / "records_0_1_0"
NOW = -3600.0
"""Seconds for which files must not have changed: with this value new files count as settled."""

EVIL: dict[str, Any] = {
    "run_id": "r",
    "machine_id": "m",
    "suite": "s",
    "method": "evil",
    "method_key": "evil",
    "cell_id": "evil",
    "attempt": 1,
    "status": "ok",
    "seed": 0,
}
SIGNAL = {"flag": "contended", "name": "waiting_share", "limit": 0.05, "figures": ["p50", "mean"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = Results(tmp_path / "out", create=True)
    for method in ("one", "two"):
        for seed in range(3):
            add(results, method, seed)
    return results.folder


def add(results: Results, method: str, seed: int, **more: Any) -> Record:
    random = np.random.default_rng([ord(method[0]), seed])
    labels = np.arange(64) % 4
    right = random.random(64) < (0.9 if method == "one" else 0.5)
    values: dict[str, Any] = {
        "run_id": "r",
        "machine_id": "m",
        "suite": "s",
        "method": method,
        "method_key": method,
        "cell_id": f"{method}{seed}",
        "attempt": 1,
        "status": "ok",
        "seed": seed,
        "accuracy": {"top1": 100 * float(right.mean())},
        "latency": {"n": 9, "p50_ms": 1.0 + seed},
        "device": {"name": "here", "model": "Board", "nodes": 1},
        "signals": [{**SIGNAL, "value": 0.1 * seed, "over": seed > 0}],
        "baseline": "one",
        "samples": results.store_samples(
            {"predictions": np.where(right, labels, labels + 1), "labels": labels}
        ),
    }
    return results.append(Record(**{**values, **more}))


def shown(*folders: Path, least: int = 0, settled_s: float = NOW) -> Shown:
    return leaderboard_in(folders, current_only=True, least=least, settled_s=settled_s)


def fresh(*folders: Path) -> Shown:
    """Return the leaderboard without the index, which stays as it is."""
    place, aside = folders[0] / FOLDER, folders[0] / "aside"
    there = place.is_dir()
    if there:
        place.rename(aside)
    result = shown(*folders, least=10**9)
    if there:
        aside.rename(place)
    return result


def board_file(folder: Path) -> Path:
    (file,) = (folder / FOLDER).glob("board-*.json")
    return file


def marked(folder: Path) -> None:
    """Change the kept result so that its use can be seen."""
    name = board_file(folder).name
    index = Index(folder)
    index.write(name, {**index.read(name), "left_out": 77})


def test_a_kept_result_is_used_while_nothing_changes_and_is_equal(folder: Path) -> None:
    first = shown(folder)
    assert first.records == 6
    assert shown(folder) == first == fresh(folder)
    marked(folder)
    assert shown(folder).left_out == 77
    assert fresh(folder) == first
    (table,) = first.leaderboard.tables
    assert any(row is table.reference for row in table.rows)
    assert any(row.disturbances for row in table.rows)


def test_another_question_has_another_kept_result(folder: Path) -> None:
    first = shown(folder)
    marked(folder)
    for more in ({"within": ["runtime", "flags"]}, {"rank_by": "latency_p50_ms"}, {"current_only": False}):
        options: dict[str, Any] = {"current_only": True, "least": 0, "settled_s": NOW, **more}
        other = leaderboard_in([folder], **options)
        assert other.left_out == 0
        assert leaderboard_in([folder], **options) == other
        assert (other.leaderboard != first.leaderboard) == ("current_only" not in more)


@pytest.mark.parametrize("format", FORMATS)
def test_a_kept_leaderboard_prints_the_same_bytes(tmp_path: Path, format: str) -> None:
    copy = tmp_path / "old"
    shutil.copytree(OLD, copy)
    first = shown(copy)
    marked(copy)
    second = shown(copy)
    assert second.left_out == 77
    assert second.leaderboard == first.leaderboard
    assert render(second.leaderboard, format, width=200) == render(first.leaderboard, format, width=200)


# --- the index itself -----------------------------------------------------------------------------


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def flipped(place: int) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(bytes(content))

    return damage


class Hostile:
    def __reduce__(self) -> Any:
        return os._exit, (3,)


def planted(key: bytes) -> Callable[[Path], object]:
    """Write false figures as another user's harness does."""

    def damage(path: Path) -> None:
        index = Index(path.parents[1])
        value = {**(index.read(path.name) or {}), "left_out": 66}
        Index(path.parents[1], key).write(path.name, value)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "a bit of the hash": flipped(3),
    "a bit of the content": flipped(200),
    "the last bit": flipped(-1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("not an index"),
    "JSON without its hash": lambda path: path.write_bytes(path.read_bytes()[64:]),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "a pickle after a hash": lambda path: path.write_bytes(path.read_bytes()[:64] + pickle.dumps(Hostile())),
    "of another user": planted(bytes(32)),
    "another file of the index": lambda path: shutil.copy(path.with_name("answers.json"), path),
    "2 GiB": lambda path: os.truncate(path, 2**31),
    "a pipe": replaced(os.mkfifo),
    "a folder": replaced(Path.mkdir),
    "a link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
    "a link to a device": replaced(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("file", ["board", "answers"])
def test_a_damaged_or_hostile_index_is_made_again(folder: Path, name: str, file: str) -> None:
    first = shown(folder)
    board, answers = board_file(folder), folder / FOLDER / "answers.json"
    if name == "another file of the index" and file == "answers":
        shutil.copy(board, answers)
    else:
        DAMAGES[name](board if file == "board" else answers)
    if file == "answers":
        board.unlink()  # else nobody needs the answers
    assert shown(folder) == first
    assert shown(folder) == first
    if name != "a folder":
        marked(folder)
        assert shown(folder).left_out == 77


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")]
)
def test_a_folder_that_cannot_have_an_index_is_read_without_one(folder: Path, make: Any) -> None:
    make(folder / FOLDER)
    assert shown(folder) == fresh(folder)
    assert not (folder / FOLDER).is_dir()


def test_an_index_that_is_a_link_changes_no_file_elsewhere(folder: Path, tmp_path: Path) -> None:
    """A folder from someone else can have such a link, which git checks out too."""
    elsewhere = tmp_path / "documents"
    elsewhere.mkdir()
    for number in range(2 * MOST_FILES):
        (elsewhere / f"board-{number}.json").write_text("mine")
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    (folder / FOLDER).symlink_to(elsewhere)
    assert shown(folder).records == 6
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_an_index_that_a_full_disk_left_empty_stays_out_of_git(folder: Path) -> None:
    (folder / FOLDER).mkdir()
    assert shown(folder) == fresh(folder)
    assert (folder / FOLDER / ".gitignore").read_text() == "*\n"


def test_an_index_deletes_only_tables(folder: Path) -> None:
    index = Index(folder)
    index.write("answers.json", 0)
    for number in range(2 * MOST_FILES):
        (folder / FOLDER / f"note-{number}.txt").write_text("mine")
        index.write(f"board-{number}.json", number)
    assert len(list((folder / FOLDER).glob("note-*"))) == 2 * MOST_FILES
    assert len(list((folder / FOLDER).glob("board-*.json"))) == MOST_FILES
    assert index.read("answers.json") == 0


def test_a_read_only_folder_is_read(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        assert shown(folder) == fresh(folder)
    finally:
        folder.chmod(0o755)


def test_without_a_key_there_is_no_index(folder: Path, cache: Path) -> None:
    cache.write_text("not a folder")
    assert user_key() is None
    assert shown(folder) == fresh(folder)
    assert not (folder / FOLDER).exists()


def test_few_records_have_no_index(folder: Path) -> None:
    assert LEAST > 6
    leaderboard_in([folder], current_only=True)
    assert not (folder / FOLDER).exists()


def test_an_index_stays_out_of_git_and_small(folder: Path) -> None:
    index = Index(folder)
    for number in range(2 * MOST_FILES):
        index.write(f"board-{number}.json", number)
    assert (folder / FOLDER / ".gitignore").read_text() == "*\n"
    assert len(list((folder / FOLDER).glob("board-*"))) == MOST_FILES


def test_many_that_read_at_once_do_not_damage_the_index(folder: Path) -> None:
    first = fresh(folder)
    with ThreadPoolExecutor(8) as pool:
        assert all(each == first for each in pool.map(lambda _: shown(folder), range(16)))
    assert {file.name for file in (folder / FOLDER).iterdir()} == {
        ".gitignore",
        "answers.json",
        board_file(folder).name,
    }
    assert Index(folder).read(board_file(folder).name) is not None


def test_the_key_of_a_user_is_secret_and_stays(cache: Path) -> None:
    key = user_key()
    assert key is not None
    assert user_key() == key
    assert (cache / KEY).stat().st_mode & 0o777 == 0o600
    assert keyed_hash(key, b"ab", b"c") != keyed_hash(key, b"a", b"bc")
    (cache / KEY).write_bytes(b"short")
    assert user_key() is None


# --- what it was made from ------------------------------------------------------------------------


def sample_file(folder: Path, place: int = 0) -> Path:
    return folder / str(Results(folder).records()[place].samples.file)


def other_bytes_of_the_same_size(folder: Path) -> None:
    path = sample_file(folder)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def changed_line(folder: Path) -> None:
    path = folder / "records.jsonl"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"seed":1', b'"seed":7', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a further record": lambda folder: add(Results(folder), "new", 0),
    "a further attempt": lambda folder: add(Results(folder), "one", 0, attempt=2, accuracy={"top1": 1.0}),
    "a torn line": lambda folder: os.truncate(folder / "records.jsonl", 3000),
    "a changed line": changed_line,
    "records moved aside": lambda folder: Results(folder).archive("r", lambda record: record.method == "two"),
    "a plan": lambda folder: (folder / "plan.json").write_text(
        json.dumps({"run_id": "r", "cells": ["one0"]})
    ),
    "a missing sample file": lambda folder: sample_file(folder).unlink(),
    "other bytes in a sample file": other_bytes_of_the_same_size,
    "a sample file that is a folder": lambda folder: replaced(Path.mkdir)(sample_file(folder)),
    "all samples missing": lambda folder: shutil.rmtree(folder / "samples"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_the_index_was_made_from_is_noticed(folder: Path, name: str) -> None:
    before = shown(folder)
    marked(folder)
    time.sleep(0.05)  # the clock of a file system is coarse
    CHANGES[name](folder)
    after = shown(folder)
    assert after == fresh(folder)
    assert after.left_out != 77
    assert after != before
    assert shown(folder) == after


def test_a_change_of_a_further_folder_is_noticed(folder: Path, tmp_path: Path) -> None:
    other = Results(tmp_path / "other", create=True)
    add(other, "two", 5)
    first = shown(folder, other.folder)
    assert shown(folder, other.folder) == first
    assert not (other.folder / FOLDER / board_file(folder).name).exists()
    add(other, "two", 6)
    second = shown(folder, other.folder)
    assert second == fresh(folder, other.folder)
    assert second.records == first.records + 1


def test_nothing_is_kept_of_files_that_have_just_changed(folder: Path) -> None:
    shown(folder, settled_s=3600.0)
    assert list((folder / FOLDER).glob("board-*")) == []
    answers = Index(folder).read("answers.json")
    assert not answers


def test_only_the_answers_of_new_files_are_read(folder: Path) -> None:
    shown(folder)
    written = add(Results(folder), "new", 0)
    path = folder / str(written.samples.file)
    kept = KeptAnswers(Index(folder), NOW)

    def read_again() -> SeedAnswers | None:
        raise AssertionError("a file is read again")

    for record in Results(folder).records()[:6]:
        file = folder / str(record.samples.file)
        answers = kept.get_or_read(str(record.samples.sha256), str(file), read_again)
        assert answers == Results(folder).samples.answers(record)
    new = SeedAnswers(b"", 0, b"")
    assert kept.get_or_read(str(written.samples.sha256), str(path), lambda: new) is new


def test_a_record_that_names_a_file_elsewhere_has_no_part_in_the_index(folder: Path) -> None:
    Results(folder).append(Record(**{**EVIL, "samples": {"file": "samples/../x.npz", "sha256": "../../x"}}))
    first = shown(folder)
    (problem,) = first.problems
    assert "names no sample file of this folder" in problem
    assert shown(folder) == first
    assert all(
        "x" not in name for names in Index(folder).read(board_file(folder).name)["samples"] for name in names
    )


@pytest.mark.parametrize("cores", [1, 2])
def test_a_second_process_changes_nothing(folder: Path, cores: int) -> None:
    results = Results(folder)
    damaged, missing, _ = [add(results, "more", seed) for seed in range(3)]
    (folder / str(damaged.samples.file)).write_bytes(b"x")
    (folder / str(missing.samples.file)).unlink()
    with (folder / "records.jsonl").open("ab") as file:
        file.write(b"no record\n")
    alone = shown(folder, least=10**9)
    assert len(alone.problems) == 3
    assert alone.records == 8
    shared = leaderboard_in(
        [folder], current_only=True, least=10**9, settled_s=NOW, share_from=0, cores=cores
    )
    assert shared == alone
    for format in FORMATS:
        assert render(shared.leaderboard, format) == render(alone.leaderboard, format)

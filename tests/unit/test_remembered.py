"""Results of reading files, remembered while no file changes: other bytes are never taken for the old ones."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.store.artifacts import Store
from harness.store.hashing import files_hash
from harness.store.remembered import FOLDER, remembered
from harness.types.json import JsonObject


class Reader:
    """Reads a file, and counts how often. It remembers of files that were written just now."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path, self.cache, self.times = path, cache, 0

    def read(self) -> JsonObject:
        self.times += 1
        return {"text": self.path.read_text()}

    def __call__(self, about: object = "x", settled_s: float = 0.0) -> JsonObject:
        return remembered([self.path], about, self.read, cache=self.cache, settled_s=settled_s)

    def kept(self) -> list[Path]:
        return sorted((self.cache / FOLDER).glob("*")) if self.cache.is_dir() else []


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "file").write_text("old")
    return Reader(tmp_path / "file", tmp_path / "cache")


def forget(reader: Reader) -> Reader:
    """A reader of the same file in a cache that this process has not used: what is kept is on disk alone."""
    moved = reader.cache.rename(reader.cache.with_name("moved"))
    return Reader(reader.path, moved)


def test_what_was_read_is_not_read_again(reader: Reader) -> None:
    assert reader() == reader() == {"text": "old"}
    assert (reader.times, len(reader.kept())) == (1, 1)
    assert reader("another question") == {"text": "old"}
    assert reader.times == 2
    other_process = forget(reader)
    assert other_process() == {"text": "old"}
    assert other_process.times == 0


def test_other_bytes_of_the_same_size_and_time_are_read(reader: Reader) -> None:
    state = reader.path.stat()
    reader()
    wait_for_the_clock(reader.path)
    reader.path.write_text("new")
    os.utime(reader.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (reader.path.stat().st_size, reader.path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert reader() == {"text": "new"}


def test_another_file_of_the_same_size_and_time_is_read(reader: Reader) -> None:
    state = reader.path.stat()
    reader()
    other = reader.path.with_name("other")
    other.write_text("new")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    os.replace(other, reader.path)
    assert reader() == {"text": "new"}


def test_nothing_is_remembered_of_files_that_changed_just_now(reader: Reader) -> None:
    assert reader(settled_s=60) == reader(settled_s=60) == {"text": "old"}
    assert (reader.times, reader.kept()) == (2, [])


def test_nothing_is_remembered_of_files_that_change_meanwhile(reader: Reader) -> None:
    def change() -> JsonObject:
        value = reader.read()
        wait_for_the_clock(reader.path)
        reader.path.write_text("new")
        return value

    assert remembered([reader.path], "x", change, cache=reader.cache, settled_s=0.0) == {"text": "old"}
    assert reader() == {"text": "new"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("old", "odd"),
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: json.dumps({"value": 3, "digest": "x"}),
    ],
)
def test_a_damaged_result_is_made_again(reader: Reader, damage: Callable[[str], str]) -> None:
    reader()
    other_process = forget(reader)
    (file,) = other_process.kept()
    file.write_text(damage(file.read_text()))
    assert other_process() == {"text": "old"}
    assert other_process.times == 1


def test_a_pipe_in_the_place_of_a_result_is_replaced(reader: Reader) -> None:
    reader()
    other_process = forget(reader)
    (file,) = other_process.kept()
    file.unlink()
    os.mkfifo(file)
    assert other_process() == {"text": "old"}
    assert file.is_file()


def test_without_a_cache_that_can_be_written_one_process_remembers(reader: Reader) -> None:
    reader.cache.write_text("a file, not a folder")
    assert reader() == reader() == {"text": "old"}
    assert reader.times == 1


def test_clearing_the_cache_forgets(reader: Reader) -> None:
    reader()
    Store(reader.cache).clear()
    assert reader.kept() == []


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remembered([tmp_path / "gone"], "x", dict, cache=tmp_path)


def test_the_hash_of_a_file_follows_its_bytes_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    state = path.stat()
    before = files_hash([path])
    wait_for_the_clock(path)
    os.utime(path, (1, 1))
    assert files_hash([path]) == before
    path.write_text("new")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert files_hash([path]) != before


def wait_for_the_clock(path: Path) -> None:
    """Wait until the file system's clock has moved on from the last change of ``path``; 2 s at most."""
    probe, changed = path.with_name("probe"), path.stat().st_ctime_ns
    for _ in range(400):
        probe.write_text("x")
        if probe.stat().st_ctime_ns > changed:
            return
        time.sleep(0.005)
    raise AssertionError("the clock of the file system stands still")

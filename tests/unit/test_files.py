"""Tests of writing in one step, and of the first line of an error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harness.errors import first_line, last_line
from harness.store.files import append_line, write_atomically


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_by_its_new_content(tmp_path, sync):
    path = tmp_path / "file"
    write_atomically(path, "first ü", sync=sync)
    write_atomically(path, memoryview(b"second"), sync=sync)
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_writers_that_keep_what_is_there_the_first_wins(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "first", keep=True)
    write_atomically(path, "second", keep=True)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_asked_for_or_of_any_new_file(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    write_atomically(tmp_path / "secret", b"x", 0o600)
    write_atomically(tmp_path / "shared", b"x", 0o664)
    write_atomically(tmp_path / "default", b"x")
    modes = [mode_of(tmp_path / name) for name in ("secret", "shared", "default")]
    assert modes == [0o600, 0o664, mode_of(plain)]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new", sync=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("mine"), lambda path: path.symlink_to("/dev/null")],
)
def test_a_line_is_appended_to_regular_files_only(tmp_path, make):
    (tmp_path / "mine").write_text("keep\n")
    make(tmp_path / "runs.jsonl")
    with pytest.raises(OSError, match=r"runs\.jsonl"):
        append_line(tmp_path / "runs.jsonl", b"line")
    assert (tmp_path / "mine").read_text() == "keep\n"


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "no folder" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, "new")
    assert caught.value.filename == str(path)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "plain", "with_kind"),
    [
        (ValueError("one\ntwo"), "one", "ValueError: one"),
        (ValueError("\n  one"), "one", "ValueError: one"),
        (ValueError(), "ValueError", "ValueError"),
        (Mute(), "Mute", "Mute"),
        (ValueError("a\udcff"), "a\\udcff", "ValueError: a\\udcff"),
    ],
)
def test_first_line_of_an_error(error, plain, with_kind):
    assert (first_line(error), first_line(error, kind=True)) == (plain, with_kind)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "exit code 3"),
        (" \n\n", "exit code 3"),
        ("first\n  second \n\n", "second"),
        ("bell \x07\n", "bell \\x07"),
        ("x" * 100_000, "x" * 1000 + " ... (100,000 characters)"),
    ],
)
def test_last_line_of_what_a_program_printed(text: str, line: str) -> None:
    assert last_line(text, "exit code 3") == line


def test_a_program_that_printed_nothing() -> None:
    assert last_line("") == "it said nothing"

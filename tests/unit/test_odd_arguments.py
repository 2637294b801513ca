"""Tests of each command with odd arguments: one line and exit code 2, or an answer; bounded time; nothing raw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from forked import Ended, forked
from harness.cli import cli

ODD = {
    "empty": "",
    "long": "x" * 100_000,
    "a name": "a" * 300,
    "bytes": os.fsdecode(b"a\xff\xfe"),
    "control characters": "a\x1b[2J\x07b\x9b",
    "lines": "a\nb",
    "a dash": "-",
    "the root": "/",
    "above": "../..",
    "no file": "/dev/null",
    "no end": "/dev/zero",
    "no such user": "~nobody-such/x",
    "markup": "[bold]{x}%s$y",
    "unicode": "é🐱\u202e",
    "a pipe": "pipe",
}
HOSTILE = {"long": ODD["long"], "all": os.fsdecode(b"a\xff") + "\x1b[2J\n[bold]{x}%s\u202e🐱", "empty": ""}
FILLED = {"suite": "smoke", "folders": "RECORDS", "folder": "RECORDS", "name": "nothing", "lab": "nano4"}
RECORDS = str(Path(__file__).parents[1] / "data" / "records_0_1_0")
NOT_HERE = {
    ("agent", "serve"),
    ("agent", "install-service"),
    ("lab", "up"),
    ("lab", "run"),
    ("devices", "setup"),
}
"""Commands that serve, or change the machine: their arguments are tested with their plugin."""


def commands(
    group: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(group, click.Group):
        yield words, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, (*words, name))


EVERY = [(words, command) for words, command in commands(cli) if words not in NOT_HERE]
ARGUMENTS = [words for words, command in EVERY if any(isinstance(p, click.Argument) for p in command.params)]
OPTIONS = [
    (
        words,
        [FILLED.get(str(p.name), "x") for p in command.params if isinstance(p, click.Argument)],
        p.opts[0],
    )
    for words, command in EVERY
    for p in command.params
    if isinstance(p, click.Option) and not p.is_flag and p.name != "help"
]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name, folder in (("CACHE", "cache"), ("DEVICES", "devices.yaml"), ("PROFILES", "profiles")):
        monkeypatch.setenv(f"HARNESS_{name}", str(tmp_path / folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def sound(ended: Ended) -> None:
    text = (ended.err + ended.out).decode()
    assert "Traceback" not in text
    assert "fault of the harness" not in text
    assert not any(character in text for character in "\x1b\x07\x9b\u202e")
    assert ended.code in (0, 1, 2), text
    if ended.code == 2:
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert len(text) < 12_000


@pytest.mark.parametrize("words", ARGUMENTS, ids=" ".join)
def test_an_odd_argument(words: tuple[str, ...]) -> None:
    for text in ODD.values():
        sound(forked([*words, text], seconds=30))


@pytest.mark.parametrize(("words", "arguments", "option"), OPTIONS)
def test_an_odd_option(words: tuple[str, ...], arguments: list[str], option: str) -> None:
    filled = [RECORDS if argument == "RECORDS" else argument for argument in arguments]
    for text in HOSTILE.values():
        if words == ("run",):  # of a suite that is not there, so that nothing is ever run
            filled = ["no-such-suite"]
        sound(forked([*words, *filled, option, text], seconds=30))


@pytest.mark.parametrize("word", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("group", ["", "devices", "lab", "cache", "--", "--x"])
def test_an_odd_command(group: str, word: str) -> None:
    ended = forked([*([group] if group not in ("", "--x") else []), f"--x{word}" if group == "--x" else word])
    sound(ended)
    assert ended.code == 2


def test_odd_names_in_json() -> None:
    """Names that come from files: whatever they are, JSON is valid."""
    folder = Path(os.fsdecode(b"a\xff\x1b[2J"))
    folder.mkdir()
    for name in ("records.jsonl", "plan.json", "runs.jsonl"):
        if (source := Path(RECORDS) / name).exists():
            (folder / name).write_bytes(source.read_bytes())
    for words in (
        ["results", "show", str(folder), "--json"],
        ["leaderboard", str(folder), "--format", "json"],
    ):
        ended = forked(words)
        assert ended.code == 0, ended.message
        json.loads(ended.out)
        assert "\x1b" not in ended.message

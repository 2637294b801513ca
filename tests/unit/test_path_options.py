"""Options and arguments that are paths: an empty one, as an unset shell variable gives, is refused everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harness.cli import cli, main
from harness.cli.common import PathType


def commands(
    group: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            inner = group.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))
    else:
        yield words, group


EVERY = [(words, option) for words, command in commands(cli) for option in command.params]
PATHS = [(words, option) for words, option in EVERY if isinstance(option.type, click.Path)]


def test_every_path_has_the_type_that_refuses_an_empty_one():
    assert len(PATHS) >= 12
    assert [(words, option.name) for words, option in PATHS if not isinstance(option.type, PathType)] == []
    named = {"out", "folder", "folders", "certificate", "token", "ready_file", "onnxruntime"}
    assert named <= {option.name for _, option in PATHS}
    assert {option.name for _, option in EVERY if option not in [path for _, path in PATHS]} & named == set()


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "config" / "devices.yaml"))

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert (caught.value.code, said.out) == (2, ""), said
        assert said.err.count("\n") == 1, said.err
        assert list(Path().iterdir()) == []
        return said.err

    return call


FILLED = {
    "run": ["smoke"],
    "claims": ["smoke"],
    "results show": [],
    "results publish root": ["nowhere", "board"],
    "results check-submission base": ["nowhere"],
    "devices add": ["pi", "--host", "h"],
    "devices setup": ["pi", "--ssh", "h"],
    "devices profile": ["cpu"],
    "lab run": ["nano4"],
}


@pytest.mark.parametrize(
    ("words", "option"), PATHS, ids=[f"{' '.join(words)} {o.name}" for words, o in PATHS]
)
def test_an_empty_path_is_one_line_and_writes_nothing(answer, words, option):
    given = [option.opts[0], ""] if isinstance(option, click.Option) else [""]
    command = " ".join(words)
    filled = FILLED.get(f"{command} {option.name}", FILLED.get(command, []))
    said = answer(*words, *filled, *given)
    assert "the path is empty (a shell variable that is not set?)" in said


@pytest.mark.parametrize("words", [["plan", ""], ["run", ""], ["suites", "show", ""]])
def test_an_empty_name_of_a_suite_is_one_line(answer, words):
    assert "no suite is named" in answer(*words)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "", ".", "..", "-x", "x" * 81, "a\nb", "ü"])
@pytest.mark.parametrize("command", ["setup", "add"])
def test_a_name_of_a_board_that_would_leave_its_folder_is_refused_first(answer, name, command):
    words = {"setup": ["--ssh", "nobody@127.0.0.1"], "add": ["--host", "127.0.0.1"]}[command]
    assert "a name is letters, digits, - and _, 80 at most" in answer("devices", command, *words, "--", name)

"""Tests of each command in odd surroundings: no traceback, the right exit code, bounded time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forked import Ended, forked
from harness.render.characters import STAND_INS, json_text, shown
from harness.render.console import columns

RECORDS = str(Path(__file__).parents[1] / "data" / "records_0_1_0")

PRINTING = [
    "--help",
    "--version",
    "plan tiny.yaml",
    "plan tiny.yaml --json",
    "plugins list",
    "plugins list --json",
    "plugins show timm",
    "plugins show edgevit --json",
    "suites list",
    "suites show smoke",
    "suites schema",
    "devices list",
    "devices list --json",
    "devices check",
    "lab status",
    "cache list",
    "cache list --json",
    "cache clear --yes",
    "leaderboard RECORDS",
    "leaderboard RECORDS --format github",
    "leaderboard RECORDS --format latex",
    "leaderboard RECORDS --format csv",
    "leaderboard RECORDS --format json",
    "results validate RECORDS",
    "results show RECORDS",
    "results show RECORDS --json",
    "results show RECORDS METHOD",
]
"""Commands that print something and change nothing of a user's."""


TINY = """\
suite: tiny
data: {name: digits, image_size: 16}
methods: {vit: {build: {vit: {patch_size: 8, dim: 8, depth: 1, heads: 1}}}}
devices: {here: {backend: cpu}}
run: [{methods: all, devices: [here]}]
"""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    for name, folder in (("CACHE", "cache"), ("DEVICES", "devices.yaml"), ("PROFILES", "profiles")):
        monkeypatch.setenv(f"HARNESS_{name}", str(tmp_path / folder))


def call(words: str, **surroundings: object) -> Ended:
    named = words.replace("RECORDS", RECORDS).replace("METHOD", "cloud").split()
    ended = forked(named, **surroundings)  # type: ignore[arg-type]
    assert b"Traceback" not in ended.err + ended.out, ended.message
    assert "fault of the harness" not in ended.message
    return ended


@pytest.mark.parametrize("words", PRINTING)
def test_a_command_in_ascii_a_full_disk_and_a_closed_output(words: str) -> None:
    plain = call(words, environment={"TERM": "dumb"})
    assert plain.code == 0, plain.message
    assert plain.out

    ascii_only = call(words, encoding="ascii")
    assert ascii_only.code == 0, ascii_only.message
    assert ascii_only.out.isascii()
    if "json" in words or "schema" in words:
        json.loads(ascii_only.out)

    full = call(words, stdout="/dev/full")
    assert full.code == 2
    assert full.message.splitlines()[-1] == "error: cannot write output: No space left on device"

    closed = call(words, closed=[1])
    assert (closed.code, closed.out) == (141, b"")
    assert "error" not in closed.message

    mute = call(words, closed=[0, 2])
    assert (mute.code, mute.out) == (0, plain.out)


def test_estimates_in_ascii() -> None:
    estimated = call("plan tiny.yaml --estimate", encoding="ascii")
    assert estimated.code == 0, estimated.message
    assert estimated.out.isascii()


@pytest.mark.parametrize(
    "redirected", [">&-", "> /dev/full", "2>&-", "> /dev/full 2> /dev/full", "<&- >&- 2>&-"]
)
def test_the_interpreter_ends_without_a_word_of_its_own(redirected: str) -> None:
    """Python flushes the streams once more when it exits."""
    command = f"{sys.executable} -m harness suites list {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    lines = ["error: cannot write output: No space left on device"] if redirected == "> /dev/full" else []
    assert done.stderr.splitlines() == lines
    code = {">&-": 141, "2>&-": 0, "<&- >&- 2>&-": 141}.get(redirected, 2)
    assert done.returncode == code


def test_no_file_of_a_command_gets_the_number_of_a_closed_stream() -> None:
    code = (
        "import os, sys\nfrom harness.cli.streams import standard_streams\n"
        "with standard_streams(): print(os.open('seen', os.O_WRONLY | os.O_CREAT), file=open('number', 'w'))\n"
    )
    subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code], timeout=60, check=True)
    assert int(Path("number").read_text()) > 2


def test_output_to_a_slow_pipe_that_does_not_block_is_whole() -> None:
    """A program on the other end, such as ssh, may have made the pipe non-blocking."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-m", "harness", "suites", "schema"]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        with open(reading, "rb") as file:
            text = file.read()
        assert process.wait(60) == 0
    assert len(text) > 65_536
    json.loads(text)


def test_our_characters_have_stand_ins_and_others_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    text = "a × b – 1 ±2 ✓ é 🐱\n"
    assert shown(text) == text
    assert shown(text, Ascii()) == "a x b - 1 +-2 + \\xe9 \\U0001f431\n"  # type: ignore[arg-type]
    assert all(stand_in.isascii() and stand_in.isprintable() for stand_in in STAND_INS.values())


def test_every_character_of_our_own_texts_has_a_stand_in() -> None:
    root = Path(__file__).parents[2]
    unknown = {}
    for path in [*root.glob("harness/**/*.py"), *root.glob("plugins/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
            if isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                characters = {c for c in node.value if c.isprintable() and not c.isascii()} - STAND_INS.keys()
                if characters:
                    unknown[f"{path.relative_to(root)}:{node.lineno}"] = characters
    assert unknown == {}


def test_control_characters_never_reach_the_terminal() -> None:
    text = "a\x1b[31mb\x07\r\x9b2J\x7f\u202ec\udcff"
    assert shown(text) == "a\\x1b[31mb\\x07\\x0d\\x9b2J\\x7f\\u202ec\\udcff"
    assert json.loads(json_text({"k": text})) == {"k": text}
    assert json_text({"k": text}).isascii()
    assert json.loads(json_text([float("nan"), float("-inf"), 1.5])) == [None, None, 1.5]


def test_columns_count_cells_of_the_terminal() -> None:
    lines = columns([["a", "b"], ["🐱", "x"], ["e\u0301", "y"], ["中文", "z\n\x1b[2J"]])
    assert lines == ["a     b", "🐱    x", "e\u0301     y", "中文  z \\x1b[2J"]

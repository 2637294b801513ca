"""Tests of the exit of the command line if a pipe breaks: its own output, or a pipe to one of its processes."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from harness.cli import main


def pipe() -> int:
    """Return the writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def sockets() -> int:
    """Return one end of a closed pair of sockets, which some programs use instead of pipes."""
    one, other = socket.socketpair()
    other.close()
    return one.detach()


@pytest.mark.parametrize("unread", [pipe, sockets])
@pytest.mark.parametrize("words", ["", "--help", "run --help", "suites schema", "plan smoke"])
def test_output_that_nobody_reads_ends_it_quietly(words: str, unread: Callable[[], int]) -> None:
    """`harness plan smoke | head -1` ends as any other program does, with exit code 128 + SIGPIPE."""
    command = [sys.executable, "-m", "harness", *words.split()]
    writer = unread()
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "words", ["--help", "suites schema", "plan smoke", "run no-such-suite", "--no-such-option"]
)
def test_a_closed_terminal_is_one_line(words: str, both: bool) -> None:
    ours, terminal = pty.openpty()
    command = [sys.executable, "-m", "harness", *words.split()]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal if both else subprocess.PIPE
    )
    os.close(terminal)
    os.close(ours)
    _, said = process.communicate(timeout=120)
    wrong = words in ("run no-such-suite", "--no-such-option")
    assert process.returncode == (2 if wrong else 141)
    if not both:
        assert said.count(b"\n") == 1
        assert said.startswith(b"error: " if wrong else b"error: the terminal is closed")


def test_a_pipe_of_our_own_that_breaks_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("harness.cli.suites.command", command)
    monkeypatch.setattr(sys, "argv", ["harness", "suites"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: a process of the harness went away: [Errno 32] Broken pipe\n"

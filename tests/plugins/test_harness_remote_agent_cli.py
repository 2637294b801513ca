"""Tests of the commands ``harness agent init``, ``serve`` and ``install-service``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from harness.cli import main
from harness.errors import DeviceError
from harness_remote.setup import service
from harness_remote.wire import secrets


@pytest.fixture
def agent(monkeypatch, capsys):
    """``harness agent`` in this process: (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "agent", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return call


def test_init_makes_what_serving_needs_and_keeps_it_without_a_flag(agent, tmp_path):
    code, out, _ = agent("init", "--folder", tmp_path, "--name", "pi1.local", "--days", 30)
    assert code == 0
    identity = secrets.load(tmp_path)
    assert f"fingerprint: {secrets.fingerprint(identity.certificate_pem)}" in out
    assert identity.token not in out
    code, _, message = agent("init", "--folder", tmp_path)
    assert (code, message.count("\n")) == (2, 1)
    assert secrets.load(tmp_path) == identity
    assert agent("init", "--folder", tmp_path, "--replace")[0] == 0
    assert secrets.load(tmp_path).token != identity.token


@pytest.mark.parametrize("verb", [["serve"], ["install-service", "--print"]])
def test_other_addresses_need_init_first(agent, tmp_path, verb):
    code, out, message = agent(*verb, "--host", "0.0.0.0", "--port", 0, "--folder", tmp_path)
    assert (code, out, message.count("\n")) == (2, "", 1)
    assert f"run `harness agent init --folder {tmp_path}` first" in message
    assert not list(tmp_path.iterdir())


def test_half_an_identity_is_never_served_without(agent, tmp_path):
    secrets.create(tmp_path)
    (tmp_path / secrets.TOKEN).unlink()
    code, _, message = agent("serve", "--port", 0, "--folder", tmp_path)
    assert code == 2
    assert "token is missing" in message


def test_serve_says_when_it_is_ready_and_ends_with_a_signal(tmp_path):
    """It reports by a line, by a file and to systemd. It listens at the address that it reports."""
    identity = secrets.create(tmp_path / "agent")
    (tmp_path / "ready").write_text("of an earlier agent")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "harness",
                "agent",
                "serve",
                "--port",
                "0",
                "--folder",
                tmp_path / "agent",
                "--ready-file",
                tmp_path / "ready",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert manager.recv(100) == b"READY=1"
            line = process.stdout.readline()
            ready = json.loads((tmp_path / "ready").read_text())
            assert ready["fingerprint"] == secrets.fingerprint(identity.certificate_pem)
            assert ready["pid"] == process.pid
            assert ready["fingerprint"] in line
            for address in (ready["address"], ready["frames"]):
                assert address in line
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), 10).close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


_SIGNAL_AT_EACH_LINE = """
import signal, sys, threading
from pathlib import Path
from harness_remote.agent.server import AgentSettings, serve

def trace(frame, event, _):
    global left
    if ready and event == "line":
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
    return trace if frame.f_code.co_name in ("serve", "wait") else None

def to_itself():  # the main thread is not interrupted, as by one that comes just before it begins to wait
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def announce(*addresses):
    late.start()
    ready.append(addresses)

signal.signal(signal.SIGTERM, lambda *_: None)  # what serve puts back
for line in range(1, 9):
    ready, left = [], line
    late = threading.Timer(1, to_itself)  # where it runs no more lines
    sys.settrace(trace)
    serve(AgentSettings(folder=Path("agent")), announce)
    sys.settrace(None)
    late.cancel()
    print(line)
"""


def test_a_signal_ends_it_at_whichever_line_it_comes(tmp_path):
    """A signal handler can run between any two lines of the main thread, also inside the code that waits."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_AT_EACH_LINE],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [str(line) for line in range(1, 9)]


def test_a_service_needs_systemd(agent, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    code, _, message = agent("install-service", "--user", "--folder", tmp_path)
    assert (code, message.count("\n")) == (2, 1)
    assert "no systemd here" in message

    (tmp_path / "systemctl").write_text(
        "#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n"
    )
    (tmp_path / "systemctl").chmod(0o755)
    code, _, message = agent("install-service", "--user", "--folder", tmp_path)
    assert code == 2
    assert "Failed to connect to bus" in message
    assert not service.path_of(user=True).exists()


def test_a_manager_that_hangs_is_not_waited_for_long(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "systemctl").chmod(0o755)
    begin = time.monotonic()
    with pytest.raises(DeviceError, match="timed out"):
        service.install("[Unit]", user=True, command_s=0.5)
    assert time.monotonic() - begin < 30

"""Tests of an agent that strangers crowd: connections without a token never cost a measurement."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness_remote.wire import secrets
from remote_boards import GRAPH, QUICK, Boards, opened, pictures, spec_of, until

pytest_plugins = ["remote_boards"]

FILES = 256
"""Files that the agent may open. Each connection is one."""


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start an agent with few files, and yield its ports and a board that reaches it."""
    boards = Boards(tmp_path)
    monkeypatch.setenv("HARNESS_DEVICES", str(boards.path))
    secrets.create(tmp_path / "pi1" / "identity")
    ready = tmp_path / "ready"
    serve = [sys.executable, "-m", "harness", "agent", "serve", "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            f'ulimit -n {FILES} && exec "$@"',
            "sh",
            *serve,
            "--folder",
            str(tmp_path / "pi1" / "identity"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        assert until(lambda: ready.exists() and ready.read_text())
        answer = json.loads(ready.read_text())
        ports = [int(answer[key].rpartition(":")[2]) for key in ("address", "frames")]
        boards.enter("pi1", ports[0])
        yield ports
    finally:
        boards.stop()
        process.kill()
        process.wait()


def test_idle_connections_without_a_token_cost_no_measurement(
    crowded: Any, plugins: Any, artifact: Any
) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    with contextlib.ExitStack() as crowd, opened(plugins, spec_of(plugins)) as device:
        device.load("whole", artifact, runtime)
        device.connect(GRAPH, {})
        for port in crowded:
            for _ in range(FILES):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        for _ in range(3):
            assert device.measure(QUICK, pictures()).trace.reached

"""Tests of the set-up of a board: from nothing, as an upgrade, and as a restart. The agent on it is a real one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DATA = Path(__file__).parents[1] / "data" / "ssh"

# a manager of services: runs what the unit says, and waits until it says that it is ready, as Type=notify asks
SYSTEMCTL = f"""#!{sys.executable}
import os, re, shlex, socket, subprocess, sys, time
from pathlib import Path
home = Path(os.environ["HOME"])
words = [word for word in sys.argv[1:] if word != "--user"]
with (home / "systemctl.log").open("a") as log:
    print(*sys.argv[1:], file=log)
if words[0] == "restart":
    unit = (home / ".config/systemd/user/harness-agent.service").read_text()
    command = shlex.split(re.search("^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    if (home / "pid").exists():
        running = Path("/proc", (home / "pid").read_text(), "stat")
        os.kill(int(running.parent.name), 15)
        for _ in range(600):
            try:
                if ") Z " in running.read_text():
                    break
            except OSError:  # it has stopped
                break
            time.sleep(0.1)
    (home / "notify").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(home / "notify"))
        process = subprocess.Popen(
            command, env={{**os.environ, "NOTIFY_SOCKET": str(home / "notify")}}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(home / "agent.err").open("w"),
        )
        (home / "pid").write_text(str(process.pid))
        assert manager.recv(100) == b"READY=1"
"""


def free_port() -> int:
    """Return a port that stays free, as does the next one: it is below the range of outgoing connections."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 1))
            return port
    pytest.fail("no free port")


class Board:
    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.programs = folder, folder / "home", folder / "bin"
        self.installed = self.home / ".local/share/harness-agent"
        self.port = free_port()
        self.home.mkdir()
        self.programs.mkdir()
        self.variables = {
            **os.environ,
            "PATH": f"{DATA}:{os.environ['PATH']}",
            "FAKE_SSH_HOME": str(self.home),
            "FAKE_SSH_BIN": str(self.programs),
            "FAKE_SSH_HOSTNAME": "127.0.0.1",
            "HARNESS_DEVICES": str(folder / "mine" / "devices.yaml"),
        }

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def harness(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness", *words],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env=self.variables,
            stdin=subprocess.DEVNULL,
        )

    def setup(self, *words: str) -> str:
        done = self.harness("devices", "setup", "pi1", "--ssh", "me@pi1", "--port", str(self.port), *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "certificate: pi1.crt" in (self.folder / "mine" / "devices.yaml").read_text()
        return done.stdout + done.stderr

    def pid(self) -> int:
        for file in (self.installed / "agent.pid", self.home / "pid"):
            if file.exists():
                return int(file.read_text())
        return 0

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid := self.pid():
                os.kill(pid, signal.SIGTERM)


@pytest.fixture
def board(tmp_path):
    one = Board(tmp_path)
    yield one
    one.end()


def quick_environments(board: Board) -> None:
    """Let new environments find the packages of this one, so that only the wheel itself is installed."""
    site = sysconfig.get_path("purelib")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    board.program(
        "python3",
        f'#!/bin/sh\n"{sys.executable}" "$@" || exit\n'
        f'case "$*" in *-m\\ venv*) echo "{site}" > "venv/lib/{version}/site-packages/tests.pth";; esac\n',
    )


def build_of_onnxruntime(folder: Path) -> Path:
    path = folder / "onnxruntime_gpu-1.23.0-py3-none-any.whl"
    info = "onnxruntime_gpu-1.23.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "onnxruntime/__init__.py",
            "__version__ = '1.23.0'\ndef get_available_providers(): return ['CPUExecutionProvider']\n",
        )
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.23.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, or ends within 10 s. One that nobody has waited for yet has ended, too."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_board_is_set_up_upgraded_and_becomes_a_service(board):
    quick_environments(board)
    board.program("systemctl", "#!/bin/sh\nexit 1\n")
    assert "does not come back after a reboot" in board.setup()
    code = "import harness, harness_remote; print(harness.__file__, harness_remote.__file__)"
    where = subprocess.run(
        [board.installed / "venv/bin/python", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=board.home,
        env={"HOME": str(board.home)},
    )
    assert where.stdout.count(str(board.installed / "venv")) == 2, where.stdout
    first, certificate = board.pid(), (board.installed / "certificate.pem").read_text()
    assert (board.folder / "mine" / "pi1.crt").read_text() == certificate
    assert (board.folder / "mine" / "pi1.token").stat().st_mode & 0o777 == 0o600

    # a package that changed is installed again, the rest and the certificate stay; then systemd is there
    (board.installed / "installed").write_text("something older")
    board.program("systemctl", SYSTEMCTL)
    board.program("loginctl", "#!/bin/sh\necho 'Access denied' >&2\nexit 1\n")
    board.program("id", "#!/bin/sh\necho 1000\n")
    output = board.setup("--onnxruntime", str(build_of_onnxruntime(board.folder)))
    assert "installing" in output
    assert "ONNX Runtime 1.23.0" in output
    assert "as a service of the user" in output
    assert "sudo loginctl enable-linger" in output
    calls = (board.home / "systemctl.log").read_text().splitlines()
    assert [call.split()[1] for call in calls if "show" not in call] == ["daemon-reload", "enable", "restart"]
    assert all(call.startswith("--user ") for call in calls)
    assert (board.installed / "certificate.pem").read_text() == certificate
    assert board.pid() != first
    assert has_ended(int(first))

    output = board.setup()
    assert "the agent there is this one" in output
    assert "ONNX Runtime 1.23.0" in output


@pytest.mark.soak
@pytest.mark.parametrize("words", [(), ("--offline",)])
def test_a_board_with_nothing_gets_all_that_the_agent_needs(board, words):
    """This takes minutes, because everything is downloaded and installed. In the second case the board is offline."""
    if words:
        board.variables["FAKE_SSH_NO_NETWORK"] = "1"
        done = board.harness("devices", "setup", "pi1", "--ssh", "me@pi1", "--port", str(board.port))
        assert done.returncode == 2
        assert "try --offline" in done.stderr.splitlines()[-1]
    board.program("systemctl", "#!/bin/sh\nexit 1\n")
    begin = time.monotonic()
    board.setup(*words)
    size = sum(path.lstat().st_size for path in (board.installed / "venv").rglob("*") if path.is_file()) / 1e6
    print(json.dumps({"words": words, "seconds": round(time.monotonic() - begin), "venv_mb": round(size)}))
    assert not list(board.installed.glob("venv/lib/*/site-packages/torch"))

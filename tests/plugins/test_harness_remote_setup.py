"""Tests of ``harness devices setup``, with an ssh that runs commands on this machine under another home folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from harness.cli import main
from harness_remote.setup import provision, service, wheel
from harness_remote.setup.examine import Facts

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "ssh"


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A board's home folder, and a ``bin`` whose programs are found there first."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{DATA}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_HOME", str(home))
    monkeypatch.setenv("FAKE_SSH_BIN", str(programs))
    monkeypatch.setenv("FAKE_SSH_HOSTNAME", "127.0.0.1")
    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "mine" / "devices.yaml"))
    program(programs, "systemctl", "exit 1")
    return home


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def setup(monkeypatch, capsys):
    """``harness devices setup`` in this process: (exit code, standard output, standard error)."""

    def call(*words: str, name: str = "pi1", target: str = "me@pi1") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "devices", "setup", name, f"--ssh={target}", *words])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return call


def error(done: tuple[int, str, str]) -> str:
    code, _, message = done
    last = message.splitlines()[-1]
    assert code == 2, message
    assert last.startswith("error: ")
    assert "Traceback" not in message
    return last


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("me@pi1: Permission denied (publickey,password).", "ssh-copy-id me@pi1"),
        ("Host key verification failed.", "accept it"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "ssh-keygen -R pi1",
        ),
        ("ssh: Could not resolve hostname pi1: Name or service not known", "no such host 'pi1'"),
        ("ssh: connect to host pi1 port 22: Connection refused", "no ssh server"),
        ("ssh: connect to host pi1 port 22: Connection timed out", "is it on"),
        ("kex_exchange_identification: read: odd", "ssh failed: kex_exchange_identification: read: odd"),
    ],
)
def test_no_connection_says_why_and_what_to_do(board, setup, monkeypatch, says, message):
    monkeypatch.setenv("FAKE_SSH_SAYS", says)
    assert message in error(setup())
    assert not list(board.iterdir())


def test_without_ssh_it_says_what_to_install(board, setup, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "apt install openssh-client" in error(setup())


@pytest.mark.parametrize("target", ["-oProxyCommand=touch owned", "a b"])
def test_a_target_is_no_option(board, setup, target):
    assert "expected user@host" in error(setup(target=target))


@pytest.mark.parametrize(
    ("programs", "words", "message"),
    [
        (
            {"python3": "echo 3.8"},
            (),
            "Python there is 3.8, 3.10 or newer is needed: `uv python install 3.12`",
        ),
        ({}, ("--python", "python2.7"), "--python python2.7: not found there"),
        ({"uname": "echo armv7l"}, (), "32-bit system: install the 64-bit one"),
        ({"uname": "echo riscv64"}, (), "no wheels of ONNX Runtime exist for riscv64"),
        ({"df": "echo x; echo / 1000 990 10 99% /"}, (), "10 MB are free"),
        ({"getconf": "echo glibc 2.24"}, (), "2.27 is needed"),
        (
            {"python3": 'case "$2" in *ensurepip*) exit 1;; esac; echo 3.11'},
            (),
            "apt install python3.11-venv",
        ),
    ],
)
def test_a_board_that_does_not_fit_says_why_and_what_to_do(board, setup, tmp_path, programs, words, message):
    for name, script in programs.items():
        program(tmp_path / "bin", name, script)
        for minor in range(10, 14):
            program(tmp_path / "bin", f"python3.{minor}", "exit 127")
    assert message in error(setup(*words))
    assert not list(board.iterdir())


@pytest.mark.parametrize(
    ("pip_says", "message"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        (
            "WARNING: NewConnectionError: Failed to establish: Temporary failure in name resolution",
            "try --offline",
        ),
        ("ERROR: something else", "ERROR: something else"),
    ],
)
def test_what_pip_says_becomes_what_to_do(board, setup, monkeypatch, tmp_path, pip_says, message):
    made = tmp_path / "edge_harness-0-py3-none-any.whl"
    made.write_bytes(b"")
    monkeypatch.setattr(wheel, "make", lambda into: made)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    fake = (
        f'case "$*" in *sys.version_info*) echo {version};; *ensurepip*) exit 0;; '
        f'*-m\\ venv*) mkdir -p venv/bin; cp "$0" venv/bin/python;; *pip*) echo "{pip_says}" >&2; exit 1;; esac'
    )
    program(tmp_path / "bin", "python3", fake)
    assert message in error(setup())


@pytest.mark.parametrize("ours", [True, False])
def test_only_this_folders_agent_is_ended(tmp_path, ours):
    """After a start of the board its process id may be another agent's."""
    (tmp_path / "agent").mkdir()
    folder = tmp_path / "agent" if ours else tmp_path / "agent2"
    words = ["-m", "harness", "agent", "serve", "--folder", str(folder), "--host", "0.0.0.0"]
    (tmp_path / "harness.py").write_text("print(flush=True); import time; time.sleep(600)")
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        (tmp_path / "agent" / "agent.pid").write_text(str(process.pid))
        script = ["sh", "-c", provision.END_PROCESS, "sh", "agent"]
        waited = threading.Thread(target=process.wait)  # else its id stays taken
        waited.start()
        subprocess.run(script, env={**os.environ, "HOME": str(tmp_path)}, check=True, timeout=60)
        assert not (tmp_path / "agent" / "agent.pid").exists()
        waited.join(60 if ours else 1)
        assert waited.is_alive() is not ours
    finally:
        process.kill()
        waited.join(60)


def test_a_name_that_is_another_boards_is_refused_before_anything_is_done(board, setup, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "devices.yaml").write_text("pi1: {backend: agent, host: 127.0.0.2}\n")
    assert "take another name" in error(setup())
    assert not list(board.iterdir())


def test_the_examination_knows_a_jetson_and_a_pi():
    def facts(**changes):
        plain = {
            "machine": "aarch64",
            "glibc": (2, 36),
            "root": False,
            "hostname": "b",
            "free_mb": 9999,
            "systemd": True,
            "tegra": "",
            "model": "",
            "python": ((3, 11), "python3"),
            "venv": True,
        }
        return Facts(**{**plain, **changes})

    assert facts(tegra="# R36 (release), REVISION: 3.0").backend == "jetson"
    assert facts(model="Raspberry Pi 4 Model B Rev 1.5").backend == "raspberry-pi"
    assert facts().backend == "agent"


# --- the service ----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, "me"])
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path, user):
    folder = tmp_path / "with a blank and 100%"
    folder.mkdir()
    text = service.unit([sys.executable, "--folder", str(folder)], folder, user=user)
    (tmp_path / service.NAME).write_text(text.replace("User=me", "User=root"))
    manager = ["--user"] if user is None else ["--system"]
    done = subprocess.run(
        ["systemd-analyze", *manager, "verify", "--recursive-errors=no", str(tmp_path / service.NAME)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_restarts_and_ends_its_workers(tmp_path):
    text = service.unit(["python"], tmp_path, user=None)
    for line in ("Restart=on-failure", "KillMode=control-group", "OOMPolicy=continue", "NoNewPrivileges=yes"):
        assert f"\n{line}\n" in text
    assert "User=" not in text


# --- the wheel ------------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if not name.endswith("RECORD")
        }


def test_the_wheel_of_an_installed_wheel_is_that_wheel(tmp_path, monkeypatch):
    """Build from the checkout, install elsewhere, pack again: the same files, again and again the same bytes."""
    (built,) = [wheel.make(tmp_path)]
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(built)],
        check=True,
        timeout=120,
    )
    code = "import sys; from pathlib import Path; from harness_remote.setup import wheel; print(wheel.make(Path(sys.argv[1])))"
    packed = []
    for again in ("first", "second"):
        (tmp_path / again).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / again)],
            cwd=tmp_path,
            check=True,
            text=True,
            timeout=120,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(site)},
        )
        packed.append(Path(done.stdout.strip()))
    assert contents(packed[0]) == contents(built)
    assert packed[0].read_bytes() == packed[1].read_bytes()
    assert packed[0].name == built.name
    assert distribution(wheel.DISTRIBUTION).version in built.name

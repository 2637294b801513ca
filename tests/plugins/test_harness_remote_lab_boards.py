"""Tests of labs that are up: their link times, and that nothing remains of them. A simple server is the agent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DeviceError
from harness_remote.inventory.inventory import Inventory
from harness_remote.lab import limits, supervisor
from harness_remote.lab.labfile import Lab
from harness_remote.lab.namespaces import Ability, Mode, probe
from harness_remote.lab.state import INVENTORY, State, folder_of

pytestmark = pytest.mark.lab

FAKE = (sys.executable, str(Path(__file__).parents[1] / "data" / "fake_agent" / "fake_agent.py"))
LINK = {"rate": "2 MB/s", "rtt": 0.002, "ports": "shared"}

Up = Callable[..., State]


def _lacking() -> dict[str, str]:
    """Return mode -> the reason why a lab of this mode cannot be tested here."""
    if shutil.which("ip") is None:
        return dict.fromkeys(("root", "user", "loopback"), "no iproute2")
    alone = ["unshare", "--user", "--map-root-user", "--net", "true"]
    users = subprocess.run(alone, capture_output=True, check=False).returncode == 0
    return {
        **({} if probe().mode == "root" else {"root": "not root, or no network namespaces"}),
        **({} if users else {"user": "no user namespaces"}),
    }


LACKING = _lacking()


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made: list[State] = []

    def bring(
        mode: Mode | None = None, tied: bool = False, serve: tuple[str, ...] = FAKE, **keys: Any
    ) -> State:
        if lacking := LACKING.get(mode or probe().mode):
            pytest.skip(lacking)
        ability = None if mode is None else Ability(mode, probe().tools)
        lab = Lab.model_validate({"lab": f"test{os.getpid()}", "boards": ["a", "b"], "link": LINK, **keys})
        made.append(supervisor.up(lab, serve=serve, tied=tied, ability=ability))
        return made[-1]

    yield bring
    for state in made:
        supervisor.down(state)


def ask(state: State, board: str, **asked: Any) -> Any:
    """Send a request to a board's server from this process, and return the answer."""
    known = Inventory.load(folder_of(state.lab) / INVENTORY).board(board)
    with socket.create_connection((known.host, known.port), 5) as conn, conn.makefile("rw") as stream:
        stream.write(json.dumps(asked) + "\n")
        stream.flush()
        line = stream.readline()
        return json.loads(line) if line else None


def between(state: State, up: int, down: int, times: int) -> list[float]:
    """Return the sorted seconds of messages from a to b and back, over the address that the inventory gives."""
    to = Inventory.load(folder_of(state.lab) / INVENTORY).board("b").via["a"]
    return sorted(ask(state, "a", to=to, up=up, down=down, times=times))


OTHERS = {path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline")}
"""Processes from before the tests: a lab that someone else has up."""


def left_of(state: State) -> list[str]:
    """Return the processes, cgroups, links, namespaces and mounts of a lab that still exist."""
    folder = str(folder_of(state.lab))
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in words or ("harness_remote.lab." in words and path.parent.name not in OTHERS):
            found.append(words)
    root, _ = limits.controller()
    found += [str(path) for path in root.glob(f"{limits.PREFIX}-{state.lab}*")]
    for command in ("ip -o link", "ip netns list"):
        shown = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        found += [line for line in shown.splitlines() if "switch" in line or "port0" in line or line in "ab"]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if "/run/netns" in line]
    return found


def gone(state: State) -> None:
    end = time.monotonic() + 60
    while (left := left_of(state)) or state.up:
        assert time.monotonic() < end, left
        time.sleep(0.02)


@pytest.mark.parametrize("mode", ["root", "user", "loopback"])
def test_boards_reach_one_another_through_the_link_model(up: Up, mode: Mode) -> None:
    state = up(mode)
    # the shortest: what a stall of a busy machine adds is not the link's
    assert 0.301 + 0.002 <= between(state, 602_000, 1, times=8)[0] < 1.03 * 0.303
    assert 0.0015 + 0.002 <= between(state, 1, 3_000, times=50)[0] < 1.3 * 0.0035
    if mode != "loopback":  # there is no other way
        assert ask(state, "a", to="10.77.0.11:50151", up=1, down=1) == []
    supervisor.down(state)
    gone(state)


def test_the_kernel_shapes_ports_where_it_can(up: Up) -> None:
    if "tbf" not in probe().tools:
        pytest.skip("no tbf in this kernel")
    state = up(link={"rate": "2 MB/s", "shaping": "tc", "ports": "shared"})
    assert 0.28 < between(state, 602_000, 1, times=2)[0] < 0.36


def test_a_board_has_cores_threads_and_memory_of_its_own(up: Up) -> None:
    state = up(boards=["a", "b", "c"], cores=1, threads=3, memory_mb=100)
    ready = json.loads((folder_of(state.lab) / "boards" / "a" / "ready.json").read_text())
    assert (ready["cores"], ready["omp"]) == (1, "3")
    assert any("3 boards share" in note for note in state.notes) == (len(os.sched_getaffinity(0)) < 3)
    if any("no memory limit" in note for note in state.notes):
        return
    assert ask(state, "a", eat=50_000_000) == 50_000_000
    assert ask(state, "a", eat=200_000_000) is None  # killed for it, and started again
    assert ask(state, "b", eat=50_000_000) == 50_000_000
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            assert ask(state, "a", eat=50_000_000) == 50_000_000
            return
        except (ConnectionError, TypeError, AssertionError):
            time.sleep(0.1)
    pytest.fail("the agent that was killed did not come back")


def processes(state: State) -> dict[str, int]:
    """Return the process ids of the keeper and of the processes below it."""
    below = {"keeper": state.pid}
    for name in ("unshare", "inside"):
        parent = list(below.values())[-1]
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        below[name] = int(children[0])
    return below


@pytest.mark.parametrize("victim", ["keeper", "unshare", "inside"])
def test_nothing_is_left_whichever_is_killed(up: Up, victim: str) -> None:
    state = up("root", memory_mb=100)
    expected = {"lab.supervisor", "lab.inside", "lab.relay", "fake_agent", limits.PREFIX}
    end = time.monotonic() + 60
    while absent := {word for word in expected if word not in " ".join(left_of(state))}:
        assert time.monotonic() < end, (
            absent
        )  # a process has no command line while it becomes another program
        time.sleep(0.02)
    os.kill(processes(state)[victim], signal.SIGKILL)
    if victim == "keeper":
        os.waitpid(state.pid, 0)
    gone(state)


@pytest.mark.parametrize("victim", ["keeper", "unshare"])
def test_nothing_is_left_without_namespaces_either(up: Up, victim: str) -> None:
    state = up("loopback")
    inside = int(Path(f"/proc/{state.pid}/task/{state.pid}/children").read_text().split()[0])
    os.kill(state.pid if victim == "keeper" else inside, signal.SIGKILL)
    gone(state)


def test_who_takes_down_what_was_brought_up_again_leaves_it(up: Up) -> None:
    ended = up("loopback")
    os.kill(ended.pid, signal.SIGKILL)
    gone(ended)
    restarted = up("loopback")
    supervisor.down(ended)
    assert restarted.up
    assert State.load(folder_of(restarted.lab)) == restarted
    assert ask(restarted, "a", eat=1) == 1


def test_who_takes_down_what_another_brings_up_waits_for_it(up: Up) -> None:
    state = up("loopback")
    with folder_of(state.lab).with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="is being brought up or down by another process"):
            supervisor.down(state, wait_s=0.2)
        release = threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        supervisor.down(state)
        release.join()
    assert not state.up


TIED = """
import sys, time
from harness_remote.lab import supervisor
from harness_remote.lab.labfile import Lab
supervisor.up(Lab.model_validate_json(sys.argv[1]), serve=sys.argv[2:], tied=True)
print("up", flush=True)
time.sleep(60)
"""


def test_a_lab_that_is_run_ends_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    lab = Lab.model_validate({"lab": f"test{os.getpid()}", "boards": ["a"], "link": LINK})
    with subprocess.Popen(
        [sys.executable, "-c", TIED, lab.model_dump_json(), *FAKE], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "up\n"
        state = State.load(folder_of(lab.lab))
        assert state is not None
        assert state.up
        command.kill()
    gone(state)


def test_a_lab_that_ended_is_not_taken_for_another_process(up: Up) -> None:
    state = up()
    with pytest.raises(DeviceError, match="is up already"):
        up()
    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)
    assert not state.up
    other = State(lab="x", pid=os.getpid(), started=1, mode="root", boards=("a",))
    assert not other.up  # the number was given to another process since
    gone(state)
    assert up().up


def test_a_board_that_does_not_start_says_why(up: Up) -> None:
    with pytest.raises(DeviceError, match="lab: the agent of a ended: no port"):
        up(serve=(sys.executable, "-c", "raise SystemExit('no port')"))

"""Bring a lab up, and take it down.

One detached process, the keeper, holds a lab up. It opens the sockets through which this machine reaches the boards,
enters the lab's namespaces and starts :mod:`~harness_remote.lab.inside` there, which starts the agents. A pipe joins
these processes. If one of them is killed, the pipe closes, and all of the lab ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeviceError, StorageError
from harness_remote.lab import limits
from harness_remote.lab.labfile import Lab
from harness_remote.lab.namespaces import Ability, enter, probe, without
from harness_remote.lab.state import INVENTORY, LOG, Settings, State, folder_of, started_at
from harness_remote.wire import secrets

__all__ = ["down", "main", "up"]

SERVE = (sys.executable, "-m", "harness", "agent", "serve")
UP_S = 90.0
DOWN_S = 10.0
TICK_S = 0.1


def up(
    lab: Lab, *, serve: Sequence[str] = SERVE, tied: bool = False, ability: Ability | None = None
) -> State:
    """Bring a lab up. Its inventory is in the lab's folder.

    Args:
        lab: the lab as its file gives it.
        serve: the command of a board's agent, without its options.
        tied: true if the lab shall end with this process.
        ability: the abilities of this machine; None probes them.

    Raises:
        DeviceError: the lab is up already, this machine cannot do it, or a board does not start.
    """
    folder = folder_of(lab.lab)
    with _alone(folder.with_suffix(".lock"), lab.lab):
        if (known := State.load(folder)) is not None and known.up:
            raise DeviceError(f"lab {lab.lab} is up already; `harness lab down {lab.lab}` takes it down")
        return _up(lab, folder, tuple(serve), tied, ability or probe())


@contextlib.contextmanager
def _alone(path: Path, lab: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lab's lock inside the block. Raises ``DeviceError`` if it is not free within ``wait_s`` seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from None
    with file:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= end:
                    raise DeviceError(f"lab {lab} is being brought up or down by another process") from None
                time.sleep(0.05)
        yield


def _up(lab: Lab, folder: Path, serve: tuple[str, ...], tied: bool, able: Ability) -> State:
    if (reason := without(lab, able)) is not None:
        raise DeviceError(f"lab {lab.lab}: {reason}")
    limits.sweep(lab.lab)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        for board in lab.boards:
            secrets.create(folder / "boards" / board)
        log = (folder / LOG).open("ab")
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror or error}") from None
    settings = Settings(folder=folder, lab=lab, mode=able.mode, serve=serve)
    report, reporting = os.pipe()
    tie, tied_to = os.pipe()
    with log:
        keeper = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "harness_remote.lab.supervisor",
                settings.dump(),
                json.dumps({"report": reporting, "tie": tie if tied else None}),
            ],
            pass_fds=[reporting, tie] if tied else [reporting],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(reporting)
    os.close(tie)
    if not tied:
        os.close(tied_to)  # without this, it stays open as long as this process lives
    try:
        answer = _answer(report, folder / LOG)
    except BaseException:
        keeper.terminate()
        keeper.wait(DOWN_S)
        raise
    finally:
        os.close(report)
    started = started_at(keeper.pid)
    if answer.error or started is None:
        keeper.wait(DOWN_S)
        raise DeviceError(answer.error or f"lab {lab.lab} ended at once; see {folder / LOG}")
    state = State(
        lab=lab.lab,
        pid=keeper.pid,
        started=started,
        mode=able.mode,
        boards=lab.boards,
        notes=(*able.not_allowed, *answer.notes, *_crowded(lab)),
    )
    state.save(folder)
    return state


def down(state: State, wait_s: float = 2 * DOWN_S) -> None:
    """End a lab and wait until it has ended. If it has ended already, only its files are removed.

    Raises:
        DeviceError: another process is bringing it up, and has not finished after ``wait_s`` seconds.
    """
    folder = folder_of(state.lab)
    with _alone(folder.with_suffix(".lock"), state.lab, wait_s):
        if State.load(folder) in (state, None):  # otherwise another lab of this name is up now
            _down(state, folder)


def _down(state: State, folder: Path) -> None:
    if state.up:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
        end = time.monotonic() + DOWN_S
        while state.up:
            if time.monotonic() > end:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, signal.SIGKILL)  # this also ends the lifeline
                break
            time.sleep(0.01)
    limits.sweep(state.lab)
    State.remove(folder)
    (folder / INVENTORY).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Report:
    """The only report from inside a lab: it is up, with ``notes``, or it failed with ``error``."""

    notes: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def parse(cls, line: bytes) -> _Report:
        """Return the report of a line of JSON."""
        content = json.loads(line)
        return cls(tuple(content.get("notes", ())), str(content.get("error", "")))


def _answer(report: int, log: Path) -> _Report:
    """Wait for the report from inside. Raises ``DeviceError`` if the lab ends before it, or it is late."""
    text, end = b"", time.monotonic() + UP_S
    while select.select([report], [], [], max(0.0, end - time.monotonic()))[0]:
        text += (data := os.read(report, 65_536))
        if not data:
            raise DeviceError(f"the lab ended before it was up; see {log}")
        if text.endswith(b"\n"):  # `unshare` holds the other end too
            return _Report.parse(text)
    raise DeviceError(f"the lab is not up after {UP_S:g} s; see {log}")


def _crowded(lab: Lab) -> tuple[str, ...]:
    """Return a note if the boards have more cores together than this machine."""
    have = len(os.sched_getaffinity(0))
    wanted = len(lab.boards) * (lab.cores or have)
    if wanted <= have or lab.replay == "solo":
        return ()
    return (
        f"{len(lab.boards)} boards share {have} cores: what they compute at once takes longer; see replay",
    )


def main() -> None:
    """Keep a lab up until SIGTERM, until the tie's other end closes, or until the inside ends."""
    settings, inherited = Settings.parse(sys.argv[1]), json.loads(sys.argv[2])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    signal.signal(signal.SIGINT, lambda *_: None)
    listeners = {
        board: [socket.create_server(("127.0.0.1", 0)) for _ in ("calls", "frames")]
        for board in settings.lab.boards
    }
    fds = [listener.fileno() for pair in listeners.values() for listener in pair]
    lifeline, held = os.pipe()
    described = {
        "listeners": {
            board: [(listener.fileno(), listener.getsockname()[1]) for listener in pair]
            for board, pair in listeners.items()
        },
        "lifeline": lifeline,
        "report": inherited["report"],
    }
    inside = subprocess.Popen(
        [
            *enter(settings.mode),
            sys.executable,
            "-m",
            "harness_remote.lab.inside",
            sys.argv[1],
            json.dumps(described),
        ],
        pass_fds=[lifeline, inherited["report"], *fds],
        stdin=subprocess.DEVNULL,
    )
    for fd in (lifeline, inherited["report"]):
        os.close(fd)
    for pair in listeners.values():
        for listener in pair:
            listener.close()
    tie = [inherited["tie"]] if inherited["tie"] is not None else []
    while inside.poll() is None and not stopped:
        with contextlib.suppress(InterruptedError):
            if select.select(tie, [], [], TICK_S)[0]:
                break
    os.close(held)
    try:
        inside.wait(DOWN_S / 2)
    except subprocess.TimeoutExpired:
        inside.kill()
    limits.sweep(settings.lab.lab)


if __name__ == "__main__":
    main()

"""Tests of the end of a worker's process, as several threads see it."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from harness.errors import DeviceError, HarnessError
from harness.measure import robustness
from harness.processes import start
from harness.types import Artifact, Graph, Monitor, SessionOptions, TensorSpec
from harness.types.plain import function_name
from harness.worker.commands import Listen, Load
from harness.worker.process import WorkerProcess


def test_every_thread_learns_how_a_worker_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system informs only one thread. Here that thread is slow to pass the status on."""
    wait, reaped = os.waitpid, threading.Event()

    def slowly(pid: int, options: int) -> tuple[int, int]:
        ended = wait(pid, options)
        if ended[0]:
            reaped.set()
            time.sleep(0.3)
        return ended

    worker = WorkerProcess("board", Monitor())
    deaths: list[str | None] = []

    def ask() -> None:
        with pytest.raises(DeviceError) as error:
            worker.ask(Listen())
        deaths.append(str(error.value))

    try:
        worker.ask(Listen())
        monkeypatch.setattr(os, "waitpid", slowly)
        os.kill(worker.pid, signal.SIGKILL)
        threads = [threading.Thread(target=lambda: deaths.append(worker.death())) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert reaped.wait(20)
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        for thread in threads:
            thread.join(20)
    finally:
        worker.close()
    assert deaths == ["the worker on board was ended by SIGKILL (out of memory?)"] * 5


@pytest.mark.timeout(120)
def test_the_process_that_forks_workers_may_be_ended_for_its_memory() -> None:
    """multiprocessing says ``EOFError: unexpected EOF`` then."""
    WorkerProcess("first", Monitor(), preload=["harness.worker.worker"]).close()
    (forks,) = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
    forks.suspend()  # so that it has taken the request when it ends
    said: list[str] = []

    def begin() -> None:
        with pytest.raises(DeviceError) as error:
            WorkerProcess("second", Monitor(), preload=["harness.worker.worker"])
        said.append(str(error.value))

    beginning = threading.Thread(target=begin)
    beginning.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and beginning.is_alive():
        frame = sys._current_frames().get(beginning.ident or 0)
        if frame is not None and frame.f_code.co_name in ("read_signed", "read_unsigned"):
            break
        time.sleep(0.01)
    forks.kill()
    beginning.join(30)
    assert said == ["the worker on second: cannot start a process: it was ended (out of memory?)"]
    while time.monotonic() < end + 60 and forks.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    third = WorkerProcess("third", Monitor(), preload=["harness.worker.worker"])
    third.ask(Listen())
    third.close()


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EAGAIN, errno.EPIPE])
def test_a_process_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=print)

    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(process, "start", refuse)
    with pytest.raises(HarnessError, match=f"^cannot start a process: {os.strerror(code)} .out of memory"):
        start(process)


def test_a_worker_that_ends_before_it_runs_a_part_is_one_line() -> None:
    """multiprocessing says ``EOFError`` or ``Connection refused`` then."""
    gone = SimpleNamespace(ask=lambda command: SimpleNamespace(address=("127.0.0.1", 1), key="00"))
    data = SimpleNamespace(cell=SimpleNamespace(seed=0))
    with pytest.raises(DeviceError, match="the host's worker ended before it ran a part"):
        robustness.count_correct(cast(Any, gone), Graph(parts=()), cast(Any, data), 1)


def test_an_error_in_a_worker_names_the_files_in_which_it_arose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_loader.py").write_text("def load(artifact, options):\n    raise ValueError('no')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    tensor = TensorSpec(shape=(1,))
    artifact = Artifact(
        path=tmp_path, runtime="toy", precision="fp32", weight_bytes=0, inputs=(tensor,), output=tensor
    )
    worker = WorkerProcess("board", Monitor())
    try:
        with pytest.raises(DeviceError, match="load on board: ValueError: no") as error:
            worker.ask(
                Load(part="model", artifact=artifact, loader="toy_loader:load", options=SessionOptions())
            )
    finally:
        worker.close()
    assert error.value.files[-1] == str(tmp_path / "toy_loader.py")


def test_a_worker_that_died_names_the_file_of_the_runtime_that_it_had_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_loader.py").write_text("import os\ndef load(artifact, options):\n    os._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = function_name(importlib.import_module("deadly_loader").load)
    tensor = TensorSpec(shape=(1,))
    artifact = Artifact(
        path=tmp_path, runtime="toy", precision="fp32", weight_bytes=0, inputs=(tensor,), output=tensor
    )
    worker = WorkerProcess("board", Monitor())
    try:
        with pytest.raises(DeviceError, match="the worker on board ended with exit code 3") as error:
            worker.ask(Load(part="model", artifact=artifact, loader=loader, options=SessionOptions()))
    finally:
        worker.close()
    assert error.value.files == (str(tmp_path / "deadly_loader.py"),)


class SlowToStart:
    """A process whose start takes a while, in which another thread takes Ctrl-C."""

    def __init__(self) -> None:
        self.started = False

    def start(self) -> None:
        def take() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        for _ in range(1000):  # Python runs the handler between two steps of the main thread
            pass
        self.started = True


def test_ctrl_c_while_a_child_starts_takes_effect_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = SlowToStart()
    try:
        with pytest.raises(KeyboardInterrupt):
            start(process)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.started

"""The worker's process, as several threads see it end."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from harness.errors import DeviceError
from harness.types import Monitor
from harness.worker.commands import Listen
from harness.worker.process import WorkerProcess


def test_every_thread_is_told_how_a_worker_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells one of them only; here it takes its time to pass it on."""
    wait, reaped = os.waitpid, threading.Event()

    def slowly(pid: int, options: int) -> tuple[int, int]:
        told = wait(pid, options)
        if told[0]:
            reaped.set()
            time.sleep(0.3)
        return told

    worker = WorkerProcess("board", Monitor())
    told: list[str | None] = []

    def ask() -> None:
        with pytest.raises(DeviceError) as error:
            worker.ask(Listen())
        told.append(str(error.value))

    try:
        worker.ask(Listen())
        monkeypatch.setattr(os, "waitpid", slowly)
        os.kill(worker.pid, signal.SIGKILL)
        threads = [threading.Thread(target=lambda: told.append(worker.death())) for _ in range(4)]
        for one in threads:
            one.start()
        assert reaped.wait(20)
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
        for one in threads:
            one.join(20)
    finally:
        worker.close()
    assert told == ["the worker on board was ended by SIGKILL (out of memory?)"] * 5

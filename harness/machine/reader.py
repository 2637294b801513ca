"""The process that reads meters and states: ``python -m harness.machine.reader``.

Each meter has a thread, which reads at fixed intervals. A random shift of up to half an interval in either direction
prevents that a periodic load is always read at the same phase.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import first_line
from harness.machine.energy.durations import interval_s
from harness.machine.messages import (
    MeterLog,
    Now,
    Open,
    Opened,
    Seen,
    Start,
    Started,
    State,
    States,
    Stop,
    Stopped,
    Time,
    line_of,
    read_request,
)
from harness.types import Log, Meter, Watch
from harness.types.json import Signals

__all__ = ["STATE_S", "main"]


CLOSE_S = 1.0
STATE_S = 0.25


class _Reader(threading.Thread):
    """A thread that calls ``read`` about every ``every_s`` seconds while ``on`` is set.

    It ends when a reading fails.
    """

    def __init__(self, read: Callable[[], tuple[int, Any]], every_s: float, on: threading.Event) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[int, Any]] = []
        self.error = ""
        self._read, self._every_ns, self._on = read, int(every_s * 1e9), on
        self.start()

    def run(self) -> None:
        chance = random.Random()
        while True:
            self._on.wait()
            deadline = time.monotonic_ns()
            while self._on.is_set():
                wait = deadline + int(self._every_ns * chance.uniform(-0.5, 0.5)) - time.monotonic_ns()
                if wait > 0:
                    time.sleep(wait / 1e9)
                try:
                    self.samples.append(self._read())
                except Exception as error:  # noqa: BLE001 - a meter's library may raise anything
                    self.error = first_line(error)
                    return
                missed = (time.monotonic_ns() - deadline) // self._every_ns
                deadline += self._every_ns * max(
                    1, missed
                )  # after a late reading there is no burst of readings


def main() -> None:
    """Answer the requests of the parent process until it closes its end of the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a meter's library may print to standard output
    on = threading.Event()
    meters: dict[str, tuple[Meter | Log, _Reader | None]] = {}
    watchers: dict[str, _Reader] = {}
    for line in sys.stdin:
        answer: object = None
        match read_request(line):
            case Open() as request:
                answer = Opened(_open(request, meters, watchers, on))
            case Now():
                answer = Time(time.monotonic_ns())
            case Start():
                for reader in (*(reader for _, reader in meters.values() if reader), *watchers.values()):
                    reader.samples.clear()
                on.set()
                answer = Started()
            case Stop() as request:
                answer = _stop(request, meters, watchers, on)
            case State():
                answer = States([s for reader in watchers.values() for _, s in reader.samples[-1:]])
        answers.write(line_of(answer))
        answers.flush()
    on.clear()
    threading.Timer(CLOSE_S, os._exit, (0,)).start()  # a meter's thread may be in a system call
    for meter, _ in meters.values():
        with contextlib.suppress(Exception):
            meter.close()
    os._exit(0)


def _open(
    request: Open,
    meters: dict[str, tuple[Meter | Log, _Reader | None]],
    watchers: dict[str, _Reader],
    on: threading.Event,
) -> dict[str, str]:
    """Open every meter and watch. Return the reason for each one that failed."""
    errors = {}
    for use in request.meters:
        info = use.info
        try:
            meter = pkgutil.resolve_name(use.open)(info)
            reader = None
            if not hasattr(meter, "fetch"):
                meter.read()
                reader = _Reader(meter.read, interval_s(info), on)
            meters[info.name] = meter, reader
        except Exception as error:  # noqa: BLE001 - it becomes the reason why there is no figure
            errors[info.name] = first_line(error)
    for name, function in request.watches.items():
        try:
            watch = pkgutil.resolve_name(function)()
            if watch is not None:
                watchers[name] = _Reader(_stamped(watch), STATE_S, on)
        except Exception as error:  # noqa: BLE001 - likewise: a watch's library may raise anything
            errors[name] = first_line(error)
    return errors


def _stop(
    request: Stop,
    meters: Mapping[str, tuple[Meter | Log, _Reader | None]],
    watchers: Mapping[str, _Reader],
    on: threading.Event,
) -> Stopped:
    """Stop reading, and return the samples of each meter and the states of each watch."""
    on.clear()
    logs = {}
    for name, (meter, reader) in meters.items():
        try:
            logs[name] = _log(meter, reader, request)
        except Exception as error:  # noqa: BLE001 - a log's library may raise anything; it becomes the reason
            logs[name] = MeterLog([], [], first_line(error), getattr(meter, "clock_error_s", 0.0))
    states = [
        Seen(ns, name, signals) for name, watcher in watchers.items() for ns, signals in list(watcher.samples)
    ]
    failed = {name: watcher.error for name, watcher in watchers.items() if watcher.error}
    return Stopped(logs, states, failed)


def _log(meter: Meter | Log, reader: _Reader | None, request: Stop) -> MeterLog:
    """Return the readings of a meter. A meter without a ``reader`` keeps a log, which is fetched."""
    error = ""
    samples: Sequence[tuple[int, float]]
    if reader is not None:
        samples, error = list(reader.samples), reader.error
    else:
        samples = meter.fetch(request.begin, request.end, request.load)  # type: ignore[union-attr]
    return MeterLog(
        ns=[int(ns) for ns, _ in samples],
        value=[float(value) for _, value in samples],
        error=error,
        clock_error_s=getattr(meter, "clock_error_s", 0.0),
    )


def _stamped(watch: Watch) -> Callable[[], tuple[int, Signals]]:
    def read() -> tuple[int, Signals]:
        before = time.monotonic_ns()
        return before, dict(watch())

    return read


if __name__ == "__main__":
    main()

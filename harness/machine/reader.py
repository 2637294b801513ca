"""The process that reads meters and states: ``python -m harness.machine.reader``.

Each meter has a thread, which reads at fixed intervals. A random shift of up to half an interval in either direction
prevents that a periodic workload is always read at the same phase.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contracts.meters import checked_reading, checked_readings, checked_signals, kind_of
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
                except (Exception, SystemExit) as error:  # noqa: BLE001 - a meter's library may raise anything
                    self.error = first_line(error)
                    return
                missed = (time.monotonic_ns() - deadline) // self._every_ns
                deadline += self._every_ns * max(
                    1, missed
                )  # after a late reading there is no burst of readings


@dataclass(frozen=True)
class _OpenMeter:
    """An opened meter of a ``quantity``. A meter without a ``reader`` keeps a log, which is fetched."""

    meter: Meter | Log
    quantity: str
    reader: _Reader | None


def main() -> None:
    """Answer the requests of the parent process until it closes its end of the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a meter's library may print to standard output
    on = threading.Event()
    meters: dict[str, _OpenMeter] = {}
    watchers: dict[str, _Reader] = {}
    for line in sys.stdin:
        answer: object = None
        match read_request(line):
            case Open() as request:
                answer = Opened(_open(request, meters, watchers, on))
            case Now():
                answer = Time(time.monotonic_ns())
            case Start():
                for reader in (
                    *(meter.reader for meter in meters.values() if meter.reader),
                    *watchers.values(),
                ):
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
    for opened in meters.values():
        with contextlib.suppress(Exception):
            opened.meter.close()
    os._exit(0)


def _open(
    request: Open, meters: dict[str, _OpenMeter], watchers: dict[str, _Reader], on: threading.Event
) -> dict[str, str]:
    """Open every meter and watch. Return the reason for each one that failed."""
    errors = {}
    for use in request.meters:
        info = use.info
        try:
            meter = pkgutil.resolve_name(use.open)(info)
            reader = None
            if not hasattr(meter, "fetch"):
                read = _readings(meter, info.quantity)
                read()
                reader = _Reader(read, interval_s(info), on)
            meters[info.name] = _OpenMeter(meter, info.quantity, reader)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the reason why there is no figure
            errors[info.name] = first_line(error)
    for name, function in request.watches.items():
        try:
            watch = pkgutil.resolve_name(function)()
            if watch is not None:
                watchers[name] = _Reader(_stamped(watch), STATE_S, on)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise: a watch's library may raise anything
            errors[name] = first_line(error)
    return errors


def _stop(
    request: Stop, meters: Mapping[str, _OpenMeter], watchers: Mapping[str, _Reader], on: threading.Event
) -> Stopped:
    """Stop reading, and return the samples of each meter and the states of each watch."""
    on.clear()
    logs = {}
    for name, opened in meters.items():
        try:
            logs[name] = _log(opened, request)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a log's library may raise anything
            logs[name] = MeterLog([], [], first_line(error))
    states = [
        Seen(ns, name, signals) for name, watcher in watchers.items() for ns, signals in list(watcher.samples)
    ]
    failed = {name: watcher.error for name, watcher in watchers.items() if watcher.error}
    return Stopped(logs, states, failed)


def _log(opened: _OpenMeter, request: Stop) -> MeterLog:
    """Return the readings of a meter."""
    error, meter, reader = "", opened.meter, opened.reader
    if reader is not None:
        samples, error = list(reader.samples), reader.error
    else:
        log = meter.fetch(request.begin, request.end, request.load)  # type: ignore[union-attr]
        samples = checked_readings(log, opened.quantity)
    return MeterLog(
        ns=[ns for ns, _ in samples],
        value=[value for _, value in samples],
        error=error,
        clock_error_s=float(getattr(meter, "clock_error_s", 0.0)),
    )


def _readings(meter: Meter, quantity: str) -> Callable[[], tuple[int, float]]:
    """Return a function that reads a meter and checks the reading."""

    def read() -> tuple[int, float]:
        return checked_reading(meter.read(), quantity)

    return read


def _stamped(watch: Watch) -> Callable[[], tuple[int, Signals]]:
    """Return a function that reads a watch and checks its signals. A signal keeps the kind that it had first."""
    kinds: dict[str, str] = {}

    def read() -> tuple[int, Signals]:
        before = time.monotonic_ns()
        signals = checked_signals(watch())
        for key, value in signals.items():
            if kinds.setdefault(key, kind_of(value)) != kind_of(value):
                raise ValueError(f"the watch gave {key} {value!r}, before a {kinds[key]}")
        return before, signals

    return read


if __name__ == "__main__":
    main()

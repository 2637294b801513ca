"""Read meters and the machine's state in a separate process, so that no query waits for a meter.

The process is ``python -m harness.machine.reader``. It reads JSON lines from standard input, and answers each line
with one line. :class:`Sampler` is the other end, in the worker. If a meter is at another host, the same program reads
it there, over ssh. All times are the times of the readings, on this machine's monotonic clock.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeVar

from harness.errors import last_line
from harness.machine.clock import clock_of
from harness.machine.messages import (
    MeterLog,
    Now,
    Open,
    Opened,
    Request,
    Seen,
    Start,
    State,
    States,
    Stop,
    Stopped,
    line_of,
    read_answer,
)
from harness.processes import died
from harness.quiet import without_current_folder
from harness.types import MeterInfo, MeterUse, Monitor
from harness.types.json import Signals

__all__ = ["MeterSamples", "Sampled", "Sampler"]

READY_S, ANSWER_S = 30.0, 30.0
PINGS = 8

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class MeterSamples:
    """The samples of one meter: times in monotonic nanoseconds, and joules or watts.

    ``error`` says why it ended early. ``clock_error_s`` is the greatest error of the times in seconds, if they come
    from another host's clock or from a log.
    """

    info: MeterInfo
    ns: Sequence[int]
    value: Sequence[float]
    error: str = ""
    clock_error_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The result of a sampler: the samples of each meter, and the machine's states."""

    meters: tuple[MeterSamples, ...] = ()
    states: tuple[Seen, ...] = ()
    problems: tuple[str, ...] = field(default=())


class Sampler:
    """The processes that read a device's meters: one on this machine, and one on each other host that has a meter."""

    def __init__(self, monitor: Monitor) -> None:
        hosts: dict[str, list[MeterUse]] = {"": []}
        for use in monitor.meters:
            hosts.setdefault(use.info.host, []).append(use)
        self._monitor = monitor
        self._ends = {host: _End(host) for host in hosts}
        for host, end in self._ends.items():
            end.send(Open(tuple(hosts[host]), dict(monitor.watches) if not host else {}))
        self._errors: dict[str, str] | None = None

    @property
    def meters(self) -> tuple[MeterUse, ...]:
        """Return the meters that are read."""
        return self._monitor.meters

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process id of the reader on this machine; empty if it did not start."""
        return self._ends[""].pids

    def ready(self) -> Mapping[str, str]:
        """Wait until every meter and watch is open. Return the reason for each one that did not open, by name."""
        if self._errors is None:
            self._errors = {}
            for end in self._ends.values():
                self._errors.update((end.receive(Open, READY_S) or Opened()).errors)
                end.join_clocks()
        return self._errors

    def problems(self) -> list[str]:
        """Return the problems of the reading processes themselves, one line each."""
        return [end.problem for end in self._ends.values() if end.problem]

    def start(self) -> None:
        """Discard earlier samples, and start to read."""
        self.ready()
        for end in self._ends.values():
            end.ask(Start())

    def state(self) -> list[Signals]:
        """Return the latest state of every watch. Call it between :meth:`start` and :meth:`stop`."""
        return (self._ends[""].ask(State()) or States()).states

    def stop(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sampled:
        """Stop reading, and return what was read from ``begin_ns`` to ``end_ns`` of the monotonic clock.

        ``load`` is the begin and end of the workload in nanoseconds. A meter that keeps a log can be aligned by it.
        """
        answers = {}
        for host, end in self._ends.items():
            loaded = end.remote(load[0]), end.remote(load[1])
            answers[host] = end.ask(Stop(end.remote(begin_ns), end.remote(end_ns), loaded)) or Stopped()
            end.join_clocks()
        errors = self.ready()
        meters = []
        for use in self._monitor.meters:
            end = self._ends[use.info.host]
            log = answers[use.info.host].meters.get(use.info.name) or MeterLog([], [])
            meters.append(
                MeterSamples(
                    info=use.info,
                    ns=[end.local(ns) for ns in log.ns],
                    value=log.value,
                    error=end.problem or errors.get(use.info.name, "") or log.error,
                    clock_error_s=end.clock_error_s + log.clock_error_s,
                )
            )
        failed = {name: text for name, text in errors.items() if name in self._monitor.watches}
        failed |= answers[""].failed
        problems = [f"{name}: {text}" for name, text in failed.items()]
        problems += self.problems()
        return Sampled(meters=tuple(meters), states=tuple(answers[""].states), problems=tuple(problems))

    def close(self) -> None:
        """End all reading processes, within a few seconds."""
        for end in self._ends.values():
            end.close()


class _End:
    """One reading process and the offset of its clock. A problem is kept in ``problem`` and never raised."""

    def __init__(self, host: str) -> None:
        own = without_current_folder("harness.machine.reader")
        there = [
            "ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "--",
            host,
            "python3 -m harness.machine.reader",
        ]
        self.problem = ""
        self.clock_error_s = 0.0
        self._host, self._offset_ns = host, 0
        self._answers: queue.Queue[str] = queue.Queue()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                there if host else own,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        except OSError as error:
            self.problem = f"cannot start {(there if host else own)[0]}: {error.strerror}"
            return
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pids(self) -> tuple[int, ...]:
        return (self._process.pid,) if hasattr(self, "_process") else ()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def send(self, request: Request[object]) -> None:
        if self.problem:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line_of(request))
            self._process.stdin.flush()
        except OSError:
            self.problem = self._death()

    def receive(self, request: type[Request[A]], limit_s: float = ANSWER_S) -> A | None:
        """Return the next answer, which is to a ``request``. If there is none, return None and say why in ``problem``."""
        if self.problem:
            return None
        try:
            line = self._answers.get(timeout=limit_s)
            if not line:
                self.problem = self._death()
                return None
            return read_answer(request, line)
        except queue.Empty:
            self.problem = f"the sampler{self._at()} did not answer within {limit_s:g} s"
        except ValueError:
            self.problem = f"the sampler{self._at()} gave no answer to {request.do!r}, but something else"
        return None

    def ask(self, request: Request[A]) -> A | None:
        self.send(request)
        return self.receive(type(request))

    def join_clocks(self) -> None:
        """Measure the offset of the other host's clock (:func:`~harness.machine.clock.clock_of`).

        It is measured again after the window. The difference of the two offsets is added to the error.
        """
        if not self._host:
            return
        try:
            clock = clock_of(self._now, PINGS)
        except OSError:
            return  # ``problem`` says why
        drift = abs(clock.offset_ns - self._offset_ns) if self._offset_ns else 0
        self.clock_error_s = (clock.error_ns + drift) / 1e9
        self._offset_ns = clock.offset_ns

    def _now(self) -> int:
        """Return the other host's monotonic nanoseconds. Raises ``OSError`` if there is no answer."""
        there = self.ask(Now())
        if there is None:
            raise OSError(self.problem)
        return there.now

    def local(self, ns: int) -> int:
        return ns - self._offset_ns

    def remote(self, ns: int) -> int:
        return ns + self._offset_ns

    def close(self) -> None:
        if not hasattr(self, "_process"):
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(2)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a device that hangs may block the process
                self._process.wait(2)
        self._said.close()

    def _death(self) -> str:
        try:
            code = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return f"the sampler{self._at()} closed its pipe"
        self._said.seek(0)
        said = last_line(self._said.read().decode(errors="replace"), "")
        return f"{died(code, f'the sampler{self._at()}')}{said and f': {said}'}"

    def _at(self) -> str:
        return f" at {self._host}" if self._host else ""

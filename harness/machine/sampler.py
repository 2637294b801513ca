"""Have meters and the machine's state read by a process of its own, so that no query waits for a meter.

That process is ``python -m harness.machine.reader``: it reads JSON lines from standard input and answers each with one.
:class:`Sampler` is the other end, in the worker. A meter at another host is read by the same program there, over ssh.
Times are those at which the readings were taken, on this machine's monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from harness.processes import died
from harness.types import MeterInfo, MeterUse, Monitor
from harness.types.json import JsonObject

__all__ = ["MeterSamples", "Sampled", "Sampler"]

READY_S, ANSWER_S = 30.0, 30.0
PINGS = 8


@dataclass(frozen=True, kw_only=True)
class MeterSamples:
    """What one meter read: monotonic nanoseconds, joules or watts; ``error`` says why it ended early.

    ``clock_error_s`` is the greatest error of its times, where they come from another host's clock or a log's.
    """

    info: MeterInfo
    ns: Sequence[int]
    value: Sequence[float]
    error: str = ""
    clock_error_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What a sampler saw: each meter's samples, and the machine's states (nanoseconds, source, signals)."""

    meters: tuple[MeterSamples, ...] = ()
    states: tuple[tuple[int, str, JsonObject], ...] = ()
    problems: tuple[str, ...] = field(default=())


class Sampler:
    """The processes that read a device's meters: one here, and one at each other host."""

    def __init__(self, monitor: Monitor) -> None:
        hosts: dict[str, list[MeterUse]] = {"": []}
        for use in monitor.meters:
            hosts.setdefault(use.info.host, []).append(use)
        self._monitor = monitor
        self._ends = {host: _End(host) for host in hosts}
        for host, end in self._ends.items():
            end.send(
                do="open",
                meters=[{"open": use.open, "info": asdict(use.info)} for use in hosts[host]],
                watches=dict(monitor.watches) if not host else {},
            )
        self._errors: dict[str, str] | None = None

    @property
    def meters(self) -> tuple[MeterUse, ...]:
        return self._monitor.meters

    @property
    def pids(self) -> tuple[int, ...]:
        """The process on this machine, as process ids."""
        return self._ends[""].pids

    def ready(self) -> Mapping[str, str]:
        """Wait until every meter is open. Return for each meter or watch that is not the reason."""
        if self._errors is None:
            self._errors = {}
            for end in self._ends.values():
                self._errors.update(end.receive(READY_S).get("errors", {}))
                end.join_clocks()
        return self._errors

    def problems(self) -> list[str]:
        """Return what went wrong with the reading processes themselves."""
        return [end.problem for end in self._ends.values() if end.problem]

    def start(self) -> None:
        """Forget earlier samples, and begin to read."""
        self.ready()
        self._ask(do="start")

    def state(self) -> list[JsonObject]:
        """Return the latest state of every watch, while reading."""
        return list(self._ends[""].ask(do="state").get("states", []))

    def stop(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sampled:
        """End reading, and return what was read. ``load``: when the load began and ended, which may align a log."""
        answers = {}
        for host, end in self._ends.items():
            times = [end.remote(ns) for ns in (begin_ns, end_ns, *load)]
            answers[host] = end.ask(do="stop", begin=times[0], end=times[1], load=times[2:])
            end.join_clocks()
        errors = self.ready()
        meters = []
        for use in self._monitor.meters:
            end = self._ends[use.info.host]
            got = (
                answers[use.info.host]
                .get("meters", {})
                .get(use.info.name, {"ns": [], "value": [], "error": ""})
            )
            meters.append(
                MeterSamples(
                    info=use.info,
                    ns=[end.local(ns) for ns in got["ns"]],
                    value=got["value"],
                    error=end.problem or errors.get(use.info.name, "") or got["error"],
                    clock_error_s=end.clock_error_s + got.get("clock_error_s", 0.0),
                )
            )
        failed = {name: text for name, text in errors.items() if name in self._monitor.watches}
        failed |= answers[""].get("failed", {})
        problems = [f"{name}: {text}" for name, text in failed.items()]
        problems += self.problems()
        states = tuple((int(ns), name, signals) for ns, name, signals in answers[""].get("states", []))
        return Sampled(meters=tuple(meters), states=states, problems=tuple(problems))

    def close(self) -> None:
        for end in self._ends.values():
            end.close()

    def _ask(self, **message: Any) -> None:
        for end in self._ends.values():
            end.ask(**message)


class _End:
    """One reading process and the offset of its clock. What goes wrong is kept in ``problem``, never raised."""

    def __init__(self, host: str) -> None:
        own = [sys.executable, "-m", "harness.machine.reader"]
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

    def send(self, **message: Any) -> None:
        if self.problem:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            self.problem = self._death()

    def receive(self, limit_s: float = ANSWER_S) -> JsonObject:
        """Return the next answer. It is empty where there is none, and ``problem`` then says why."""
        if self.problem:
            return {}
        try:
            line = self._answers.get(timeout=limit_s)
            if not line:
                self.problem = self._death()
                return {}
            answer: JsonObject = json.loads(line)
            return answer
        except queue.Empty:
            self.problem = f"the sampler{self._at()} did not answer within {limit_s:g} s"
        except ValueError:
            self.problem = f"the sampler{self._at()} answered with something else than JSON"
        return {}

    def ask(self, **message: Any) -> JsonObject:
        self.send(**message)
        return self.receive()

    def join_clocks(self) -> None:
        """Find the other host's offset by the fastest of some round trips. Its error is at most half of that trip.

        Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989. It is found again after the
        window; the difference of the two offsets is part of the error.
        """
        if not self._host:
            return
        trips = []
        for _ in range(PINGS):
            sent = time.monotonic_ns()
            now = self.ask(do="now").get("now")
            if now is None:
                return
            got = time.monotonic_ns()
            trips.append((got - sent, now - (sent + got) // 2))
        took, offset = min(trips)
        drift = abs(offset - self._offset_ns) if self._offset_ns else 0
        self.clock_error_s = (took / 2 + drift) / 1e9
        self._offset_ns = offset

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
            with contextlib.suppress(subprocess.TimeoutExpired):  # a device that hangs holds it
                self._process.wait(2)
        self._said.close()

    def _death(self) -> str:
        try:
            code = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return f"the sampler{self._at()} closed its pipe"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return f"{died(code, f'the sampler{self._at()}')}{said}"

    def _at(self) -> str:
        return f" at {self._host}" if self._host else ""

"""Replay the compute of a part, so that many boards on one machine do not compete for its cores.

A part *rehearses* an input: it runs alone on the machine, several times, and its output and time are kept. A query
then sleeps for that time and returns that output. An input that was not rehearsed is computed, also alone, and is
counted. The session's facts have ``replayed``, so records show the replay.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.types import Session

__all__ = ["VARIABLE", "WRAPPER", "ReplayedSession", "replayed"]

VARIABLE = "HARNESS_REPLAY"
"""The environment variable with the path of the lock file that all boards of a lab share."""
WRAPPER = "harness_remote.lab.replay:replayed"
"""The function with which a worker wraps its sessions (:class:`harness.worker.commands.Load`)."""

PASSES = 5
KEPT_BYTES = 2**29
SPIN_NS = 150_000
PR_SET_TIMERSLACK = 29

Shapes = tuple[tuple[int, ...], ...]


class Clock(Protocol):
    """The functions of the module :mod:`time` that a replay uses."""

    def perf_counter_ns(self) -> int:
        """Return the time of a clock that only increases, in ns."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait for ``seconds``."""
        ...


def replayed(session: Session) -> Session:
    """Return the session's replay. ``HARNESS_REPLAY`` names its lock file.

    Raises:
        DeviceError: the variable is not set, or the lock file cannot be used.
    """
    lock = os.environ.get(VARIABLE)
    if not lock:
        raise DeviceError(f"replay: {VARIABLE} names no lock file")
    return ReplayedSession(session, Path(lock))


class ReplayedSession:
    """A :class:`harness.types.Session` that sleeps as long as another session computes alone on the machine.

    It updates its facts: the number of ``rehearsed`` inputs, ``solo_ms`` (median of the last rehearsal), and the
    number of queries that it has ``computed`` since then.

    Raises:
        DeviceError: the lock file cannot be used.
    """

    def __init__(self, session: Session, lock_path: Path, clock: Clock = time) -> None:
        self._session = session
        self._clock = clock
        try:
            self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeviceError(f"replay: {lock_path}: {error.strerror or error}") from None
        self._outputs: dict[bytes, NDArray[np.float32]] = {}
        self._kept = 0
        self._passes: dict[Shapes, list[int]] = {}
        self._solo_ns: dict[Shapes, int] = {}
        self._facts: dict[str, Any] = {**session.facts, "replayed": True, "rehearsed": 0, "computed": 0}
        self.facts: Mapping[str, Any] = self._facts
        with suppress(OSError, AttributeError):  # on Linux: timers with microsecond precision
            ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)

    def rehearse(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Run alone on the machine, keep output and time, and return the output."""
        key, shapes = _key(inputs)
        self._facts["computed"] = 0
        if (known := self._outputs.get(key)) is not None:
            return known
        times = self._passes.setdefault(shapes, [])
        with self._alone():
            output = self._session.run(inputs)  # warms the caches
            for _ in range(PASSES):
                start = self._clock.perf_counter_ns()
                output = self._session.run(inputs)
                times.append(self._clock.perf_counter_ns() - start)
        self._solo_ns[shapes] = solo = round(statistics.median(times))
        if self._kept + output.nbytes <= KEPT_BYTES:
            self._outputs[key] = output.copy()  # the session may write its next answer into the same memory
            self._kept += output.nbytes
        self._facts.update(rehearsed=len(self._outputs), solo_ms=solo / 1e6)
        return output

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return the kept output after the time of its rehearsal. Compute an input that was not rehearsed."""
        start = self._clock.perf_counter_ns()
        key, shapes = _key(inputs)
        known = self._outputs.get(key)
        if known is None:
            self._facts["computed"] += 1
            with self._alone():
                return self._session.run(inputs)
        _wait(start + self._solo_ns[shapes], self._clock)
        return known

    def close(self) -> None:
        """Close the replayed session and the lock file."""
        self._session.close()
        os.close(self._lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)  # optional members of a session, such as device_memory

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock that all boards of the lab share."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def _key(inputs: Sequence[NDArray[Any]]) -> tuple[bytes, Shapes]:
    """Return a digest of the inputs, and their shapes."""
    import numpy as np

    digest = hashlib.blake2b(digest_size=16)
    for array in inputs:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest(), tuple(array.shape for array in inputs)


def _wait(due_ns: int, clock: Clock) -> None:
    """Sleep until shortly before ``due_ns``, then poll the clock."""
    while (left := due_ns - clock.perf_counter_ns()) > 0:
        if left > SPIN_NS:
            clock.sleep((left - SPIN_NS) / 1e9)

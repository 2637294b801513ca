"""A part's compute, replayed: so that many boards of one machine do not take each other's cores.

A part is *rehearsed* on an input: run alone on the machine, several times; its output and its time are kept. A
query then takes that time asleep, and gets that output. What was not rehearsed is really computed, alone too, and
counted. Rows say so: the session's facts have ``replayed``.
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
from typing import TYPE_CHECKING, Any

from harness.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.types import Session

__all__ = ["VARIABLE", "ReplayedSession", "replayed", "replaying"]

VARIABLE = "HARNESS_REPLAY"
"""Names the lock file that all boards of a machine share; without it nothing is replayed."""

PASSES = 5
KEPT_BYTES = 2**29
SPIN_NS = 150_000
PR_SET_TIMERSLACK = 29

Shapes = tuple[tuple[int, ...], ...]


def replaying() -> bool:
    """Whether ``HARNESS_REPLAY`` asks for it; all boards of a lab are asked alike."""
    return bool(os.environ.get(VARIABLE))


def replayed(session: Session) -> Session:
    """The session, or its replay where ``HARNESS_REPLAY`` asks for it."""
    lock = os.environ.get(VARIABLE)
    return ReplayedSession(session, Path(lock)) if lock else session


class ReplayedSession:
    """A :class:`harness.types.Session` that sleeps what the one that it wraps would take with the machine to itself.

    Its facts go on: ``rehearsed`` inputs, ``solo_ms`` (the last rehearsal's median), and what was ``computed`` since.

    Raises:
        DeviceError: the lock file cannot be used.
    """

    def __init__(self, session: Session, lock_path: Path) -> None:
        self._session = session
        try:
            self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeviceError(f"replay: {lock_path}: {error.strerror or error}") from None
        self._outputs: dict[bytes, NDArray[np.float32]] = {}
        self._kept = 0
        self._passes: dict[Shapes, list[int]] = {}
        self._solo_ns: dict[Shapes, int] = {}
        self._told: dict[str, Any] = {**session.facts, "replayed": True, "rehearsed": 0, "computed": 0}
        self.facts: Mapping[str, Any] = self._told
        with suppress(OSError, AttributeError):  # Linux: timers to the microsecond
            ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)

    def rehearse(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Run alone on the machine; keep output and time."""
        key, shapes = _key(inputs)
        self._told["computed"] = 0
        if (known := self._outputs.get(key)) is not None:
            return known
        times = self._passes.setdefault(shapes, [])
        with self._alone():
            output = self._session.run(inputs)  # caches are warm from here on
            for _ in range(PASSES):
                start = time.perf_counter_ns()
                output = self._session.run(inputs)
                times.append(time.perf_counter_ns() - start)
        self._solo_ns[shapes] = solo = round(statistics.median(times))
        if self._kept + output.nbytes <= KEPT_BYTES:
            self._outputs[key] = output
            self._kept += output.nbytes
        self._told.update(rehearsed=len(self._outputs), solo_ms=solo / 1e6)
        return output

    def run(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        start = time.perf_counter_ns()
        key, shapes = _key(inputs)
        known = self._outputs.get(key)
        if known is None:
            self._told["computed"] += 1
            with self._alone():
                return self._session.run(inputs)
        _until(start + self._solo_ns[shapes])
        return known

    def close(self) -> None:
        self._session.close()
        os.close(self._lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)  # what some sessions have: device_memory

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def _key(inputs: Sequence[NDArray[Any]]) -> tuple[bytes, Shapes]:
    import numpy as np

    digest = hashlib.blake2b(digest_size=16)
    for one in inputs:
        digest.update(f"{one.dtype.str}{one.shape}".encode())
        digest.update(np.ascontiguousarray(one).data)
    return digest.digest(), tuple(one.shape for one in inputs)


def _until(due_ns: int) -> None:
    """Sleep to just before, then watch the clock."""
    while (left := due_ns - time.perf_counter_ns()) > 0:
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / 1e9)

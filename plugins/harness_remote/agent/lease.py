"""The lease of a board: one holder at a time, for a limited time, on a clock that cannot jump."""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_urlsafe

from harness.errors import DeviceError

__all__ = ["LEAST_S", "MOST_S", "Leases"]

LEAST_S, MOST_S = 1.0, 12 * 3600.0  # a detached measurement may be long
_HOLDER_LENGTH = 100


@dataclass
class _Lease:
    """A lease. ``until`` is in seconds of the clock."""

    id: str
    holder: str
    until: float


class Leases:
    """The board's only lease. Any thread may use the object.

    A lease that has timed out is no longer valid. :meth:`lapsed` is then true until the next lease is given.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: _Lease | None = None

    def acquire(self, holder: str, seconds: float) -> tuple[str, float]:
        """Return a new lease's id, and the seconds for which it is valid.

        Raises:
            DeviceError: someone holds the board (the message says who, and for how long), or ``seconds`` is not a
                positive finite number.
        """
        holds_s = _within(seconds)
        with self._lock:
            now = self._clock()
            if (lease := self._lease) is not None and lease.until > now:
                left = math.ceil(lease.until - now)
                raise DeviceError(
                    f"the board is held by {lease.holder} for {left} s more, unless they renew it"
                )
            self._lease = _Lease(token_urlsafe(32), _name(holder), now + holds_s)
            return self._lease.id, holds_s

    def renew(self, id: str, seconds: float) -> float:
        """Let the lease last for ``seconds`` from now, and return the seconds that were granted.

        Raises:
            DeviceError: ``id`` is not the valid lease, or ``seconds`` is not a positive finite number.
        """
        holds_s = _within(seconds)
        with self._lock:
            if not self._holds(id):
                raise DeviceError("the lease has lapsed, or is another's: acquire the board again")
            assert self._lease is not None
            self._lease.until = self._clock() + holds_s
            return holds_s

    def release(self, id: str) -> bool:
        """End the lease. Return whether ``id`` held the board."""
        with self._lock:
            held = self._holds(id)
            if held:
                self._lease = None
            return held

    def holds(self, id: str) -> bool:
        """Return whether ``id`` is the valid lease. The time that this takes depends only on the length of ``id``."""
        with self._lock:
            return self._holds(id)

    def held(self) -> bool:
        """Return whether anyone holds the board."""
        with self._lock:
            return self._lease is not None and self._lease.until > self._clock()

    def lapsed(self) -> bool:
        """Return whether the last lease timed out without a release, so that its holder's worker may be ended."""
        with self._lock:
            return self._lease is not None and self._lease.until <= self._clock()

    def _holds(self, id: str) -> bool:
        lease = self._lease
        same = hmac.compare_digest(id.encode(errors="replace"), (lease.id if lease else "none").encode())
        return same and lease is not None and lease.until > self._clock()


def _within(seconds: float) -> float:
    """Return the seconds within the allowed range. Raises ``DeviceError`` if they are not positive and finite."""
    if not seconds > 0 or math.isinf(seconds):
        raise DeviceError(f"a lease is held for {LEAST_S:g} to {MOST_S:g} seconds, not {seconds}")
    return min(max(seconds, LEAST_S), MOST_S)


def _name(holder: str) -> str:
    """Return a holder's name as one short printable line, because others see it."""
    return "".join(c if c.isprintable() else "?" for c in holder[:_HOLDER_LENGTH]).strip() or "someone"

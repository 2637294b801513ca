"""One holder of a board at a time, for a limited time, on a clock that cannot jump."""

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

LEAST_S, MOST_S = 1.0, 12 * 3600.0  # a measurement that is detached may be long
_HOLDER_LENGTH = 100


@dataclass
class _Lease:
    id: str
    holder: str
    until: float


class Leases:
    """The board's one lease. Any thread may use it.

    A lease that has run out holds no more; :meth:`lapsed` tells it until the next one is given.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lease: _Lease | None = None

    def acquire(self, holder: str, seconds: float) -> tuple[str, float]:
        """A new lease's id, and for how long it is given.

        Raises:
            DeviceError: someone holds the board (who, and for how long still), or ``seconds`` is no time.
        """
        given = _within(seconds)
        with self._lock:
            now = self._clock()
            if (lease := self._lease) is not None and lease.until > now:
                left = math.ceil(lease.until - now)
                raise DeviceError(
                    f"the board is held by {lease.holder} for {left} s more, unless they renew it"
                )
            self._lease = _Lease(token_urlsafe(32), _name(holder), now + given)
            return self._lease.id, given

    def renew(self, id: str, seconds: float) -> float:
        """From now on for ``seconds``; returns what is given. Raises ``DeviceError`` where ``id`` does not hold."""
        given = _within(seconds)
        with self._lock:
            if not self._holds(id):
                raise DeviceError("the lease has lapsed, or is another's: acquire the board again")
            assert self._lease is not None
            self._lease.until = self._clock() + given
            return given

    def release(self, id: str) -> bool:
        """Give the board back; false where ``id`` did not hold it."""
        with self._lock:
            held = self._holds(id)
            if held:
                self._lease = None
            return held

    def holds(self, id: str) -> bool:
        """Whether ``id`` is the lease that holds now; takes as long for any ``id`` of one length."""
        with self._lock:
            return self._holds(id)

    def held(self) -> bool:
        """Whether anyone holds the board."""
        with self._lock:
            return self._lease is not None and self._lease.until > self._clock()

    def lapsed(self) -> bool:
        """Whether the last lease ran out without being given back: what its holder left behind may go."""
        with self._lock:
            return self._lease is not None and self._lease.until <= self._clock()

    def _holds(self, id: str) -> bool:
        lease = self._lease
        same = hmac.compare_digest(id.encode(errors="replace"), (lease.id if lease else "none").encode())
        return same and lease is not None and lease.until > self._clock()


def _within(seconds: float) -> float:
    if not seconds > 0 or math.isinf(seconds):
        raise DeviceError(f"a lease is held for {LEAST_S:g} to {MOST_S:g} seconds, not {seconds}")
    return min(max(seconds, LEAST_S), MOST_S)


def _name(holder: str) -> str:
    """As it may stand in another's message: one short line."""
    return "".join(c if c.isprintable() else "?" for c in holder[:_HOLDER_LENGTH]).strip() or "someone"

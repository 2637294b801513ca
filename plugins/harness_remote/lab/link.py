"""The link model: when each byte that is sent arrives. It is pure arithmetic, which ``relay.py`` applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LinkModel", "Port"]


@dataclass
class Port:
    """One direction of a switch's port or of a wire. At ``free_at`` it has sent everything that it took so far."""

    free_at: float = 0.0


@dataclass(frozen=True)
class LinkModel:
    """The link from one board to another, through ``ports`` of ``rate`` bits per second (``None``: no limit).

    A chunk is due ``delay`` + 8 bytes / rate after it was sent, later where a port is still busy: ports pass
    on what they begin to receive, so that a chunk takes its time on the wire once, and each is busy for it.
    """

    rate: float | None
    delay: float
    ports: Sequence[Port]

    def due(self, now: float, size: int) -> float:
        """Send ``size`` bytes at ``now``, and return when the last of them arrives."""
        takes = 8 * size / self.rate if self.rate else 0.0
        start = now
        for port in self.ports:
            start = max(start, port.free_at)
            port.free_at = start + takes
        return start + takes + self.delay

    def ahead(self, now: float) -> float:
        """Return for how long from ``now`` the link is busy."""
        return max(0.0, *(port.free_at - now for port in self.ports)) if self.ports else 0.0

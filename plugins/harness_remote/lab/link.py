"""The link model: the time at which each sent byte arrives. It is pure arithmetic, which ``relay.py`` applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LinkModel", "Port"]


@dataclass
class Port:
    """One direction of a switch's port or of a wire. At ``free_at`` (seconds) all bytes that it took are sent."""

    free_at: float = 0.0


@dataclass(frozen=True)
class LinkModel:
    """The link from one board to another, through ``ports`` of ``rate`` bits per second (``None``: no limit).

    A chunk arrives ``delay`` seconds + 8 x bytes / rate after it was sent, or later if a port is busy. Ports forward
    bytes while they receive them, so a chunk takes its time on the wire only once. Each port is busy for that time.
    """

    rate: float | None
    delay: float
    ports: Sequence[Port]

    def due(self, now: float, size: int) -> float:
        """Send ``size`` bytes at ``now``, and return the time at which the last byte arrives, in seconds."""
        takes = 8 * size / self.rate if self.rate else 0.0
        start = now
        for port in self.ports:
            start = max(start, port.free_at)
            port.free_at = start + takes
        return start + takes + self.delay

    def ahead(self, now: float) -> float:
        """Return the seconds from ``now`` for which the link is busy."""
        return max(0.0, *(port.free_at - now for port in self.ports)) if self.ports else 0.0

"""The part of a suite that a run is limited to."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Methods that match one of some patterns, on some devices.

    ``only``: the patterns; empty for all methods. ``devices``: their names in the suite; empty for all.
    """

    only: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Return whether the run is not limited."""
        return not self.only and not self.devices

    def covers(self, method: str, device: str | None) -> bool:
        """Return whether cells of ``method`` on ``device`` are selected."""
        if self.only and not any(fnmatchcase(method, pattern) for pattern in self.only):
            return False
        return not self.devices or device in self.devices

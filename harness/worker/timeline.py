"""The end times of steps that share devices and links.

Each device, and each direction of a link, does one step at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

__all__ = ["Step", "ends"]


@dataclass(frozen=True)
class Step:
    """One computation or transfer.

    It begins when all steps of ``after`` have ended and ``resource`` is free, and keeps the resource busy for
    ``busy``. Its result is available ``latency`` later.
    """

    name: Hashable
    resource: Hashable
    after: tuple[Hashable, ...]
    busy: float
    latency: float = 0.0


def ends(steps: Iterable[Step]) -> dict[Hashable, float]:
    """Return the end time of each step by name. Time begins at 0.

    A resource serves its steps in the order of ``steps``. Each step comes after the steps for which it waits. Times
    have the unit of ``busy`` and ``latency``.
    """
    free: dict[Hashable, float] = {}
    end: dict[Hashable, float] = {}
    for step in steps:
        ready = max((end[name] for name in step.after), default=0.0)
        free[step.resource] = max(ready, free.get(step.resource, 0.0)) + step.busy
        end[step.name] = free[step.resource] + step.latency
    return end

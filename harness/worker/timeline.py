"""When steps end that share devices and links: each device, and each way of a link, does one thing at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

__all__ = ["Step", "ends"]


@dataclass(frozen=True)
class Step:
    """One computation or transfer.

    It begins when all steps of ``after`` have ended and ``resource`` is free, and keeps the resource busy for
    ``busy``. It ends ``latency`` after that.
    """

    name: Hashable
    resource: Hashable
    after: tuple[Hashable, ...]
    busy: float
    latency: float = 0.0


def ends(steps: Iterable[Step]) -> dict[Hashable, float]:
    """Return when each step ends, by name, from 0 on. A resource serves its steps in the order of ``steps``.

    ``steps`` names each step after those that it waits for. Times have the unit of ``busy`` and ``latency``.
    """
    free: dict[Hashable, float] = {}
    end: dict[Hashable, float] = {}
    for step in steps:
        ready = max((end[name] for name in step.after), default=0.0)
        free[step.resource] = max(ready, free.get(step.resource, 0.0)) + step.busy
        end[step.name] = free[step.resource] + step.latency
    return end

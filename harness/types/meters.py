"""Meters of power and energy, and what tells the state of a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["SCOPES", "Log", "Meter", "MeterInfo", "MeterUse", "Monitor", "Provenance", "Scope", "Watch"]

Provenance = Literal["measured", "fitted", "modelled", "emulated", "simulated", "published"]

Scope = Literal["wall", "board", "rails", "package", "gpu"]

SCOPES: tuple[Scope, ...] = ("wall", "board", "rails", "package", "gpu")
"""What a meter's joules hold, the widest first."""


@dataclass(frozen=True, kw_only=True)
class MeterInfo:
    """A meter that answers every query it needs.

    ``name``: unique on its machine, like ``powercap:package``. ``watches``: the thing whose energy it reads;
    two meters of one scope that watch the same thing are checked against each other, never added; ``THING/part``
    is a part of it, which no board shows for the whole.
    ``period_s``: how often the reading changes. ``averaging_s``: a power reading is the mean over this
    time before it; 0 for a momentary one. ``calibration``: greatest relative error that the maker states
    (0.01 is 1%), ``None`` where none is stated. ``host``: the machine that reads it, as ssh calls it;
    empty for this one. ``details``: JSON, all that ``open`` needs, and what a record should say.
    """

    name: str
    scope: Scope
    watches: str
    provenance: Provenance
    quantity: Literal["energy", "power"]
    period_s: float
    averaging_s: float = 0.0
    calibration: float | None = None
    host: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Meter(Protocol):
    """An opened meter, read again and again. It is used from one thread of a process of its own."""

    def read(self) -> tuple[int, float]:
        """(``time.monotonic_ns()``, joules since an arbitrary start | watts).

        A counter that wraps is unwrapped here. Raises ``OSError`` or ``HarnessError`` when the meter is gone.
        """
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """An opened meter that keeps its own log: it streams, or another program writes it.

    ``clock_error_s``, an attribute that it may have, bounds by how much the times of its last answer may be off.
    """

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """(monotonic nanoseconds, joules | watts) from ``begin_ns`` to ``end_ns``, waiting a little for the last.

        ``load`` is when the load began and ended, a step by which a log of unknown clock can be aligned.
        """
        ...

    def close(self) -> None: ...


Watch = Callable[[], Mapping[str, Any]]
"""Reads the machine's state now, and is closed if it has a ``close``: JSON, with these keys where they are known, and others as they come.

``temperature_c`` (the hottest sensor), ``mhz`` (the clock that matters), ``throttle`` (a list of causes at
work now, like ``["thermal"]``), ``power_cap`` (true where only a power limit holds the clock), ``power_mode``.
"""


@dataclass(frozen=True, kw_only=True)
class MeterUse:
    """A meter to read, and the function that opens it ("module:function")."""

    info: MeterInfo
    open: str


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """What is read beside a device's load: meters, and watches of the machine's state (name -> "module:function")."""

    meters: tuple[MeterUse, ...] = ()
    watches: Mapping[str, str] = field(default_factory=dict)

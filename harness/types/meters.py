"""Meters of power and energy, and watches of a machine's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness.types.json import Facts, Signals

__all__ = ["SCOPES", "Log", "Meter", "MeterInfo", "MeterUse", "Monitor", "Provenance", "Scope", "Watch"]

Provenance = Literal["measured", "fitted", "modelled", "emulated", "simulated", "published"]

Scope = Literal["wall", "board", "rails", "package", "gpu"]

SCOPES: tuple[Scope, ...] = ("wall", "board", "rails", "package", "gpu")
"""What a meter's joules include, the widest first."""


@dataclass(frozen=True, kw_only=True)
class MeterInfo:
    """A meter that answers every query it needs.

    ``name``: unique on its machine, like ``powercap:package``. ``watches``: the thing whose energy it reads.
    Two meters of one scope that watch the same thing are checked against each other, never added. ``THING/part``
    is a part of a thing, whose joules no leaderboard shows for the whole.
    ``period_s``: how often the reading changes. ``averaging_s``: a power reading is the mean over this
    time before it; 0 for a momentary one. ``calibration``: greatest relative error that the maker states
    (0.01 is 1%), or None where none is stated. ``host``: the machine that reads the meter, as ssh names it;
    empty for this one. ``details``: JSON, all that ``open`` needs and a record should contain.
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
    details: Facts = field(default_factory=dict)


class Meter(Protocol):
    """An opened meter that is read repeatedly, from one thread of a process of its own."""

    def read(self) -> tuple[int, float]:
        """Return ``time.monotonic_ns()``, and joules since an arbitrary start or watts.

        A counter that wraps is unwrapped here. Raises ``OSError`` or ``HarnessError`` when the meter is gone.
        """
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """An opened meter that keeps its own log: it streams, or another program writes the log.

    It may have an attribute ``clock_error_s``: the greatest error of the times in its last answer.
    """

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """Return (monotonic nanoseconds, joules or watts) from ``begin_ns`` to ``end_ns``; wait a little for the last.

        ``load`` is when the load began and ended, a step by which a log of an unknown clock can be aligned.
        """
        ...

    def close(self) -> None: ...


Watch = Callable[[], Signals]
"""Reads the machine's state now, as JSON. It is closed if it has a ``close``. Keys, where they are known:

``temperature_c`` (the hottest sensor), ``mhz`` (the clock that matters), ``throttle`` (a list of causes at
work now, like ``["thermal"]``), ``power_cap`` (true where only a power limit lowers the clock), ``power_mode``. Others
are kept too.
"""


@dataclass(frozen=True, kw_only=True)
class MeterUse:
    """A meter to read, and the function that opens it ("module:function")."""

    info: MeterInfo
    open: str


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """What is read while a device is measured: meters, and watches of its state (name -> "module:function")."""

    meters: tuple[MeterUse, ...] = ()
    watches: Mapping[str, str] = field(default_factory=dict)

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
"""The scopes of meters: what their joules include, the widest first."""


@dataclass(frozen=True, kw_only=True)
class MeterInfo:
    """A meter that answers every query it needs.

    ``name``: unique on its machine, for example ``powercap:package``. ``watches``: the thing whose energy it reads.
    Two meters of one scope that watch the same thing are checked against each other, never added. ``THING/part`` is a
    part of a thing, whose joules no leaderboard shows for the whole. ``period_s``: how often the reading changes.
    ``averaging_s``: a power reading is the mean over this time before it; 0 for a momentary one. ``calibration``:
    greatest relative error that the maker states (0.01 is 1%), or None if none is stated. ``host``: ssh's name of the
    machine that reads the meter; empty for this one. ``details``: JSON with everything that ``open`` needs and that a
    record should contain.
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
        """Return ``time.monotonic_ns()``, and joules since an arbitrary start, or watts.

        A counter that wraps is unwrapped here.

        Raises:
            OSError, HarnessError: the meter cannot be read any more.
        """
        ...

    def close(self) -> None:
        """Close the meter."""
        ...


class Log(Protocol):
    """An opened meter with a log: the meter streams its readings, or another program writes the log.

    It may have an attribute ``clock_error_s``: the greatest error of the times in its last answer.
    """

    def fetch(self, begin_ns: int, end_ns: int, load: tuple[int, int]) -> Sequence[tuple[int, float]]:
        """Return (monotonic nanoseconds, joules or watts) from ``begin_ns`` to ``end_ns``.

        Wait shortly for the last one. ``load`` is the begin and end of the workload. A log with an unknown clock can
        be aligned by this step of power.
        """
        ...

    def close(self) -> None:
        """Close the log."""
        ...


Watch = Callable[[], Signals]
"""A function that returns the machine's present state as JSON. If it has a ``close``, it is closed. Keys, if known:

``temperature_c`` (the hottest sensor), ``mhz`` (the clock that matters), ``throttle`` (a list of causes at
work now, like ``["thermal"]``), ``power_cap`` (true if only a power limit lowers the clock), ``power_mode``. Others
are kept too.
"""


@dataclass(frozen=True, kw_only=True)
class MeterUse:
    """A meter to read, and the function that opens it ("module:function")."""

    info: MeterInfo
    open: str


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """The meters and watches that are read while a device is measured. Watches are name -> "module:function"."""

    meters: tuple[MeterUse, ...] = ()
    watches: Mapping[str, str] = field(default_factory=dict)

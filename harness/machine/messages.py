"""The messages between a sampler and a process that reads meters: one JSON line for a request, one for its answer.

Each request names the type of its answer. The process may be on another host, so each line is checked when it is
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from harness.types import MeterUse
from harness.types.json import Signals
from harness.types.plain import from_json, to_json

__all__ = [
    "MeterLog",
    "Now",
    "Open",
    "Opened",
    "Request",
    "Seen",
    "Start",
    "Started",
    "State",
    "States",
    "Stop",
    "Stopped",
    "Time",
    "line_of",
    "read_answer",
    "read_request",
]

A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")


class Seen(NamedTuple):
    """The signals that a watch (``source``) read at one moment, in nanoseconds of its host's monotonic clock."""

    ns: int
    source: str
    signals: Signals


@dataclass(frozen=True)
class MeterLog:
    """The readings of one meter: nanoseconds of its host's monotonic clock, and joules or watts.

    ``error`` says why it ended early. ``clock_error_s`` is the greatest error of the times that a log states, in
    seconds.
    """

    ns: list[int]
    value: list[float]
    error: str = ""
    clock_error_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.ns) != len(self.value):
            raise ValueError(f"{len(self.ns)} times of {len(self.value)} readings")


# --- answers ---


@dataclass(frozen=True)
class Opened:
    """The reason for each meter or watch that cannot be opened, by name."""

    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Time:
    """The monotonic time of the reading process's host, in nanoseconds."""

    now: int


@dataclass(frozen=True)
class Started:
    """The answer that reading has begun."""


@dataclass(frozen=True)
class States:
    """The latest signals of every watch that has read."""

    states: list[Signals] = field(default_factory=list)


@dataclass(frozen=True)
class Stopped:
    """The readings of each meter, and the signals of each watch over time.

    ``failed`` has the reason for each watch that ended early.
    """

    meters: Mapping[str, MeterLog] = field(default_factory=dict)
    states: list[Seen] = field(default_factory=list)
    failed: Mapping[str, str] = field(default_factory=dict)


# --- requests ---


class Request(Generic[A_co]):
    """A request to which the reading process answers with an ``A``.

    ``do`` is its word in JSON, and ``answer`` is the type of the answer.
    """

    do: ClassVar[str]
    answer: ClassVar[type[Any]]


@dataclass(frozen=True)
class Open(Request[Opened]):
    """Open meters and watches (name -> "module:function")."""

    do = "open"
    answer = Opened
    meters: tuple[MeterUse, ...]
    watches: Mapping[str, str]


@dataclass(frozen=True)
class Now(Request[Time]):
    """State the time."""

    do = "now"
    answer = Time


@dataclass(frozen=True)
class Start(Request[Started]):
    """Forget earlier samples, and begin to read."""

    do = "start"
    answer = Started


@dataclass(frozen=True)
class State(Request[States]):
    """State the latest signals, while reading."""

    do = "state"
    answer = States


@dataclass(frozen=True)
class Stop(Request[Stopped]):
    """End reading. A log is fetched from ``begin`` to ``end``; ``load`` is when the load began and ended."""

    do = "stop"
    answer = Stopped
    begin: int
    end: int
    load: tuple[int, int]


_REQUESTS: Mapping[str, type[Request[Any]]] = {kind.do: kind for kind in (Open, Now, Start, State, Stop)}


def line_of(message: object) -> str:
    """Return the line of a request or an answer, with its end."""
    word = {"do": message.do} if isinstance(message, Request) else {}
    return json.dumps({**word, **to_json(message)}) + "\n"


def read_request(line: str) -> Request[Any]:
    """Return the request in a line.

    Raises:
        ValueError: the line is no request.
    """
    read = json.loads(line)
    word = read.pop("do", None) if isinstance(read, dict) else None
    kind = _REQUESTS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise ValueError(f"do: one of {', '.join(_REQUESTS)}")
    return from_json(kind, read)


def read_answer(request: type[Request[A]], line: str) -> A:
    """Return the answer in a line to a request of type ``request``.

    Raises:
        ValueError: the line is no such answer.
    """
    answer: A = from_json(request.answer, json.loads(line))
    return answer

"""What travels over the pipe between a run and the processes that prepare."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types.plan import Node

__all__ = ["Done", "Failure", "Make", "Message", "Progress", "TimePreprocessing"]


@dataclass(frozen=True)
class Make:
    """Order: make the artifact of ``node``."""

    node: Node


@dataclass(frozen=True)
class TimePreprocessing:
    """Order: time the preprocessing of a test image of the data node ``node``."""

    node: Node


@dataclass(frozen=True)
class Progress:
    """An order is at work. ``fraction``: how much of it is done, 0 to 1, where known."""

    text: str
    fraction: float | None


@dataclass(frozen=True)
class Done:
    """An order is carried out. ``preprocess_ms``: answer to :class:`TimePreprocessing`, in milliseconds."""

    seconds: float
    preprocess_ms: float | None = None


@dataclass(frozen=True)
class Failure:
    """An order failed: the stage, the plugin whose code ran, the reason in one line, the traceback if any."""

    stage: str
    plugin: str
    reason: str
    trace: str = ""


Message = Progress | Done | Failure

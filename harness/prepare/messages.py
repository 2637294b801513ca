"""The messages over the pipe between a run and the processes that prepare."""

from __future__ import annotations

from dataclasses import dataclass

from harness.types.plan import Node

__all__ = ["Done", "Failure", "Make", "Message", "Note", "Progress", "TimePreprocessing"]


@dataclass(frozen=True)
class Make:
    """An order to make the artifact of ``node``."""

    node: Node


@dataclass(frozen=True)
class TimePreprocessing:
    """An order to measure the time to preprocess a test image of the data node ``node``."""

    node: Node


@dataclass(frozen=True)
class Progress:
    """A report about an order in progress.

    ``fraction`` is the share that is done, 0 to 1, or None if it is unknown.
    """

    text: str
    fraction: float | None


@dataclass(frozen=True)
class Note:
    """A person should know this: a damaged artifact or checkpoint, say. The order is still at work."""

    text: str


@dataclass(frozen=True)
class Done:
    """An order is complete. ``preprocess_ms`` is the answer to :class:`TimePreprocessing`, in milliseconds."""

    seconds: float
    preprocess_ms: float | None = None


@dataclass(frozen=True)
class Failure:
    """An order failed: the stage, the plugin whose code ran, a one-line reason, and the traceback if there is one.

    ``plugin`` is empty if no plugin's code is at fault. ``traceback`` is the name of the file in the results folder
    that has the traceback, or "".
    """

    stage: str
    plugin: str
    reason: str
    trace: str = ""
    traceback: str = ""


Message = Progress | Note | Done | Failure

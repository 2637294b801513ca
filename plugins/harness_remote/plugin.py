"""Boards over the network: backends ``raspberry-pi``, ``jetson`` and ``agent``."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import BackendEntry

__all__ = ["harness_backends"]


@hookimpl
def harness_backends() -> Iterable[BackendEntry]:
    return ()

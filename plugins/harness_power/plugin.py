"""The meters, one module each."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import MeterEntry
from harness_power import csv_log, joulescope, monsoon

__all__ = ["harness_meters"]


@hookimpl
def harness_meters() -> Iterable[MeterEntry]:
    return (csv_log.ENTRY, joulescope.ENTRY, monsoon.ENTRY)

"""The meters, one module each."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import MeterEntry
from harness_power import ina2xx, ina3221, jtop

__all__ = ["harness_meters"]


@hookimpl
def harness_meters() -> Iterable[MeterEntry]:
    return (ina3221.ENTRY, jtop.ENTRY, ina2xx.ENTRY)

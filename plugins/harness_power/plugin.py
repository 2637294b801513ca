"""The meters, one module each."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import MeterEntry
from harness_power import ina2xx, ina3221, jtop, nvml, powercap, pyrapl, raspberry_pi

__all__ = ["harness_meters"]


@hookimpl
def harness_meters() -> Iterable[MeterEntry]:
    return (ina2xx.ENTRY, ina3221.ENTRY, jtop.ENTRY, nvml.ENTRY, powercap.ENTRY, pyrapl.ENTRY, raspberry_pi.ENTRY)

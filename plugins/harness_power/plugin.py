"""The hook that lists the meters. Each meter is one module."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hookspecs import hookimpl
from harness.types import MeterEntry
from harness_power import (
    csv_log,
    ina2xx,
    ina3221,
    joulescope,
    jtop,
    monsoon,
    nvml,
    powercap,
    pyrapl,
    raspberry_pi,
)

__all__ = ["harness_meters"]


@hookimpl
def harness_meters() -> Iterable[MeterEntry]:
    """Return the entries of all meters of this plugin."""
    return (
        csv_log.ENTRY,
        ina2xx.ENTRY,
        ina3221.ENTRY,
        joulescope.ENTRY,
        jtop.ENTRY,
        monsoon.ENTRY,
        nvml.ENTRY,
        powercap.ENTRY,
        pyrapl.ENTRY,
        raspberry_pi.ENTRY,
    )

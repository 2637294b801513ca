"""External meters: they watch a board, and are read from this host or another while the board measures.

The board's spans are converted to this host's clock. The error of the conversion is part of every reading's
uncertainty.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.machine.energy.durations import Durations, lengthened
from harness.machine.sampler import Sampler
from harness.types import Clock, DeviceReport, Metering, MeterUse, Monitor, Workload
from harness.worker.report import device_report

__all__ = ["External"]


class External:
    """The external meters of one board."""

    def __init__(self, meters: tuple[MeterUse, ...]) -> None:
        self._sampler = Sampler(Monitor(meters=meters)) if meters else None
        self._began = 0
        self._infos = tuple(use.info for use in meters)
        self._settle_s = Durations.of(self._infos).settle_s

    def prepared(self, workload: Workload) -> Workload:
        """Return the workload with an idle time and a window that are long enough for these meters."""
        return lengthened(workload, self._infos)

    def begin(self) -> None:
        """Start to read the meters."""
        if self._sampler is not None:
            self._sampler.start()
            self._began = time.monotonic_ns()

    def end(
        self,
        spans: Mapping[str, tuple[int, int]],
        clock: Clock,
        images: int,
        metering: Metering | None = None,
        mean_latency_s: float | None = None,
    ) -> DeviceReport:
        """Return the report of the meters since :meth:`begin`.

        ``spans`` are in monotonic ns of the board's clock, and so are the raw samples in the report. Idle spans begin
        after the readings have settled. ``mean_latency_s`` is the mean time per image.
        """
        if self._sampler is None:
            return DeviceReport()
        settle = int(self._settle_s * 1e9)
        here = {
            name: (begin - clock.offset_ns + (0 if name == "load" else settle), end - clock.offset_ns)
            for name, (begin, end) in spans.items()
            if name == "load" or end - begin > settle
        }
        seen = device_report(
            self._sampler, self._began, here, clock.error_ns, images, {}, metering, mean_latency_s
        )
        return replace(seen, meters=_shifted(seen.meters, clock.offset_ns))

    def close(self) -> None:
        """End the sampler."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.close()


def _shifted(meters: Mapping[str, Any], offset_ns: int) -> dict[str, Any]:
    """Return raw samples in the board's clock, without the spans, which the board's own worker reports."""
    return {
        name: values + offset_ns if name.startswith("meter_ns:") else values
        for name, values in meters.items()
        if not name.startswith("span_ns:")
    }

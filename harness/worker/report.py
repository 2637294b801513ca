"""Make the report of a device from the samples of its meters and watches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.machine.energy.reading import Series, Span, cross_check, read_window
from harness.machine.sampler import Sampled, Sampler
from harness.machine.state import over_time
from harness.types import DeviceReport, Metering, Reading

__all__ = ["device_report", "readings_of", "report_of", "series_of"]


def device_report(
    sampler: Sampler | None,
    began_ns: int,
    spans: Mapping[str, tuple[int, int]],
    clock_error_ns: int,
    images: int,
    memory: Mapping[str, int],
    metering: Metering | None = None,
    mean_latency_s: float | None = None,
) -> DeviceReport:
    """Stop the sampler, and return the report of another worker's window. The sampler began to read at ``began_ns``.

    Args:
        spans: ``load``, and ``before`` and ``after`` if there was idle time, in nanoseconds of this machine's clock,
            within ``clock_error_ns``. The uncertainty of the readings includes that error.
        images: the number of images that were answered in the window.
        metering: the rules for the readings.
        mean_latency_s: the mean latency in seconds, which the preset ``devit`` needs.
    """
    if sampler is None:
        return DeviceReport(memory=memory)
    sampled = sampler.stop(began_ns, time.monotonic_ns(), spans["load"])
    own = {name: Span(*span) for name, span in spans.items()}
    series = [
        replace(meter, clock_error_s=meter.clock_error_s + clock_error_ns / 1e9)
        for meter in series_of(sampled)
    ]
    readings = readings_of(series, own, images, metering or Metering(), mean_latency_s)
    return report_of(sampled, own, own["load"], readings, memory)


def report_of(
    sampled: Sampled,
    spans: Mapping[str, Span],
    loaded: Span,
    readings: Sequence[Reading],
    memory: Mapping[str, int],
) -> DeviceReport:
    """Return the report of a device. ``loaded`` is the span over which states are summarised."""
    raw: dict[str, NDArray[Any]] = {}
    for meter in series_of(sampled):
        raw |= {f"meter_ns:{meter.info.name}": meter.ns, f"meter_value:{meter.info.name}": meter.value}
    if raw:
        raw |= {
            f"span_ns:{name}": np.array([span.begin_ns, span.end_ns], np.int64)
            for name, span in spans.items()
        }
    return DeviceReport(
        memory=memory,
        energy=tuple(readings),
        meters=raw,
        states=over_time(sampled.states, loaded.begin_ns, loaded.end_ns),
        problems=tuple(sampled.problems),
    )


def readings_of(
    series: Sequence[Series],
    spans: Mapping[str, Span],
    images: int,
    metering: Metering,
    mean_latency_s: float | None,
) -> tuple[Reading, ...]:
    """Return each meter's reading of the span ``load``, compared with other meters of the same thing."""
    readings = [
        read_window(
            meter,
            spans["load"],
            spans.get("before"),
            spans.get("after"),
            images,
            method=metering.method,
            mean_latency_s=mean_latency_s,
            error=metering.error,
        )
        for meter in series
    ]
    return tuple(cross_check(readings))


def series_of(sampled: Sampled) -> list[Series]:
    """Return the samples of each meter as arrays."""
    return [
        Series(
            info=meter.info,
            ns=np.array(meter.ns, np.int64),
            value=np.array(meter.value, np.float64),
            error=meter.error,
            clock_error_s=meter.clock_error_s,
        )
        for meter in sampled.meters
    ]

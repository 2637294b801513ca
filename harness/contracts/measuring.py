"""Contracts of an opened device: the samples of a window, reports, and the answers to images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np

from harness.contracts.need import Need
from harness.types import Clock, DeviceReport, LatencyTrace, Provenance, Reading, Samples, WarmUp, Workload
from harness.types.meters import SCOPES

__all__ = ["check_answers", "check_clock", "check_report", "check_samples"]

LEAST_NS = 100
"""Median latency in nanoseconds below which latencies have another unit. A call of a function takes longer."""
LEAST_SHARE = 1 / 200
"""Least share of a closed loop's window that its latencies fill. Microseconds fill a thousandth."""
SLACK = 1.001
LEAST_MEMORY = 4096
"""Least size of a process in bytes, one page. A size in MB is smaller."""
MOST_BYTES = 2**50
MOST_W = 1e7
MEMORY = ("process_peak_bytes", "baseline_bytes")


def check_samples(need: Need, samples: Any, workload: Workload) -> None:
    """Check the samples of a window of ``workload``: types, lengths, and the range of each time."""
    need(isinstance(samples, Samples), f"measure gave {type(samples).__name__}", "measure gives Samples")
    trace, warmup = samples.trace, samples.warmup
    need(isinstance(trace, LatencyTrace), f"trace is {type(trace).__name__}", "Samples.trace: a LatencyTrace")
    need(isinstance(warmup, WarmUp), f"warmup is {type(warmup).__name__}", "Samples.warmup: a WarmUp")
    _check_latencies(need, trace, workload)
    n = len(trace.latency_ns)
    _check_times(need, "warmup.latency_ns", warmup.latency_ns)
    for field in ("queue_ns", "late_ns"):
        values = getattr(trace, field)
        if values is not None:
            _check_times(need, field, values)
            need(
                len(values) == n,
                f"{field} has {len(values)} values of {n}",
                f"LatencyTrace.{field}: one a query",
            )
    need(
        _is_count(samples.first_ns) and samples.first_ns > 0,
        f"first_ns is {samples.first_ns!r}",
        "nanoseconds",
    )
    wanted = workload.streams if workload.scenario == "multi-stream" else workload.batch
    need(
        samples.batch == wanted,
        f"batch is {samples.batch!r}, not {wanted}",
        "Samples.batch: images of a query",
    )
    for name, value in samples.environment.items():
        need(_is_number(value), f"environment has {name} {value!r}", "Samples.environment: numbers")
    for name, span in samples.spans.items():
        right = len(span) == 2 and all(_is_count(ns) for ns in span) and span[0] <= span[1]
        need(right, f"span {name} is {span!r}", "Samples.spans: begin and end in nanoseconds")
    for name, values in samples.parts.timeline.items():
        is_times = isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1
        need(is_times, f"timeline {name} is {_kind(values)}", "PartTrace.timeline: int64 [n] in nanoseconds")
    for name, size in samples.parts.traffic.items():
        need(_is_count(size), f"traffic has {name} {size!r}", "PartTrace.traffic: whole numbers of bytes")
    check_report(need, samples.here, "measure")


def check_report(need: Need, report: Any, function: str = "end") -> None:
    """Check the report of a device about a window."""
    is_report = isinstance(report, DeviceReport)
    need(is_report, f"{function} gave {type(report).__name__}", f"{function} gives a DeviceReport")
    for name, size in report.memory.items():
        least = LEAST_MEMORY if name in MEMORY else 0
        right = _is_count(size) and least <= size < MOST_BYTES
        question = "; is it in MB?" if _is_number(size) and 0 <= size < LEAST_MEMORY else ""
        need(right, f"memory has {name} {size!r}{question}", "DeviceReport.memory: bytes")
    for reading in report.energy:
        _check_reading(need, reading)
    lines = not isinstance(report.problems, str) and all(isinstance(line, str) for line in report.problems)
    need(lines, f"problems are {report.problems!r}", "DeviceReport.problems: lines")
    for name, values in report.meters.items():
        need(
            isinstance(values, np.ndarray),
            f"meters have {name} {_kind(values)}",
            "DeviceReport.meters: arrays",
        )


def check_answers(need: Need, answers: Any, n: int, classes: tuple[int, ...] | None) -> None:
    """Check the answers to ``n`` images: float32 [n, classes]. ``classes`` is the shape of one answer, if known."""
    right = isinstance(answers, np.ndarray) and answers.dtype == np.float32 and len(answers) == n
    right = right and (answers.ndim == 2 if classes is None else answers.shape[1:] == classes)
    wanted = "classes" if classes is None else ", ".join(map(str, classes))
    need(
        right,
        f"infer gave {_kind(answers)}, not float32 [{n}, {wanted}]",
        "Device.infer: logits [n, classes]",
    )


def check_clock(need: Need, clock: Any) -> None:
    """Check the offset of a device's clock."""
    need(isinstance(clock, Clock), f"clock gave {type(clock).__name__}", "clock gives a Clock")
    right = _is_whole(clock.offset_ns) and _is_count(clock.error_ns)
    need(right, f"clock gave {clock}", "Clock: whole nanoseconds, and an error from 0")


def _check_latencies(need: Need, trace: LatencyTrace, workload: Workload) -> None:
    latencies, window = trace.latency_ns, trace.window_ns
    contract = "LatencyTrace.latency_ns: int64 [n] in nanoseconds"
    _check_times(need, "latency_ns", latencies)
    need(len(latencies) > 0, "latency_ns is empty", contract)
    need(int(latencies.min()) > 0, f"latency_ns has {latencies.min()}", f"{contract}, above 0")
    median = float(np.median(latencies))
    need(median >= LEAST_NS, f"the median of latency_ns is {median:g} ns; is it in another unit?", contract)
    need(_is_count(window) and window > 0, f"window_ns is {window!r}", "LatencyTrace.window_ns: nanoseconds")
    need(
        isinstance(trace.reached, bool | np.bool_),
        f"reached is {trace.reached!r}",
        "LatencyTrace.reached: whether both minima were met",
    )
    _check_marks(need, trace)
    if workload.scenario == "server" or workload.generator != "harness":
        return
    total = int(latencies.sum())
    most = SLACK * window * workload.fleet.in_flight
    said = f"the latencies add up to {total / 1e9:.4g} s, and the window is {window / 1e9:.4g} s"
    need(total <= most, said, "LatencyTrace.window_ns: the length of a closed loop")
    need(total >= LEAST_SHARE * window, f"{said}; are they in microseconds?", contract)


def _check_marks(need: Need, trace: LatencyTrace) -> None:
    marks = trace.marks
    if marks is None:
        return
    right = isinstance(marks, np.ndarray) and marks.dtype == np.int64 and marks.shape[1:] == (3,)
    contract = "LatencyTrace.marks: int64 [k, 3], queries, nanoseconds and nanoseconds of CPU time so far"
    need(right, f"marks are {_kind(marks)}", contract)
    rising = bool((np.diff(marks, axis=0) >= 0).all()) and (not len(marks) or int(marks.min()) >= 0)
    need(rising, "marks do not rise", contract)
    last = int(marks[-1, 0]) if len(marks) else 0
    need(last <= len(trace.latency_ns), f"marks count {last} of {len(trace.latency_ns)} queries", contract)


def _check_reading(need: Need, reading: Any) -> None:
    """Check the figures of a meter against one another. A wrong unit of one figure breaks their relation."""
    need(
        isinstance(reading, Reading), f"energy has {type(reading).__name__}", "DeviceReport.energy: Readings"
    )
    who = f"meter {reading.meter!r}"
    need(reading.scope in SCOPES, f"{who}: scope is {reading.scope!r}", f"Reading.scope: {', '.join(SCOPES)}")
    known = get_args(Provenance)
    need(
        reading.provenance in known,
        f"{who}: provenance is {reading.provenance!r}",
        f"one of {', '.join(known)}",
    )
    figures = (
        "energy_gross_j",
        "energy_net_j",
        "power_gross_w",
        "idle_w",
        "energy_gross_mj",
        "energy_net_mj",
    )
    for field in figures:
        value = getattr(reading, field)
        need(value is None or _is_number(value), f"{who}: {field} is {value!r}", f"Reading.{field}: a number")
    joules, watts, seconds = reading.energy_gross_j, reading.power_gross_w, reading.window_s
    if watts is not None:
        need(abs(watts) <= MOST_W, f"{who}: power_gross_w is {watts:g}", "Reading.power_gross_w: watts")
    if joules is not None and watts is not None:
        said = f"{who}: {joules:g} J in {seconds:g} s are not {watts:g} W"
        need(_close(joules, watts * seconds), said, "Reading.energy_gross_j, power_gross_w: joules and watts")
    each = reading.energy_gross_mj
    if joules is not None and each is not None and reading.method != "devit" and reading.inferences:
        said = f"{who}: {joules:g} J for {reading.inferences} inferences are not {each:g} mJ each"
        need(
            _close(1e3 * joules, each * reading.inferences),
            said,
            "Reading.energy_gross_mj: mJ of one inference",
        )


def _check_times(need: Need, field: str, values: Any) -> None:
    is_times = isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1
    need(is_times, f"{field} is {_kind(values)}", f"{field}: int64 [n] in nanoseconds")
    need(not len(values) or int(values.min()) >= 0, f"{field} has {_least(values)}", f"{field}: from 0")


def _least(values: Iterable[Any]) -> Any:
    return min(values, default=None)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=0.01, abs_tol=1e-9)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return type(value).__name__


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and bool(value >= 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)

"""One measuring window: cool down, first inference, idle, warm up, workload, idle.

Meters and state are read throughout. Latency, energy and memory are from the same window. If a meter needs more time
for the uncertainty that a suite asks for, the window is lengthened and measured again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.machine import memory
from harness.machine.energy.durations import LONGEST_IDLE_S, ROUNDS, Durations
from harness.machine.energy.reading import Span, read_window
from harness.machine.sampler import Sampled, Sampler
from harness.machine.state import Window
from harness.types import DeviceReport, LatencyTrace, Reading, SustainedLoad, WarmUp, Workload
from harness.worker.loadgen.generate import generate
from harness.worker.loadgen.loop import first_query, warm_up
from harness.worker.loadgen.queries import Query, per_query
from harness.worker.report import readings_of, report_of, series_of

__all__ = ["Observed", "observe"]

TAIL = 0.25
"""Share of the sustained workload, at its end, whose figures count as sustained."""
COOL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The results of one window. ``peak`` is in bytes.

    ``spans`` has the workload under ``load``, and if meters read also ``before``, ``after`` and ``tail``. ``lasting``
    is the workload that continued after the window, and ``tail`` is its last quarter.
    """

    first_ns: int
    warm: WarmUp
    trace: LatencyTrace
    signals: Mapping[str, float]
    peak: int | None
    cooled: bool
    spans: Mapping[str, Span]
    sampled: Sampled = field(default_factory=Sampled)
    readings: tuple[Reading, ...] = ()
    lasting: LatencyTrace | None = None
    tail: LatencyTrace | None = None

    def report(self, memory: Mapping[str, int] | None = None) -> DeviceReport:
        """Return the report of the device. States are summarised over the whole workload."""
        end = self.spans.get("tail", self.spans["load"])
        loaded = Span(self.spans["load"].begin_ns, end.end_ns)
        return report_of(self.sampled, self.spans, loaded, self.readings, memory or {})

    def lasting_ns(self) -> NDArray[np.int64] | None:
        """Return the latencies of the whole workload that continued after the window, int64 [n] in nanoseconds."""
        if self.lasting is None or self.tail is None:
            return None
        return np.concatenate((self.lasting.latency_ns, self.tail.latency_ns))

    def sustained(self, workload: Workload) -> SustainedLoad | None:
        """Return the comparison of the window with the last quarter of the workload after it.

        It is None if the workload did not continue.
        """
        if self.lasting is None or self.tail is None:
            return None
        images = len(self.tail.latency_ns) * per_query(workload)
        tail = self.spans["tail"]
        power = [read_window(meter, tail, None, None, images) for meter in series_of(self.sampled)]
        burst, lasting = (float(np.median(load.latency_ns)) / 1e6 for load in (self.trace, self.tail))
        return SustainedLoad(
            seconds=(self.lasting.window_ns + self.tail.window_ns) / 1e9,
            tail_s=self.tail.window_ns / 1e9,
            burst_p50_ms=burst,
            p50_ms=lasting,
            slowdown=lasting / burst,
            throughput_ips=images / (self.tail.window_ns / 1e9),
            power_gross_w={reading.meter: reading.power_gross_w for reading in power},
        )


def observe(
    query: Query,
    inputs: list[NDArray[np.float32]],
    workload: Workload,
    sampler: Sampler | None,
    *,
    first_ns: int = 0,
    peers: Sequence[int] = (),
    held: int = 0,
) -> Observed:
    """Measure one window.

    Args:
        first_ns: the time of the first inference in nanoseconds, if it was measured before.
        peers: process ids of workers that belong to the measurement.
        held: bytes of images, which do not belong to the model.
    """
    meters = [use.info for use in sampler.meters] if sampler else []
    error = workload.metering.error
    needed = Durations.of(meters, error)
    workload = _longer(workload, max(workload.stop.min_time_s, needed.window_s))
    for _ in range(ROUNDS):
        observed = _once(query, inputs, workload, needed, sampler, first_ns, peers, held)
        factor = _growth(_readings(observed, workload, error=None), error)
        stop, metering = workload.stop, workload.metering
        if factor <= 1 or stop.min_time_s >= stop.max_time_s or stop.sustained_s:
            break
        first_ns = observed.first_ns
        idle_s = max(metering.idle_s, min(metering.idle_s * factor, LONGEST_IDLE_S))
        workload = replace(
            _longer(workload, stop.min_time_s * factor),
            metering=replace(metering, idle_s=idle_s, cool_below_c=None),
        )
    return replace(observed, readings=_readings(observed, workload, error))


def _longer(workload: Workload, seconds: float) -> Workload:
    """Return the workload with the minimum time ``seconds``, but not more than its maximum time."""
    stop = workload.stop
    return replace(workload, stop=replace(stop, min_time_s=min(seconds, stop.max_time_s)))


def _once(
    query: Query,
    inputs: list[NDArray[np.float32]],
    workload: Workload,
    needed: Durations,
    sampler: Sampler | None,
    first_ns: int,
    peers: Sequence[int],
    held: int,
) -> Observed:
    peak_known = memory.reset_peak()
    if sampler:
        sampler.start()
    cooled = _cool_down(sampler, workload)
    first_ns = first_ns or first_query(query, inputs[0])
    spans = {}
    begin = time.monotonic_ns()
    if before := _idle(sampler, workload, needed):
        spans["before"] = before
    warm = warm_up(query, inputs, workload)
    with Window(peers, sampler.pids if sampler else ()) as window:
        spans["load"], trace = _generate(query, inputs, workload)
    lasting = tail = None
    if sustained_s := workload.stop.sustained_s:
        _, lasting = _generate(query, inputs, _for(workload, (1 - TAIL) * sustained_s))
        spans["tail"], tail = _generate(query, inputs, _for(workload, TAIL * sustained_s))
    # LoadGen makes its queries beforehand; their memory is not the model's
    peak = memory.OWN.peak(held) if peak_known and workload.generator == "harness" else None
    if after := _idle(sampler, workload, needed):
        spans["after"] = after
    sampled = Sampled()
    if sampler:
        loaded = spans["load"].begin_ns, spans.get("tail", spans["load"]).end_ns
        sampled = sampler.stop(begin, time.monotonic_ns(), loaded)
    return Observed(
        first_ns=first_ns,
        warm=warm,
        trace=trace,
        signals=dict(window.signals),
        peak=peak,
        cooled=cooled,
        spans=spans,
        sampled=sampled,
        lasting=lasting,
        tail=tail,
    )


def _generate(
    query: Query, inputs: list[NDArray[np.float32]], workload: Workload
) -> tuple[Span, LatencyTrace]:
    begin = time.monotonic_ns()
    trace = generate(query, inputs, workload)
    return Span(begin, time.monotonic_ns()), trace


def _for(workload: Workload, seconds: float) -> Workload:
    """Return the workload with a window of this length."""
    stop = replace(workload.stop, min_time_s=seconds, max_time_s=seconds, min_queries=1)
    return replace(workload, stop=stop)


def _cool_down(sampler: Sampler | None, workload: Workload) -> bool:
    """Wait until the hottest sensor is below the requested temperature.

    Return whether it got there within the limit.
    """
    below = workload.metering.cool_below_c
    if below is None or sampler is None:
        return below is None
    end = time.monotonic() + workload.metering.cool_limit_s
    while True:
        hottest = [state["temperature_c"] for state in sampler.state() if "temperature_c" in state]
        if hottest and max(hottest) <= below:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(COOL_EVERY_S)


def _idle(sampler: Sampler | None, workload: Workload, needed: Durations) -> Span | None:
    """Stay idle until the readings have settled, and then for the idle time that the suite or the meters need.

    Return the idle time without settling, or ``None`` if no meter reads or no idle time is requested.
    """
    metering = workload.metering
    if not (sampler and sampler.meters) and not metering.elsewhere:
        return None
    time.sleep(needed.settle_s)
    if not metering.idle_s:
        return None
    begin = time.monotonic_ns()
    time.sleep(max(metering.idle_s, needed.idle_s))
    return Span(begin, time.monotonic_ns())


def _readings(observed: Observed, workload: Workload, error: float | None) -> tuple[Reading, ...]:
    latency, images = observed.trace.latency_ns, per_query(workload)
    return readings_of(
        series_of(observed.sampled),
        observed.spans,
        len(latency) * images,
        replace(workload.metering, error=error),
        float(latency.mean()) / images / 1e9,
    )


def _growth(readings: Sequence[Reading], error: float | None) -> float:
    """Return the factor by which the window must grow for the readings that exceed ``error``; 1 if none does.

    The error of the edges falls with the length of the window, and noise falls with its square root. The mean of both
    exponents is used. If a reading still exceeds ``error``, the window is measured once more.
    """
    if error is None:
        return 1.0
    factors = [1.0]
    for reading in readings:
        for figure, u in (
            (reading.energy_gross_j, reading.u_gross_j),
            (reading.energy_net_j, reading.u_net_j),
        ):
            if figure and u and u / abs(figure) > error:
                factors.append((u / abs(figure) / error) ** 1.5)
    return max(factors)

"""One measuring window: cool down, first inference, idle, warm up, load, idle; meters and state all along.

Latency, energy and memory are those of the same window. It is lengthened, and measured anew, when a meter
needs more time for the uncertainty that a suite asks for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.machine import memory
from harness.machine.energy.durations import LONGEST_IDLE_S, ROUNDS, Durations
from harness.machine.energy.reading import Reading, Series, Span, cross_check, read_window
from harness.machine.sampler import Sampled, Sampler
from harness.machine.state import Window, over_time
from harness.types import DeviceReport, Workload
from harness.worker.loadgen.generate import generate
from harness.worker.loadgen.loop import first_query, warm_up
from harness.worker.loadgen.queries import LatencyTrace, Query, WarmUp, per_query

__all__ = ["Observed", "beside", "observe"]

TAIL = 0.25
COOL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one window gave. ``peak`` in bytes; ``spans`` (load, and where meters read before, after, tail) in ns.

    ``lasting`` is the load that went on after the window, ``tail`` its last quarter.
    """

    first_ns: int
    warm: WarmUp
    timed: LatencyTrace
    signals: Mapping[str, float]
    peak: int | None
    cooled: bool
    spans: Mapping[str, Span]
    sampled: Sampled = field(default_factory=Sampled)
    readings: tuple[Reading, ...] = ()
    lasting: LatencyTrace | None = None
    tail: LatencyTrace | None = None

    def states(self) -> dict[str, dict[str, Any]]:
        """What each watch saw, over all of the load."""
        end = self.spans.get("tail", self.spans["load"])
        return over_time(self.sampled.states, self.spans["load"].begin_ns, end.end_ns)

    def raw_meters(self) -> dict[str, NDArray[Any]]:
        """Every meter's samples as arrays, and the spans that they are read over."""
        if not self.sampled.meters:
            return {}
        arrays: dict[str, NDArray[Any]] = {
            f"span_ns:{name}": np.array([span.begin_ns, span.end_ns]) for name, span in self.spans.items()
        }
        for one in _series(self.sampled):
            arrays |= {f"meter_ns:{one.info.name}": one.ns, f"meter_value:{one.info.name}": one.value}
        return arrays

    def lasting_ns(self) -> NDArray[np.int64] | None:
        """Latencies of all the load that went on after the window."""
        if self.lasting is None or self.tail is None:
            return None
        return np.concatenate((self.lasting.latency_ns, self.tail.latency_ns))

    def sustained(self, load: Workload) -> dict[str, Any]:
        """Burst (the window) against sustained (the last quarter of the load that went on): ms, images/s, W."""
        if self.lasting is None or self.tail is None:
            return {}
        images = len(self.tail.latency_ns) * per_query(load)
        power = [read_window(one, self.spans["tail"], None, None, images) for one in _series(self.sampled)]
        burst, lasting = (float(np.median(one.latency_ns)) / 1e6 for one in (self.timed, self.tail))
        return {
            "seconds": (self.lasting.window_ns + self.tail.window_ns) / 1e9,
            "tail_s": self.tail.window_ns / 1e9,
            "burst_p50_ms": burst,
            "p50_ms": lasting,
            "slowdown": lasting / burst,
            "throughput_ips": images / (self.tail.window_ns / 1e9),
            "power_gross_w": {one.meter: one.power_gross_w for one in power},
        }


def observe(
    query: Query,
    inputs: list[NDArray[np.float32]],
    load: Workload,
    sampler: Sampler | None,
    *,
    first_ns: int = 0,
    peers: Sequence[int] = (),
    held: int = 0,
) -> Observed:
    """Measure one window. ``held`` bytes of images are not the model's; ``first_ns`` if it was taken before."""
    infos = [use.info for use in sampler.meters] if sampler else []
    needed = Durations.of(infos, load.energy_error)
    load = replace(load, min_time_s=min(max(load.min_time_s, needed.window_s), load.max_time_s))
    for _ in range(ROUNDS):
        seen = _once(query, inputs, load, needed, sampler, first_ns, peers, held)
        factor = _growth(_readings(seen, replace(load, energy_error=None)), load.energy_error)
        if factor <= 1 or load.min_time_s >= load.max_time_s or load.sustained_s:
            break
        first_ns = seen.first_ns
        load = replace(
            load,
            min_time_s=min(load.min_time_s * factor, load.max_time_s),
            idle_s=max(load.idle_s, min(load.idle_s * factor, LONGEST_IDLE_S)),
            cool_below_c=None,
        )
    return replace(seen, readings=_readings(seen, load))


def _once(
    query: Query,
    inputs: list[NDArray[np.float32]],
    load: Workload,
    needed: Durations,
    sampler: Sampler | None,
    first_ns: int,
    peers: Sequence[int],
    held: int,
) -> Observed:
    peak_known = memory.reset_peak()
    if sampler:
        sampler.start()
    cooled = _cool_down(sampler, load)
    first_ns = first_ns or first_query(query, inputs[0])
    spans = {}
    begin = time.monotonic_ns()
    if before := _idle(sampler, load, needed):
        spans["before"] = before
    warm = warm_up(query, inputs, load)
    with Window(peers, sampler.pids if sampler else ()) as window:
        spans["load"], timed = _timed(query, inputs, load)
    lasting = tail = None
    if load.sustained_s:
        _, lasting = _timed(query, inputs, _for(load, (1 - TAIL) * load.sustained_s))
        spans["tail"], tail = _timed(query, inputs, _for(load, TAIL * load.sustained_s))
    # LoadGen makes its queries beforehand: that is not the model's memory
    peak = memory.peak(held) if peak_known and load.generator == "harness" else None
    if after := _idle(sampler, load, needed):
        spans["after"] = after
    sampled = Sampled()
    if sampler:
        loaded = spans["load"].begin_ns, spans.get("tail", spans["load"]).end_ns
        sampled = sampler.stop(begin, time.monotonic_ns(), loaded)
    return Observed(
        first_ns=first_ns,
        warm=warm,
        timed=timed,
        signals=dict(window.signals),
        peak=peak,
        cooled=cooled,
        spans=spans,
        sampled=sampled,
        lasting=lasting,
        tail=tail,
    )


def _timed(query: Query, inputs: list[NDArray[np.float32]], load: Workload) -> tuple[Span, LatencyTrace]:
    begin = time.monotonic_ns()
    timed = generate(query, inputs, load)
    return Span(begin, time.monotonic_ns()), timed


def _for(load: Workload, seconds: float) -> Workload:
    return replace(load, min_time_s=seconds, max_time_s=seconds, min_queries=1)


def _cool_down(sampler: Sampler | None, load: Workload) -> bool:
    """Wait until the hottest sensor is below ``load.cool_below_c``; whether it is, within the limit."""
    if load.cool_below_c is None or sampler is None:
        return load.cool_below_c is None
    end = time.monotonic() + load.cool_limit_s
    while True:
        seen = [state["temperature_c"] for state in sampler.state() if "temperature_c" in state]
        if seen and max(seen) <= load.cool_below_c:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(COOL_EVERY_S)


def _idle(sampler: Sampler | None, load: Workload, needed: Durations) -> Span | None:
    """Do nothing until the readings have settled, and then for ``load.idle_s`` or as long as the meters need.

    Return the idle time without settling, or ``None`` where no meter reads or no idle time is asked for.
    """
    if not (sampler and sampler.meters) and not load.metered_elsewhere:
        return None
    time.sleep(needed.settle_s)
    if not load.idle_s:
        return None
    begin = time.monotonic_ns()
    time.sleep(max(load.idle_s, needed.idle_s))
    return Span(begin, time.monotonic_ns())


def _readings(seen: Observed, load: Workload) -> tuple[Reading, ...]:
    latency = seen.timed.latency_ns
    found = [
        read_window(
            one,
            seen.spans["load"],
            seen.spans.get("before"),
            seen.spans.get("after"),
            len(latency) * per_query(load),
            method=load.energy_method,
            mean_latency_s=float(latency.mean()) / per_query(load) / 1e9,
            error=load.energy_error,
        )
        for one in _series(seen.sampled)
    ]
    return tuple(cross_check(found))


def _series(sampled: Sampled) -> list[Series]:
    return [
        Series(
            info=one.info,
            ns=np.array(one.ns, np.int64),
            value=np.array(one.value, np.float64),
            error=one.error,
            clock_error_s=one.clock_error_s,
        )
        for one in sampled.meters
    ]


def _growth(readings: Sequence[Reading], error: float | None) -> float:
    """By how much longer a window would have to be for the readings that miss ``error``; 1 where none does.

    The edges' share of the error falls with the window's length, noise with its root: their mean is taken, and
    what is missed then is measured once more.
    """
    if error is None:
        return 1.0
    missed = [1.0]
    for one in readings:
        for figure, u in ((one.energy_gross_j, one.u_gross_j), (one.energy_net_j, one.u_net_j)):
            if figure and u and u / abs(figure) > error:
                missed.append((u / abs(figure) / error) ** 1.5)
    return max(missed)


def beside(
    sampler: Sampler | None,
    began: int,
    spans: Mapping[str, tuple[int, int]],
    clock_error_ns: int,
    images: int,
    used: Mapping[str, int],
    load: Workload | None = None,
    mean_latency_s: float | None = None,
) -> DeviceReport:
    """What this machine's meters and watches saw of another's window since ``began``.

    ``spans`` (``before``, ``load``, ``after``) are on this machine's clock, within ``clock_error_ns``; the readings'
    uncertainty holds that. ``images`` were answered in the window. ``load`` and its mean latency, where known, say
    how the readings are to be taken.
    """
    if sampler is None:
        return DeviceReport(memory=used)
    sampled = sampler.stop(began, time.monotonic_ns(), spans["load"])
    known = {name: Span(*span) for name, span in spans.items()}
    series = [
        replace(one, clock_error_s=one.clock_error_s + clock_error_ns / 1e9) for one in _series(sampled)
    ]
    readings = [
        read_window(
            one,
            known["load"],
            known.get("before"),
            known.get("after"),
            images,
            method=load.energy_method if load else "default",
            mean_latency_s=mean_latency_s,
            error=load.energy_error if load else None,
        )
        for one in series
    ]
    raw: dict[str, NDArray[Any]] = {
        f"span_ns:{name}": np.array(span, np.int64) for name, span in spans.items() if series
    }
    for one in series:
        raw |= {f"meter_ns:{one.info.name}": one.ns, f"meter_value:{one.info.name}": one.value}
    return DeviceReport(
        memory=used,
        energy=[one.to_json() for one in cross_check(readings)],
        meters=raw,
        states=over_time(sampled.states, *spans["load"]),
        problems=sampled.problems,
    )

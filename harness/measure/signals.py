"""The signals of a measuring window that show disturbances, each with its limit and the figures that it can change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.measure.undisturbed import between_queries_s, undisturbed
from harness.types.blocks import WindowSignals
from harness.types.signals import Figure, Signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.types import Samples

__all__ = [
    "DRIFT",
    "ENERGY_CORES",
    "FOREIGN_CORES",
    "FOREIGN_SHARE",
    "STALLED",
    "WAITING",
    "WAITING_P50",
    "signals",
]

WAITING = 0.02
"""Largest share of its time that the process may wait for a core. It is the limit of p90, p99, mean and throughput."""

WAITING_P50 = 0.05
"""The same limit for the median."""

FOREIGN_SHARE = 0.1
"""Largest share of the cores in use that others may take, if the kernel does not count the waiting."""

FOREIGN_CORES = 0.5
"""Number of the machine's cores that other processes may not keep busy."""

ENERGY_CORES = 0.1
"""The same limit for energy, because a meter measures the work of other processes too."""

DRIFT = 0.1
"""Largest relative difference of the medians of the window's two halves that counts as steady."""

STALLED = 0.02
"""Largest share of the window in which the process may be stopped."""

LEAST_STALL_S = 0.05
"""A stall is at least this long. Shorter ones are noise of the clocks."""

TAIL: tuple[Figure, ...] = ("p90", "p99", "mean", "throughput")
TIMES: tuple[Figure, ...] = ("p50", *TAIL)


def signals(samples: Samples) -> list[Signal]:
    """Return the signals of a window that the machine gives. A signal that it does not give is absent."""
    energy: tuple[Figure, ...] = (
        ("energy",) if any(reading.energy_gross_j is not None for reading in samples.here.energy) else ()
    )
    counted = WindowSignals.model_validate(samples.environment)
    return [
        *_throttling(samples, counted, (*TIMES, *energy)),
        *_contention(counted, energy),
        *_stalls(samples, counted, (*TIMES, *energy)),
        *_unsteadiness(samples, (*TIMES, *energy)),
        *_swapping(counted),
        _signal("short", "missed_minimum", float(not samples.trace.reached), 0, ()),
    ]


def _signal(flag: str, name: str, value: float, limit: float, figures: Sequence[Figure]) -> Signal:
    return Signal(
        flag=flag, name=name, value=value, limit=limit, over=bool(value > limit), figures=list(figures)
    )


def _throttling(samples: Samples, counted: WindowSignals, figures: Sequence[Figure]) -> Iterator[Signal]:
    if counted.thermal_events is not None:
        yield _signal("throttled", "thermal_events", counted.thermal_events, 0, figures)
    causes = [state["throttle"] for state in samples.here.states.values() if "throttle" in state]
    if causes:
        yield _signal(
            "throttled", "throttle_causes", len({cause for own in causes for cause in own}), 0, figures
        )


def _contention(counted: WindowSignals, energy: Sequence[Figure]) -> Iterator[Signal]:
    steal = counted.steal_cores or 0.0
    if counted.delay_s is not None:
        waited = counted.delay_s + steal * (counted.wall_s or 0.0)
        total = (counted.cpu_s or 0.0) + waited
        share = waited / total if total else 0.0
        yield _signal("contended", "waiting_share", share, WAITING, (*TAIL, *energy))
        yield _signal("contended", "waiting_share", share, WAITING_P50, ("p50",))
    if counted.foreign_cores is None:
        return
    if counted.delay_s is None:
        share = (counted.foreign_cores + steal) / (counted.cores or 1.0)
        yield _signal("contended", "foreign_share", share, FOREIGN_SHARE, TIMES)
    cores = counted.foreign_cores + (counted.elsewhere_cores or 0.0)
    yield _signal("contended", "foreign_cores", cores, FOREIGN_CORES, TIMES)
    if energy:
        yield _signal("contended", "foreign_cores", cores, ENERGY_CORES, energy)


def _stalls(samples: Samples, counted: WindowSignals, figures: Sequence[Figure]) -> Iterator[Signal]:
    """Yield the time in which the process neither ran nor waited for a core: it was stopped.

    Only blocks that lack over a quarter of their CPU time count. If a process waits for a GPU or for other devices, only
    the time between two queries is known.
    """
    window_s = samples.trace.window_ns / 1e9
    limit = max(LEAST_STALL_S, STALLED * window_s)
    blocks = undisturbed(samples)
    if blocks is not None:
        waited = (counted.delay_s or 0.0) + (counted.steal_cores or 0.0) * (counted.wall_s or 0.0)
        yield _signal("stalled", "stalled_s", max(0.0, (blocks.stopped_s or 0.0) - waited), limit, figures)
    elif samples.trace.marks is not None:
        yield _signal("stalled", "between_queries_s", between_queries_s(samples), limit, figures)


def _unsteadiness(samples: Samples, figures: Sequence[Figure]) -> Iterator[Signal]:
    yield _signal("unsteady", "warmup_unsteady", float(not samples.warmup.steady), 0, figures)
    service = _service(samples)
    if len(service) >= 20:
        yield _signal("unsteady", "drift", _drift(service), DRIFT, figures)
    if samples.target_qps is not None:
        utilisation = samples.target_qps * float(service.mean()) / 1e9
        yield _signal("unsteady", "utilisation", utilisation, 1, figures)
    yield _signal("unsteady", "not_cooled", float(not samples.cooled), 0, figures)


def _swapping(counted: WindowSignals) -> Iterator[Signal]:
    if counted.swap_in_pages is not None and counted.major_faults is not None:
        pages = counted.swap_in_pages if counted.major_faults else 0
        yield _signal("swapped", "swap_in_pages", pages, 0, ("memory", "p99", "mean", "throughput"))


def _service(samples: Samples) -> NDArray[np.int64]:
    """Return the latencies without the time that a server's queries waited."""
    trace = samples.trace
    return trace.latency_ns if trace.queue_ns is None else trace.latency_ns - trace.queue_ns


def _drift(latency_ns: NDArray[np.int64]) -> float:
    """Return the relative difference of the medians of the two halves."""
    half = len(latency_ns) // 2
    early, late = float(np.median(latency_ns[:half])), float(np.median(latency_ns[-half:]))
    return abs(late - early) / min(early, late) if min(early, late) else 0.0

"""Flags: what disturbed a measuring window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.types import Samples

__all__ = ["DELAY_SHARE", "DRIFT", "FLAGS", "FOREIGN_CORES", "FOREIGN_SHARE", "flags"]


FLAGS = ("throttled", "contended", "unsteady", "swapped", "short")


FOREIGN_SHARE = 0.1


DELAY_SHARE = 0.05


FOREIGN_CORES = 0.5


DRIFT = 0.1


def flags(samples: Samples) -> list[str]:
    """What disturbed a window, in the vocabulary and order of :data:`FLAGS`.

    ``throttled``: the kernel counted thermal throttling, or a watch saw a cause of it in the window.
    ``contended``: others (foreign processes, the hypervisor) took over 10% of the cores in use *and* this
    process waited for a core over 5% of the time that it could have run (or the kernel doesn't tell that);
    or foreign processes kept half a core of the machine busy, waited for or not: they share its caches, its
    memory bus, its clock and its power.
    ``unsteady``: warm-up met no steady state, the medians of the window's halves differ by over 10% (of a server,
    without what queries waited), queries arrived faster than they can be answered, or the temperature that the
    suite asked for was not reached in time.
    ``swapped``: the machine read pages from swap while this process waited for pages.
    ``short``: the maximum time ended the window before both minima were met.
    """
    return [name for name, found in zip(FLAGS, _disturbances(samples), strict=True) if found]


def _disturbances(samples: Samples) -> Iterable[bool]:
    seen: Mapping[str, Any] = samples.environment
    yield bool(seen.get("thermal_events", 0)) or any(_throttled(one) for one in samples.here.states.values())
    yield _contended(seen)
    yield (
        not samples.warmup.steady or not samples.cooled or _drifts(_service(samples)) or _overloaded(samples)
    )
    yield bool(seen.get("swap_in_pages", 0) and seen.get("major_faults", 0))
    yield not samples.trace.reached


def _throttled(state: Mapping[str, Any]) -> bool:
    return bool(state.get("throttle"))


def _contended(seen: Mapping[str, Any]) -> bool:
    if "foreign_cores" not in seen:
        return False
    if seen["foreign_cores"] + seen["elsewhere_cores"] >= FOREIGN_CORES:
        return True
    if "delay_s" in seen:
        waited = seen["delay_s"] + seen["steal_cores"] * seen["wall_s"]
        if waited <= DELAY_SHARE * (seen["cpu_s"] + waited):
            return False
    return bool(seen["foreign_cores"] + seen["steal_cores"] > FOREIGN_SHARE * seen["cores"])


def _service(samples: Samples) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (
        samples.trace.latency_ns
        if samples.trace.queue_ns is None
        else samples.trace.latency_ns - samples.trace.queue_ns
    )


def _overloaded(samples: Samples) -> bool:
    return samples.target_qps is not None and samples.target_qps * float(_service(samples).mean()) >= 1e9


def _drifts(latency_ns: np.ndarray[Any, np.dtype[np.int64]]) -> bool:
    if len(latency_ns) < 20:
        return False
    half = len(latency_ns) // 2
    early, late = float(np.median(latency_ns[:half])), float(np.median(latency_ns[-half:]))
    return abs(late - early) > DRIFT * min(early, late)

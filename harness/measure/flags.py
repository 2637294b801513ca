"""Flags: the disturbances of a measuring window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from harness.types import Samples
from harness.types.blocks import WindowSignals

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DELAY_SHARE", "DRIFT", "FLAGS", "FOREIGN_CORES", "FOREIGN_SHARE", "flags"]


FLAGS = ("throttled", "contended", "unsteady", "swapped", "short")


FOREIGN_SHARE = 0.1
"""Largest share of the cores in use that other processes may take."""

DELAY_SHARE = 0.05
"""Largest share of its time that the process may wait for a core."""

FOREIGN_CORES = 0.5
"""Number of the machine's cores that other processes may not keep busy."""

DRIFT = 0.1
"""Largest relative difference of the medians of the window's two halves that counts as steady."""


def flags(samples: Samples) -> list[str]:
    """Return the disturbances of a window, in the words and order of :data:`FLAGS`.

    - ``throttled``: the kernel counted thermal throttling, or a watch saw a cause of it in the window.
    - ``contended``: other processes or the hypervisor took over 10% of the cores in use, and this process waited for
      a core over 5% of the time in which it could have run. If the kernel does not count the waiting, the first
      condition is enough. The flag is also set if other processes kept half a core of the machine busy, since they
      share its caches, memory bus, clock and power.
    - ``unsteady``: warm-up reached no steady state; or the medians of the two halves of the window differ by over 10%
      (for a server, without the time that queries waited); or queries arrived faster than they can be answered; or
      the temperature that the suite asked for was not reached in time.
    - ``swapped``: the machine read pages from swap while this process waited for pages.
    - ``short``: the maximum time ended the window before both minima were reached.
    """
    return [name for name, seen in zip(FLAGS, _disturbances(samples), strict=True) if seen]


def _disturbances(samples: Samples) -> Iterable[bool]:
    signals = WindowSignals.model_validate(samples.environment)
    states = samples.here.states.values()
    yield bool(signals.thermal_events) or any(state.get("throttle") for state in states)
    yield _contended(signals)
    yield (
        not samples.warmup.steady or not samples.cooled or _drifts(_service(samples)) or _overloaded(samples)
    )
    yield bool(signals.swap_in_pages and signals.major_faults)
    yield not samples.trace.reached


def _contended(signals: WindowSignals) -> bool:
    foreign, steal = signals.foreign_cores, signals.steal_cores or 0.0
    if foreign is None:
        return False
    if foreign + (signals.elsewhere_cores or 0.0) >= FOREIGN_CORES:
        return True
    if signals.delay_s is not None:
        waited = signals.delay_s + steal * (signals.wall_s or 0.0)
        if waited <= DELAY_SHARE * ((signals.cpu_s or 0.0) + waited):
            return False
    return foreign + steal > FOREIGN_SHARE * (signals.cores or 1.0)


def _service(samples: Samples) -> NDArray[np.int64]:
    trace = samples.trace
    return trace.latency_ns if trace.queue_ns is None else trace.latency_ns - trace.queue_ns


def _overloaded(samples: Samples) -> bool:
    return samples.target_qps is not None and samples.target_qps * float(_service(samples).mean()) >= 1e9


def _drifts(latency_ns: NDArray[np.int64]) -> bool:
    if len(latency_ns) < 20:
        return False
    half = len(latency_ns) // 2
    early, late = float(np.median(latency_ns[:half])), float(np.median(latency_ns[-half:]))
    return abs(late - early) > DRIFT * min(early, late)

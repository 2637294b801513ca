"""Flags: the disturbances of a measuring window, from its signals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.measure.signals import signals
from harness.types.signals import Signal

if TYPE_CHECKING:
    from harness.types import Samples

__all__ = ["FLAGS", "flags", "flags_of"]

FLAGS = ("throttled", "contended", "stalled", "unsteady", "swapped", "short")


def flags(samples: Samples) -> list[str]:
    """Return the disturbances of a window, in the words and order of :data:`FLAGS`.

    A flag is set if one of its signals (:func:`harness.measure.signals.signals`) is above its limit:

    - ``throttled``: the kernel counted thermal throttling, or a watch saw a cause of it in the window.
    - ``contended``: this process waited for a core over 2% of its time (the median: over 5%), other processes kept
      half a core of the machine busy, or a tenth of a core while energy was measured. If the kernel does not count
      the waiting, others took over 10% of the cores in use.
    - ``stalled``: the process neither ran nor waited for a core for over 2% of the window. Something stopped it.
    - ``unsteady``: warm-up reached no steady state; or the medians of the two halves of the window differ by over 10%
      (for a server, without the time that queries waited); or queries arrived faster than they can be answered; or
      the temperature that the suite asked for was not reached in time.
    - ``swapped``: the machine read pages from swap while this process waited for pages.
    - ``short``: the maximum time ended the window before both minima were reached.
    """
    return flags_of(signals(samples))


def flags_of(signals: Iterable[Signal]) -> list[str]:
    """Return the flags of the signals that are above their limits, in the order of :data:`FLAGS`."""
    raised = {signal.flag for signal in signals if signal.over}
    return [flag for flag in FLAGS if flag in raised]

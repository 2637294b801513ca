"""The clock offset of a log, found by the power step of the workload in it: idle, busy, idle.

At every offset, a step of known length with two levels is fitted by least squares. The quality of a fit is the
share of the variance that the step explains. The deviance of the fit gives an interval for the offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Alignment", "align_step"]

DEVIANCE = 12.0  # about 3.5 standard deviations of one parameter
LEAST = 3  # readings on each side of an edge
SIGNIFICANT = 36.0  # squared t of the step: significant even as the best of some ten thousand places
RIVAL = 0.7  # a second place that explains this share of the best place's variance makes the step ambiguous

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """The offset of a log's clock, and the two levels of the step.

    ``offset_s`` plus a time of the log is a time of the workload's clock. ``error_s`` is the greatest error of it.
    """

    offset_s: float
    error_s: float
    idle_w: float
    busy_w: float


def align_step(
    times: ArrayLike,
    watts: ArrayLike,
    load: tuple[float, float],
    window: tuple[float, float],
    search: tuple[float, float],
    *,
    averaging: float = 0.0,
) -> Alignment:
    """Return the offset of a log's clock.

    ``times`` (seconds of the log's clock, increasing) and ``watts`` are the log. ``load`` is the begin and end of the
    workload. ``window`` contains ``load``; outside of the load the machine did nothing else in it. Both are in
    seconds of the other clock. ``search`` bounds the offset. ``averaging``: a reading is the mean over these seconds
    before it. Raises ``ValueError`` with the reason if no offset can be found.
    """
    t, w = np.asarray(times, np.float64), np.asarray(watts, np.float64)
    if len(t) < 4 * LEAST:
        raise ValueError(f"only {len(t)} readings")
    period = float(np.median(np.diff(t)))
    length = load[1] - load[0]
    offsets = np.arange(search[0], search[1] + period / 2, period / 2)
    fits = _fits(t, w - w.mean(), load, window, offsets, averaging)
    if not fits.share.any():
        raise ValueError(f"no rise and fall {length:.3g} s apart in {t[-1] - t[0]:.3g} s of readings")
    best = int(np.argmax(fits.share))

    near = offsets[best] + np.arange(-2 * period, 2 * period, period / 50)
    fine = _fits(t, w - w.mean(), load, window, near, averaging)
    top = np.flatnonzero(fine.share >= fine.share.max() * (1 - 1e-9))
    at = int(top[len(top) // 2])
    share, readings = float(fine.share[at]), int(fine.count[at])
    idle, busy = float(fine.idle[at] + w.mean()), float(fine.busy[at] + w.mean())

    step = f"the step of {busy - idle:.3g} W"
    if readings * share < SIGNIFICANT * (1 - share):
        noise = float(np.sqrt(w.var() * (1 - share)))
        raise ValueError(f"{step} is below the noise of {noise:.3g} W")
    rival = np.where(np.abs(offsets - near[at]) > length / 2, fits.share, 0.0)  # two loads are never closer
    if rival.max() > RIVAL * share:
        other = offsets[int(np.argmax(rival))] - near[at]
        raise ValueError(f"{step} is ambiguous: another fits nearly as well, {abs(other):.2g} s away")
    error = _interval(np.r_[offsets, near], np.r_[fits.share, fine.share], near[at], share, readings)
    if error > max(3 * period, length / 200):
        raise ValueError(f"{step} is too faint: it could lie {error:.3g} s to either side")
    return Alignment(offset_s=float(near[at]), error_s=max(error, period / 50), idle_w=idle, busy_w=busy)


def _interval(offsets: Array, shares: Array, at: float, share: float, readings: int) -> float:
    """Return half the width of the range of offsets whose fit is not significantly worse than the best."""
    if share >= 1 - 1e-12:
        alike = shares >= share - 1e-12
    else:
        alike = readings * np.log((1 - shares) / (1 - share)) <= DEVIANCE
    return float(np.abs(offsets[alike] - at).max())


@dataclass(frozen=True)
class _Fits:
    """The fits at all offsets, one value of each array per offset.

    ``share`` is the explained share of the variance (0 if the fit is not a rise and a fall), ``idle`` and ``busy``
    are the levels, ``count`` is the number of readings.
    """

    share: Array
    idle: Array
    busy: Array
    count: Array


def _fits(
    t: Array,
    w: Array,
    load: tuple[float, float],
    window: tuple[float, float],
    offsets: Array,
    averaging: float,
) -> _Fits:
    """Fit ``idle + (busy - idle) * g`` by least squares; ``g`` is the part of a reading that lies in the workload.

    Sums over the readings come from running totals, so that a fit costs as much as finding its four bounds. The
    readings across an edge are corrected one by one. ``averaging`` limits them to a few.
    """
    edge = {
        name: np.searchsorted(t, moment - offsets)
        for name, moment in (
            ("begin", window[0] + averaging),
            ("up", load[0]),
            ("full", load[0] + averaging),
            ("down", load[1]),
            ("gone", load[1] + averaging),
            ("end", window[1]),
        )
    }
    first, second = (np.r_[0.0, np.cumsum(values)] for values in (w, w * w))

    def total(running: Array, low: str, high: str) -> Array:
        return running[edge[high]] - running[edge[low]]

    n = (edge["end"] - edge["begin"]).astype(np.float64)
    sw, sww = total(first, "begin", "end"), total(second, "begin", "end")
    g1 = (edge["down"] - edge["full"]).astype(np.float64)
    g2, gw = g1.copy(), total(first, "full", "down")
    for low, high, moment, rises in (("up", "full", load[0], True), ("down", "gone", load[1], False)):
        for step in range(int((edge[high] - edge[low]).max(initial=0))):
            inside = edge[low] + step < edge[high]
            row = np.minimum(edge[low] + step, len(t) - 1)
            part = np.clip((t[row] + offsets - moment) / (averaging or 1.0), 0.0, 1.0)
            part = np.where(inside, part if rises else 1 - part, 0.0)
            g1, g2, gw = g1 + part, g2 + part**2, gw + part * w[row]

    sides = [
        (total(first, low, high), (edge[high] - edge[low]).astype(np.float64))
        for low, high in (("begin", "up"), ("full", "down"), ("gone", "end"))
    ]
    whole = np.ones(len(offsets), bool)
    for _, count in sides:
        whole &= count >= LEAST
    whole &= (window[0] - offsets >= t[0] - 1e-9) & (window[1] - offsets <= t[-1] + 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        before, during, after = (value / count for value, count in sides)
        spread, common = g2 - g1 * g1 / n, gw - g1 * sw / n
        variance = sww - sw * sw / n
        height = common / spread
        share = common * common / (spread * variance)
        idle = (sw - height * g1) / n
        # the power must rise from idle and fall back to it, each by at least half of the step
        clear = (height > 0) & (during - before > height / 2) & (during - after > height / 2)
        good = whole & clear & np.isfinite(share)
    return _Fits(share=np.where(good, np.clip(share, 0.0, 1.0), 0.0), idle=idle, busy=idle + height, count=n)

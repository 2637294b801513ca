"""Joules of a span of time from a meter's readings, and their uncertainty.

Each part of an uncertainty is expanded to 95%; see :mod:`harness.machine.energy.reading`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from harness.stats import t_quantile
from harness.types.meters import MeterInfo

__all__ = ["K", "UNIFORM", "Joules", "Series", "Span", "Track", "WithheldError", "integral", "mean_power"]

K = 1.96
UNIFORM = K / math.sqrt(3)
"""Expanded uncertainty over the bound of a uniform error (GUM 4.3.7)."""

MIN_READINGS = 3
GAP_PERIODS = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """What one meter read: times (true, monotonic) and joules since an arbitrary start, or watts; both [n].

    ``error``: why the meter ended early. ``clock_error_s``: greatest error between its clock and the load's.
    """

    info: MeterInfo
    ns: NDArray[np.int64]
    value: NDArray[np.float64]
    error: str = ""
    clock_error_s: float = 0.0


@dataclass(frozen=True)
class Span:
    """Begin and end of a span, on the monotonic clock of the load."""

    begin_ns: int
    end_ns: int


class WithheldError(Exception):
    """A figure cannot be given; the text is the reason."""


@dataclass(frozen=True)
class Joules:
    """Joules of a span, and the parts of their uncertainty. ``missed`` is that of the ends that mean power leaves out."""

    joules: float
    edge: float
    gaps: float
    missed: float = 0.0


class Track:
    """Readings as points: ``t`` seconds after an origin, known to +-``half``, and the ``value`` then; all [n].

    A counter changes every period, and a poll sees the change a little later. Its points are the polls that saw a
    change, which happened between the last two polls, and at most a period ago. A power reading is the mean over the
    averaging time before it, so its points lie half of that time earlier.
    """

    def __init__(self, series: Series, origin_ns: int) -> None:
        self.info, self.clock, self.error = series.info, series.clock_error_s, series.error
        self.counter = self.info.quantity == "energy"
        if len(series.ns) == 0:
            raise WithheldError("the meter gave no reading" + self._why())
        if np.any(np.diff(series.ns) < 0):
            raise WithheldError("the meter's times go back")
        if not np.all(np.isfinite(series.value)):
            raise WithheldError("the meter gave what is no number")
        last = np.append(np.diff(series.ns) > 0, True)  # of readings at one time
        self.polls = polls = (series.ns[last] - origin_ns) / 1e9
        self.value = value = series.value[last].astype(np.float64)
        between = float(np.median(np.diff(polls))) if len(polls) > 1 else 0.0
        self.interval = max(self.info.period_s, between)
        self.t, self.half = polls - self.info.averaging_s / 2, np.zeros(len(polls))
        if self.counter:
            changed = np.append(True, np.diff(value) != 0)
            oldest = polls - self.info.period_s
            low = np.where(changed, np.maximum(oldest, np.append(-np.inf, polls[:-1])), oldest)
            t, half = (low + polls) / 2, (polls - low) / 2
            changed[-1] |= t[-1] > t[changed][-1]
            self.t, self.half, self.value = t[changed], half[changed], value[changed]

    def _why(self) -> str:
        return f": {self.error}" if self.error else ""

    def check(self, begin: float, end: float, slack: float = 0.0) -> None:
        """Check that readings cover the span, up to ``slack`` intervals at its ends, without too long a gap.

        Raises:
            WithheldError: they do not.
        """
        polls, most = self.polls, slack * self.interval
        if polls[0] > begin + most:
            raise WithheldError(f"the meter began {polls[0] - begin:.3g} s after the window did")
        if polls[-1] < end - most:
            raise WithheldError(
                f"the meter ended {end - polls[-1]:.3g} s before the window did" + self._why()
            )
        first = int(np.searchsorted(polls, begin, "right")) - 1
        last = int(np.searchsorted(polls, end + self.info.averaging_s, "left"))
        gaps = np.diff(polls[max(first, 0) : last + 1])
        if self.counter:  # it continues to count in a gap: only what the edges fall into is lost
            gaps = np.append(gaps[:1], gaps[-1:])
        gap = gaps.max(initial=0.0)
        if gap > GAP_PERIODS * self.interval:
            raise WithheldError(f"a gap of {gap:.3g} s between readings due every {self.interval:.3g} s")

    def enough(self, n: int, seconds: float) -> None:
        """Raise :class:`WithheldError` for fewer than three readings."""
        if n < MIN_READINGS:
            what = "changes of the counter" if self.counter else "readings"
            raise WithheldError(f"{n} {what} in {seconds:.3g} s, at least {MIN_READINGS} are needed")

    def steps(self, i: int, j: int) -> NDArray[np.float64]:
        """Return the joules between neighbours of the points i..j of a counter."""
        steps: NDArray[np.float64] = np.diff(self.value[i : j + 1])
        if np.any(steps < 0):
            raise WithheldError(f"the counter went back by {-steps.min():.3g} J")
        return steps

    @cached_property
    def unit(self) -> float:
        """The greatest possible resolution of the counter: its steps are multiples of it, and so are their differences."""
        levels = np.diff(np.unique(np.append(0.0, np.abs(np.diff(self.value)))))
        return float(levels[levels > 4 * np.spacing(np.abs(self.value).max())].min(initial=np.inf))


def integral(track: Track, begin: float, end: float) -> Joules:
    """Return the joules from ``begin`` to ``end``, interpolated at both.

    A sensor that averages over A smears each edge over A/2 to both sides. So power is integrated from A/2 before
    to A/2 after the span, which holds all that happened in it; of what was outside, half of the margin is
    counted, and taken off at the power read there.
    """
    track.check(begin, end)
    smear = 0.0 if track.counter else track.info.averaging_s / 2
    first, last = begin - smear, end + smear
    i, j = int(np.searchsorted(track.t, first, "right")) - 1, int(np.searchsorted(track.t, last, "left"))
    if j == len(track.t):
        raise WithheldError(f"the readings end {last - track.t[-1]:.3g} s too early for the meter's period")
    track.enough(int(np.sum((track.t > begin) & (track.t < end))), end - begin)
    t, value = track.t[i : j + 1], track.value[i : j + 1]
    at = np.interp([first, last], t, value)
    if track.counter:
        return Joules(float(at[1] - at[0]), _counter_edges(track, i, j, begin, end), 0.0)
    t_in, inside = np.array([first, *t[1:-1], last]), np.array([at[0], *value[1:-1], at[1]])
    joules = _trapezoid(t_in, inside) - smear * float(value[0] + value[-1])
    return Joules(joules, _power_edges(track, i, j), _gaps(t, value))


def mean_power(track: Track, begin: float, end: float, slack: float = GAP_PERIODS) -> Joules:
    """Return the span's length times the mean power of the readings that hold nothing from outside the span."""
    track.check(begin, end, slack)
    before = track.half if track.counter else track.info.averaging_s / 2 + track.info.period_s
    after = track.half if track.counter else track.info.averaging_s / 2
    inside = np.flatnonzero((track.t - before - track.clock > begin) & (track.t + after + track.clock < end))
    track.enough(len(inside), end - begin)
    i, j = inside[0], inside[-1]
    t, value = track.t[i : j + 1], track.value[i : j + 1]
    scale = (end - begin) / float(t[-1] - t[0])
    missed = UNIFORM * math.hypot(t[0] - begin, end - t[-1])
    if not track.counter:
        joules, gaps = _trapezoid(t, value) * scale, _gaps(t, value) * scale
        return Joules(joules, 0.0, gaps, missed * float(np.ptp(value)))
    joules = float(track.steps(i, j).sum()) * scale
    power = joules / (end - begin)
    times = UNIFORM * power * math.hypot(track.half[i], track.half[j])
    return Joules(joules, math.hypot(times, K * track.unit / math.sqrt(6)) * scale, 0.0, missed * power)


def _trapezoid(t: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(t) * (value[1:] + value[:-1])) / 2)


def _gaps(t: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    """Return the uncertainty of power between its samples, estimated from the samples.

    Each is compared with the line between its two neighbours. Were samples independent, the square of the
    difference would be 1 + a^2 + b^2 times their variance (a, b: the neighbours' weights); a straight line has
    none. Neighbouring differences share samples: Student's factor has half as many degrees of freedom.
    """
    wide = t[2:] - t[:-2]
    a = (t[2:] - t[1:-1]) / wide
    off = value[1:-1] - a * value[:-2] - (1 - a) * value[2:]
    variance = np.sum((wide / 2 * off) ** 2 / (1 + a**2 + (1 - a) ** 2))
    return _student(min(max(len(off) // 2, 1), 100)) * math.sqrt(variance)


@cache
def _student(degrees: int) -> float:
    return t_quantile(0.975, degrees)


def _power_edges(track: Track, i: int, j: int) -> float:
    """Return the uncertainty at both edges of power.

    Power may change anywhere between two samples, and up to a period before it was read. Both errors have the same sign
    where the load begins and ends with the span, so their bounds are added. Outside, a sensor that averages must read
    the power beside the edge.
    """
    info, t, value = track.info, track.t, track.value
    reach, squares = info.averaging_s + info.period_s, 0.0
    for k, outside in ((i, slice(None, i + 1)), (j - 1, slice(j, None))):
        near = (t >= t[k] - reach) & (t <= t[k + 1] + reach)
        change, unlike = np.ptp(value[near]), np.ptp(value[outside][near[outside]])
        late = (t[k + 1] - t[k]) / 2 + info.period_s + track.clock
        squares += float((change * late) ** 2 + (unlike * info.averaging_s / 2) ** 2)
    return UNIFORM * math.sqrt(squares)


def _counter_edges(track: Track, i: int, j: int, begin: float, end: float) -> float:
    """Return the uncertainty at both edges of a counter. An edge lies a fraction f into a step.

    The step's joules may have come at any moment of it, in one burst at worst: that has variance f (1 - f) step^2. The
    times of both updates, the clock and the resolution are added.
    """
    track.steps(i, j)
    variance = 2 * track.unit**2 / 12
    power = np.diff(track.value) / np.diff(track.t)
    for x, k in ((begin, i), (end, j - 1)):
        wide, step = track.t[k + 1] - track.t[k], track.value[k + 1] - track.value[k]
        f = (x - track.t[k]) / wide
        most = float(power[max(k - 1, 0) : k + 2].max())
        times = (f * track.half[k + 1]) ** 2 + ((1 - f) * track.half[k]) ** 2 + track.clock**2
        variance += f * (1 - f) * step**2 + most**2 * times / 3
    return K * math.sqrt(variance)

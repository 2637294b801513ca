"""Energy of a span of time from a meter's readings, in joules with its uncertainty.

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
"""Expanded uncertainty of an error that is uniform within a bound, divided by that bound (GUM 4.3.7)."""

MIN_READINGS = 3
GAP_PERIODS = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """The readings of one meter: ``ns`` are true times on the monotonic clock, ``value`` is joules or watts; both
    [n].

    Joules count from an arbitrary start. ``error``: why the meter ended early. ``clock_error_s``: greatest difference
    between the meter's clock and the load's, in seconds.
    """

    info: MeterInfo
    ns: NDArray[np.int64]
    value: NDArray[np.float64]
    error: str = ""
    clock_error_s: float = 0.0


@dataclass(frozen=True)
class Span:
    """Begin and end of a span, in nanoseconds on the monotonic clock of the load."""

    begin_ns: int
    end_ns: int


class WithheldError(Exception):
    """A figure cannot be given. The message is the reason."""


@dataclass(frozen=True)
class Joules:
    """The joules of a span, and the parts of their uncertainty, in joules.

    ``edge`` comes from the two edges, ``gaps`` from the time between samples. ``missed`` comes from the two ends of
    the span that a mean power leaves out.
    """

    joules: float
    edge: float
    gaps: float
    missed: float = 0.0


class Track:
    """Readings as points: ``t`` in seconds after an origin, known to +-``half``, and the ``value`` then; all [n].

    A counter changes every period, and a poll sees the change a little later. Its points are the polls that saw a
    change. The change happened between the last two polls, and at most one period before the poll. A power reading is
    the mean over the averaging time before it. Its point therefore lies half of that time earlier.
    """

    def __init__(self, series: Series, origin_ns: int) -> None:
        self.info, self.clock, self.error = series.info, series.clock_error_s, series.error
        self.counter = self.info.quantity == "energy"
        if len(series.ns) == 0:
            raise WithheldError("the meter gave no reading" + self._why())
        if np.any(np.diff(series.ns) < 0):
            raise WithheldError("the meter's times go back")
        if not np.all(np.isfinite(series.value)):
            raise WithheldError("the meter gave a value that is not a number")
        last = np.append(np.diff(series.ns) > 0, True)  # the last of several readings with one time
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
        """Check that the readings cover the span and have no long gap.

        They may begin and end up to ``slack`` intervals inside the span.

        Raises:
            WithheldError: they do not cover it, or a gap is too long.
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
        if self.counter:  # a counter counts on in a gap, so only gaps at the edges matter
            gaps = np.append(gaps[:1], gaps[-1:])
        gap = gaps.max(initial=0.0)
        if gap > GAP_PERIODS * self.interval:
            raise WithheldError(f"a gap of {gap:.3g} s between readings due every {self.interval:.3g} s")

    def enough(self, n: int, seconds: float) -> None:
        """Check that ``n`` readings are enough for a span of ``seconds``.

        Raises:
            WithheldError: there are fewer than three readings.
        """
        if n < MIN_READINGS:
            what = "changes of the counter" if self.counter else "readings"
            raise WithheldError(f"{n} {what} in {seconds:.3g} s, at least {MIN_READINGS} are needed")

    def steps(self, i: int, j: int) -> NDArray[np.float64]:
        """Return the joules between neighbouring points of a counter, from point i to point j.

        Raises:
            WithheldError: the counter went back.
        """
        steps: NDArray[np.float64] = np.diff(self.value[i : j + 1])
        if np.any(steps < 0):
            raise WithheldError(f"the counter went back by {-steps.min():.3g} J")
        return steps

    @cached_property
    def unit(self) -> float:
        """Return the largest possible resolution of the counter, in joules.

        The steps of the counter are multiples of its resolution, and so are the differences of the steps.
        """
        levels = np.diff(np.unique(np.append(0.0, np.abs(np.diff(self.value)))))
        return float(levels[levels > 4 * np.spacing(np.abs(self.value).max())].min(initial=np.inf))


def integral(track: Track, begin: float, end: float) -> Joules:
    """Return the joules from ``begin`` to ``end``. The readings are interpolated at both edges.

    A sensor that averages over A smears each edge over A/2 to both sides. Power is therefore integrated from A/2
    before the span to A/2 after it. This integral contains all energy of the span, and half of the energy in the time
    A before it and in the time A after it. That half is subtracted, at the power that was read there.
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
    """Return the length of the span times a mean power, in joules.

    The mean is over the readings that contain nothing from outside the span.
    """
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

    Each sample is compared with the line between its two neighbours. On a straight line the difference is zero. For
    independent samples the expected square of the difference is 1 + a^2 + b^2 times their variance, where a and b are
    the weights of the neighbours. Neighbouring differences share samples, so Student's factor takes half as many
    degrees of freedom.
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

    Power may change at any time between two samples, and up to one period before it was read. If the load begins and
    ends with the span, the errors of the two causes have the same sign, so their bounds are added. A sensor that
    averages must also read the power beside the edge, outside the span.
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

    The joules of a step may come at any time within it, in the worst case all at once. That case has the variance
    step^2 f (1 - f). The uncertainties of the times of both updates, of the clock and of the resolution are added.
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

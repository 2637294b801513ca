"""Energy of a window from a meter's readings: gross, net of idle, and its uncertainty.

Every uncertainty here is expanded to 95% (JCGM 100:2008, "GUM", section 6): the true energy lies within +-u in at
least 95 of 100 windows. If only a bound of a part is known (calibration, clocks, edges), the part is taken as uniform
within the bound (GUM 4.3.7), with the standard uncertainty bound / sqrt(3). The parts add in squares:

    u_gross^2 = calibration^2 + edge^2 + gaps^2        u_net^2 = u_gross^2 + (T * u_idle)^2

The uncertainty does not include the standard error over repeats, which is computed where repeats are joined. It also
does not include errors that no reading shows. For example, momentary power that is sampled at even intervals misses a
load that is in step with the samples. Such a reading has a note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harness.machine.energy.integrate import UNIFORM, Series, Span, Track, WithheldError, integral, mean_power
from harness.types import Preset, Reading

__all__ = ["Series", "Span", "cross_check", "read_window"]

DRIFT = 0.05
DISAGREEMENT = 0.10
MLPERF_METER = 0.01


# --- a window ------------------------------------------------------------------------------------


def read_window(
    series: Series,
    load: Span,
    before: Span | None,
    after: Span | None,
    inferences: int,
    *,
    method: Preset = "default",
    mean_latency_s: float | None = None,
    error: float | None = None,
) -> Reading:
    """Return the energy of the window ``load``: gross, and net of the mean power of idle ``before`` and ``after`` it.

    ``method`` names the rules. ``default`` divides the window's energy by its inferences. ``devit`` takes mean
    latency times (mean power - idle power) instead (DeViT, section V-A). ``mlperf`` takes the mean power of the
    readings strictly inside the window, and subtracts no idle (MLPerf Power). A figure whose relative uncertainty is
    over ``error`` is withheld. Nothing is extrapolated or guessed: a figure that the readings do not support is None,
    with the reason in ``withheld``.

    Raises:
        ValueError: ``method`` is ``devit`` and there is no mean latency, or the window has no length.
    """
    if method == "devit" and mean_latency_s is None:
        raise ValueError("method 'devit' needs the mean latency")
    if load.end_ns <= load.begin_ns:
        raise ValueError("a window without length has no energy")
    info, seconds = series.info, (load.end_ns - load.begin_ns) / 1e9
    first = int(np.searchsorted(series.ns, load.begin_ns, "left"))
    last = int(np.searchsorted(series.ns, load.end_ns, "right"))
    gaps = np.diff(series.ns[max(first - 1, 0) : last + 1])
    reading = Reading(
        meter=info.name,
        scope=info.scope,
        watches=info.watches,
        provenance=info.provenance,
        quantity=info.quantity,
        host=info.host,
        method=method,
        window_s=seconds,
        inferences=inferences,
        samples=last - first,
        greatest_gap_s=float(gaps.max()) / 1e9 if len(gaps) else None,
        period_s=info.period_s,
        averaging_s=info.averaging_s,
        calibration=info.calibration,
        details=dict(info.details),
    )
    try:
        track = Track(series, load.begin_ns)
        if method == "mlperf":
            gross = mean_power(track, 0.0, seconds, slack=0.0)
        else:
            gross = integral(track, 0.0, seconds)
        if inferences < 1:
            raise WithheldError("no inference in the window")
    except WithheldError as reason:
        return replace(reading, withheld={"gross": str(reason), "net": "no gross energy"})

    energy, edge = gross.joules, math.hypot(gross.edge, gross.missed)
    calibration = None if info.calibration is None else UNIFORM * info.calibration * abs(energy)
    u_gross = math.hypot(calibration or 0.0, edge, gross.gaps)
    parts = {"calibration_j": calibration, "edge_j": edge, "gaps_j": gross.gaps, "idle_j": None}
    reading = replace(reading, u_gross_j=u_gross, uncertainty=parts, notes=_notes(track, method))
    try:
        _within(u_gross, energy, error, "gross")
        reading = replace(reading, energy_gross_j=energy, power_gross_w=energy / seconds)
    except WithheldError as reason:
        reading = replace(reading, withheld={"gross": str(reason)})
    if method == "mlperf":
        reading = _without_net(reading, "method 'mlperf' subtracts no idle")
    else:
        reading = _net(reading, track, energy, u_gross, load.begin_ns, before, after, error)
    share = (mean_latency_s or 0.0) / seconds if method == "devit" else 1 / inferences
    u = reading.u_net_j if reading.energy_net_j is not None else u_gross
    shown = reading.energy_net_j is not None or reading.energy_gross_j is not None
    return replace(
        reading,
        energy_gross_mj=_times(reading.energy_gross_j, 1e3 * share),
        energy_net_mj=_times(reading.energy_net_j, 1e3 * share),
        energy_u_mj=_times(u if shown else None, 1e3 * share),
    )


def _net(
    reading: Reading,
    track: Track,
    energy: float,
    u_gross: float,
    origin: int,
    before: Span | None,
    after: Span | None,
    error: float | None,
) -> Reading:
    """Return the reading with idle subtracted. The difference of the two idle powers is a part of the uncertainty."""
    try:
        first, u_first = _idle(track, before, origin, "before")
        reading = replace(reading, idle_before_w=first)
        last, u_last = _idle(track, after, origin, "after")
    except WithheldError as reason:
        return _without_net(reading, str(reason))
    mean, seconds, notes = (first + last) / 2, reading.window_s, list(reading.notes)
    drift = (last - first) / mean if mean else None
    u_idle = seconds * math.hypot(u_first / 2, u_last / 2, UNIFORM * (last - first) / 2)
    net, u_net = energy - mean * seconds, math.hypot(u_gross, u_idle)
    if drift is not None and abs(drift) > DRIFT:
        notes.append(f"idle drifted by {drift:+.0%}, from {first:.3g} to {last:.3g} W")
    if abs(net) <= u_net:
        notes.append("net energy cannot be told from zero")
    reading = replace(
        reading,
        idle_after_w=last,
        idle_w=mean,
        idle_drift=drift,
        u_net_j=u_net,
        uncertainty={**reading.uncertainty, "idle_j": u_idle},
        notes=tuple(notes),
    )
    try:
        _within(u_net, net, error, "net")
    except WithheldError as reason:
        return _without_net(reading, str(reason))
    return replace(reading, energy_net_j=net)


def _idle(track: Track, span: Span | None, origin: int, name: str) -> tuple[float, float]:
    """Return the mean power of an idle time and its uncertainty, in watts."""
    if span is None:
        raise WithheldError(f"idle {name} the load was not measured")
    length = (span.end_ns - span.begin_ns) / 1e9
    try:
        part = mean_power(track, (span.begin_ns - origin) / 1e9, (span.end_ns - origin) / 1e9)
    except WithheldError as reason:
        raise WithheldError(f"idle {name} the load: {reason}") from None
    return part.joules / length, math.hypot(part.edge, part.gaps) / length


def _without_net(reading: Reading, reason: str) -> Reading:
    return replace(reading, withheld={**reading.withheld, "net": reason})


def _within(u: float, energy: float, error: float | None, name: str) -> None:
    relative = u / abs(energy) if energy else math.inf
    if error is not None and relative > error:
        raise WithheldError(f"uncertain by {relative:.1%} ({name}), more than energy_error {error:.2%}")


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _notes(track: Track, method: Preset) -> tuple[str, ...]:
    notes = []
    info = track.info
    if info.calibration is None:
        notes.append("no calibration stated by the maker: not in the uncertainty")
    if method == "mlperf" and (info.calibration is None or info.calibration > MLPERF_METER):
        notes.append("MLPerf asks for a meter within 1%")
    gaps = np.diff(track.polls)
    even = 2 * info.period_s >= track.interval or np.ptp(gaps) < 0.1 * np.median(gaps)
    if not track.counter and even and info.averaging_s < track.interval / 2:
        notes.append("sampled evenly: a load in step with the samples would not be seen, nor its uncertainty")
    return tuple(notes)


# --- several meters --------------------------------------------------------------------------------


def cross_check(readings: Sequence[Reading]) -> list[Reading]:
    """Return the readings, each with its relative difference from other readings of the same thing in the same scope.

    The counter and the integrated power of one GPU are known to differ by up to a factor of two. A difference of more
    than 10% gets a note.
    """
    checked = []
    for this in readings:
        differences, notes = {}, list(this.notes)
        for other in readings:
            same = (other.scope, other.watches, other.host) == (this.scope, this.watches, this.host)
            a, b = this.energy_gross_j, other.energy_gross_j
            if other is this or not same or a is None or b is None:
                continue
            differences[other.meter] = abs(a - b) / (abs(a + b) / 2) if a + b else 0.0
            if differences[other.meter] > DISAGREEMENT:
                notes.append(
                    f"differs by {differences[other.meter]:.0%} from {other.meter}, which reads the same thing"
                )
        checked.append(replace(this, disagreement=differences, notes=tuple(notes)))
    return checked

"""Compare the energy of synthetic power curves with their true integral, and count how often the interval holds it.

Each trial draws a new curve (phases, noise, drifting idle power). Power meters are polled at 10, 50 and 100 Hz, at
even times or with +-50% jitter, and 5% of the polls are lost. Counters are polled at their period.

    python benchmarks/energy_error.py
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from harness.machine.energy.reading import Preset, Reading, Series, Span, read_window
from harness.types.meters import MeterInfo

IDLE_S = 3.0
MARGIN_S = 1.5
TRIALS = 40
LOADS = (
    "constant",
    "step",
    "ramp",
    "square 30 ms",
    "square 100 ms",
    "square 300 ms",
    "square 1 s",
    "bursts",
    "noise",
)


@dataclass(frozen=True)
class Truth:
    """Power of each millisecond from ``start`` on, in watts. Its integral is exact. The workload runs from 0 to T."""

    start: float
    watts: NDArray[np.float64]
    seconds: float
    net_j: float

    @cached_property
    def counted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times, and joules since the first time."""
        edges = self.start + 1e-3 * np.arange(len(self.watts) + 1)
        return edges, np.append(0.0, np.cumsum(self.watts) * 1e-3)

    def joules(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(t, *self.counted)

    def power(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.watts[((t - self.start) * 1e3).astype(int)]

    @property
    def gross_j(self) -> float:
        begin, end = self.joules(np.array([0.0, self.seconds]))
        return float(end - begin)


@cache
def make_load(kind: str, seconds: float, seed: int) -> Truth:
    """Return a curve with 1 to 5 W of idle power that drifts by up to 4%, and 2 to 20 W more under the workload."""
    rng = np.random.default_rng([*kind.encode(), seed])
    start = -IDLE_S - MARGIN_S
    t = start + 1e-3 * np.arange(round((seconds - 2 * start) * 1e3)) + 5e-4
    idle = rng.uniform(1, 5) * (1 + rng.uniform(-0.02, 0.02) * (t / seconds - 0.5))
    height, phase = rng.uniform(2, 20), rng.uniform()
    if kind == "constant":
        shape = np.ones_like(t)
    elif kind == "step":
        shape = np.where(t < seconds * rng.uniform(0.1, 0.9), 1.0, rng.uniform(0.2, 0.8))
    elif kind == "ramp":
        shape = 0.3 + 0.7 * t / seconds
    elif kind.startswith("square"):
        number, unit = kind.split()[1:]
        period = float(number) * (1e-3 if unit == "ms" else 1.0)
        shape = ((t / period + phase) % 1 < rng.uniform(0.3, 0.7)).astype(float)
    elif kind == "bursts":  # inferences of 5 to 60 ms, and pauses of the same length
        changes = np.cumsum(rng.uniform(0.005, 0.06, size=round(seconds / 0.005) + 2))
        shape = (np.searchsorted(changes, t) % 2).astype(float)
    elif kind == "noise":  # 20%, correlated over 50 ms
        steps = rng.normal(0, 0.2 * np.sqrt(2 / 50), len(t) + 299)
        shape = 1 + np.convolve(steps, np.exp(-np.arange(300) / 50), "valid")
    else:
        raise ValueError(kind)
    added = np.where((t > 0) & (t < seconds), height * shape, 0.0)
    truth = Truth(start, idle + added, seconds, 0.0)
    level = idle[(t > 0) & (t < seconds)].mean()
    return Truth(start, truth.watts, seconds, truth.gross_j - float(level) * seconds)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A synthetic meter. ``period_s`` is how often its value changes; 0: each poll reads the power at that moment."""

    quantity: str
    rate_hz: float
    jitter: bool = True
    period_s: float = 0.0
    averaging_s: float = 0.0
    unit: float = 0.0
    noise: float = 0.01
    lost: float = 0.05
    calibration: float = 0.01


def poll(truth: Truth, sensor: Sensor, rng: np.random.Generator) -> Series:
    """Return the readings of ``truth`` by ``sensor``, with a calibration error drawn within its bound."""
    first, last = -IDLE_S - 0.3, truth.seconds + IDLE_S + 0.3
    n = int((last - first) * sensor.rate_hz)
    offsets = rng.uniform(-0.5, 0.5, n) if sensor.jitter else np.full(n, rng.uniform(-0.5, 0.5))
    t = np.sort(first + (np.arange(n) + 0.5 + offsets) / sensor.rate_hz)
    t = t[rng.uniform(size=n) >= sensor.lost]
    seen = t
    if sensor.period_s:
        phase = rng.uniform()
        seen = (np.floor(t / sensor.period_s - phase) + phase) * sensor.period_s
    gain = 1 + rng.uniform(-sensor.calibration, sensor.calibration)
    if sensor.quantity == "energy":
        value = gain * truth.joules(seen) + rng.uniform(0, 1e4)
    elif sensor.averaging_s:
        value = gain * (truth.joules(seen) - truth.joules(seen - sensor.averaging_s)) / sensor.averaging_s
    else:
        value = gain * truth.power(seen)
    if sensor.quantity == "power":
        _, of = np.unique(seen, return_inverse=True)
        value = value * (1 + rng.normal(0, sensor.noise, len(seen))[of])
    if sensor.unit:
        value = np.floor(value / sensor.unit) * sensor.unit
    info = MeterInfo(
        name="synthetic",
        scope="board",
        watches="board",
        provenance="measured",
        quantity="energy" if sensor.quantity == "energy" else "power",
        period_s=sensor.period_s or 1e-3,
        averaging_s=sensor.averaging_s,
        calibration=sensor.calibration,
    )
    return Series(info=info, ns=np.round(t * 1e9).astype(np.int64), value=value)


def read(truth: Truth, series: Series, method: Preset = "default") -> Reading:
    end = round(truth.seconds * 1e9)
    idle = round(IDLE_S * 1e9)
    return read_window(
        series, Span(0, end), Span(-idle, 0), Span(end, end + idle), 100, method=method, mean_latency_s=0.01
    )


def trials(kind: str, sensor: Sensor, seconds: float = 5.0) -> NDArray[np.float64]:
    """Return [n, 4]: relative error and half-width of gross energy; whether the intervals hold gross and net energy."""
    rows = []
    for trial in range(TRIALS):
        truth = make_load(kind, seconds, trial)
        seed = [trial, *kind.encode(), *repr(sensor).encode()]
        found = read(truth, poll(truth, sensor, np.random.default_rng(seed)))
        if found.energy_gross_j is None or found.energy_net_j is None:
            continue  # too many consecutive polls are lost
        assert found.u_gross_j is not None
        assert found.u_net_j is not None
        off, off_net = abs(found.energy_gross_j - truth.gross_j), abs(found.energy_net_j - truth.net_j)
        held, held_net = off <= found.u_gross_j, off_net <= found.u_net_j
        rows.append((off / truth.gross_j, found.u_gross_j / truth.gross_j, held, held_net))
    return np.array(rows, float)


def table(sensors: dict[str, Sensor]) -> None:
    all_trials, lines = [], []
    for kind in LOADS:
        cells = []
        for sensor in sensors.values():
            found = trials(kind, sensor)
            rms = np.sqrt(np.mean(found[:, 0] ** 2))
            cells.append(f"{100 * rms:.2f} ({100 * found[:, 1].mean():.2f}) {100 * found[:, 2].mean():.0f}")
            all_trials.append(found)
        lines.append([kind, *cells])
    print(tabulate(lines, headers=["load", *sensors], tablefmt="github", disable_numparse=True))
    held = np.concatenate(all_trials)
    gross, net = 100 * held[:, 2:].mean(axis=0)
    print(f"held: gross {gross:.1f}%, net {net:.1f}% of {len(held)} windows\n")


EVEN = {
    f"{rate} Hz, even": Sensor(quantity="power", rate_hz=rate, jitter=False, lost=0.0)
    for rate in (10, 50, 100)
}
JITTERED = {f"{rate} Hz, jitter": Sensor(quantity="power", rate_hz=rate) for rate in (10, 50, 100)}
OTHERS = {
    "10 Hz, mean of 0.1 s": Sensor(quantity="power", rate_hz=10, averaging_s=0.1),
    "10 Hz, mean of 1 s": Sensor(quantity="power", rate_hz=10, averaging_s=1.0),
    "counter, 1 ms": Sensor(quantity="energy", rate_hz=100, period_s=1e-3, unit=61e-6),
    "counter, 100 ms": Sensor(quantity="energy", rate_hz=10, period_s=0.1, unit=1e-3),
}


if __name__ == "__main__":
    print(
        f"{TRIALS} windows of 5 s a cell, in percent: rms error (mean half-width) share held by the interval\n"
    )
    print("Power read at the poll. Even polls miss what is in step with them, and cannot know it:")
    table(EVEN)
    table(JITTERED)
    print("Power that the meter averages, and counters of energy; polled with jitter:")
    table(OTHERS)

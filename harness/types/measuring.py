"""The input and output of a measurement: the workload, the samples of its window, and the report of each device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.types.energy import Preset, Reading
from harness.types.json import Signals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Clock",
    "DeviceReport",
    "FleetLoad",
    "LatencyTrace",
    "Metering",
    "PartTrace",
    "Samples",
    "Scenario",
    "Stop",
    "SustainedLoad",
    "WarmUp",
    "WindowAnswers",
    "Workload",
]

Scenario = Literal["single-stream", "offline", "multi-stream", "server"]


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The offset of a device's monotonic clock from this process's, in nanoseconds, within ``error_ns``."""

    offset_ns: int = 0
    error_ns: int = 0


# --- the workload --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The ends of warm-up, window, and the sustained workload after it.

    ``warmup``: warm-up ends when the latency is steady, after ``warmup_max_s`` at most, or after one query. The
    window ends when both minima are met, or at the maximum time. ``sustained_s``: the workload continues for this
    long after the window.
    """

    min_time_s: float = 1.0
    min_queries: int = 662
    max_time_s: float = 60.0
    warmup: Literal["steady", "one"] = "steady"
    warmup_max_s: float = 5.0
    sustained_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Metering:
    """The parts of a measurement that meters need.

    ``idle_s``: idle time before and after the workload if a meter reads. ``method``: the rules by which energy is
    computed. ``error``: relative uncertainty for which the window is lengthened, within its maximum time.
    ``cool_below_c``: temperature of the hottest sensor to wait for, for ``cool_limit_s`` at most. ``elsewhere``: a
    meter of another host reads, so there is idle time even if no meter reads here.
    """

    idle_s: float = 2.0
    method: Preset = "default"
    error: float | None = None
    cool_below_c: float | None = None
    cool_limit_s: float = 300.0
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class FleetLoad:
    """The rules by which queries are sent to a partition over several devices.

    ``in_flight``: number of queries that are in flight at once. ``deadline_s``: time after which a query is given up.
    ``on_missing``: if a part does not answer by then, either the measurement ends, or the stand-ins of its edges are
    used. ``resident``: the images are on the devices before the window begins.
    """

    in_flight: int = 1
    deadline_s: float | None = None
    on_missing: Literal["fail", "substitute"] = "fail"
    resident: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The queries to generate, when to stop, and the rules for meters and fleets.

    ``batch``: number of images that are inferred at once. ``streams``: number of images of a multi-stream query.
    ``target_qps``: mean arrivals per second in the server scenario. ``seed`` determines the arrivals.
    """

    scenario: Scenario = "single-stream"
    batch: int = 1
    streams: int = 8
    target_qps: float | None = None
    seed: int = 0
    generator: Literal["harness", "loadgen"] = "harness"
    stop: Stop = field(default_factory=Stop)
    metering: Metering = field(default_factory=Metering)
    fleet: FleetLoad = field(default_factory=FleetLoad)


# --- the results of a window ---------------------------------------------------------------------


@dataclass(frozen=True)
class WarmUp:
    """The latencies before the window, int64 [n] in nanoseconds, and whether they became steady."""

    latency_ns: NDArray[np.int64]
    steady: bool


@dataclass(frozen=True)
class LatencyTrace:
    """The latencies of one window, int64 [n], and its length, both in nanoseconds; and whether both minima were met.

    The server scenario has two more arrays, int64 [n] in nanoseconds. ``queue_ns`` is the time from when a query was
    due until it was started; it is a part of the latency. ``late_ns`` is the part of it that the generator itself
    caused, while no other query was being answered. ``reference`` is the summary of LoadGen if it drove the window
    (:mod:`harness.worker.loadgen.mlperf`). ``marks``, int64 [k, 3], are (queries, nanoseconds, nanoseconds of CPU
    time) from the window's begin until the mark; None if the generator sets none
    (:mod:`harness.worker.loadgen.marks`).
    """

    latency_ns: NDArray[np.int64]
    window_ns: int
    reached: bool
    queue_ns: NDArray[np.int64] | None = None
    late_ns: NDArray[np.int64] | None = None
    reference: Mapping[str, float | str] = field(default_factory=dict)
    marks: NDArray[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SustainedLoad:
    """The end of the workload that continued after the window, compared with the window (burst).

    ``seconds``: length of that workload. ``tail_s``: length of its end, to which the figures belong: median latency
    in ms, its ratio to that of the window, images per second, and mean watts by meter (None if they are withheld).
    """

    seconds: float
    tail_s: float
    burst_p50_ms: float
    p50_ms: float
    slowdown: float
    throughput_ips: float
    power_gross_w: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class PartTrace:
    """The times, outcomes and traffic of a partition's parts in a window.

    ``timeline``: nanoseconds of each query, int64 [n], by ``compute:PART``, and of parts on other devices also
    ``encode:PART``, ``transport:PART``, ``queue:PART``. ``outcome`` int8 [n]: 0 whole, 1 with a stand-in for a part,
    2 not answered. ``missed``: by part, the number of queries that it did not answer in time. ``traffic``: bytes of
    one query, as ``input_bytes``, ``feature_bytes``, and for parts on other devices ``sent_bytes:PART``,
    ``received_bytes:PART``. ``links``: nanoseconds of a probe of each link
    (:meth:`harness.worker.links.Links.probe`).
    """

    timeline: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    outcome: NDArray[np.int8] | None = None
    missed: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WindowAnswers:
    """A random sample of the answers of a window, and how long the runtime takes for pictures that it never saw.

    ``n``: number of answers that were read. The sample has k answers. ``first``, int64 [k], is the index of an
    answer's first image, and ``size``, int64 [k], its number of images. ``logits``: float32 [sum of size, classes].
    ``same_ns`` and ``changed_ns``, int64 [pairs]: times of queries with the window's images and with new pictures,
    measured alternately after the window.
    """

    n: int = 0
    first: NDArray[np.int64] | None = None
    size: NDArray[np.int64] | None = None
    logits: NDArray[Any] | None = None
    same_ns: NDArray[np.int64] | None = None
    changed_ns: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """The report of one device about a window.

    ``memory`` is in bytes. ``energy`` has the readings of its meters. ``meters`` has their raw samples, and the spans
    over which they are read, in nanoseconds of the device's monotonic clock. ``states`` has the state of the machine
    from each watch. ``problems`` has a line for each problem of meters and watches.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    energy: tuple[Reading, ...] = ()
    meters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    states: Mapping[str, Signals] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def merged(self, other: DeviceReport) -> DeviceReport:
        """Return this report merged with another one. If both have a key, the value of the other one counts."""
        return DeviceReport(
            memory={**self.memory, **other.memory},
            energy=(*self.energy, *other.energy),
            meters={**self.meters, **other.meters},
            states={**self.states, **other.states},
            problems=(*self.problems, *other.problems),
        )

    def of_device(self, name: str) -> DeviceReport:
        """Return the report with the device's name in each entry, so that reports of several devices can be merged.

        The result has no ``memory``, since memory is not merged.
        """
        return DeviceReport(
            energy=self.read_on(name).energy,
            meters={f"{key} on {name}": values for key, values in self.meters.items()},
            states={f"{watch} on {name}": state for watch, state in self.states.items()},
            problems=tuple(f"{name}: {line}" for line in self.problems),
        )

    def read_on(self, name: str) -> DeviceReport:
        """Return the report with the device's name in its readings only."""
        return replace(self, energy=tuple(replace(reading, device=name) for reading in self.energy))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples of one measuring window, all from one process.

    ``first_ns``: the time of the first inference after loading. ``batch``: number of images of a query. ``cooled``:
    whether the requested temperature was reached. ``environment``: the signals of the window
    (:class:`harness.machine.state.Window`). ``spans``: begin and end of the window and of idle time, in nanoseconds
    of the worker's monotonic clock. ``sustained`` and ``lasting_ns`` (int64 [n]) are of the workload that continued
    after the window. ``answers``: a sample of the window's answers. ``here``: the report of the device that measured.
    """

    trace: LatencyTrace
    warmup: WarmUp
    first_ns: int
    batch: int
    target_qps: float | None = None
    cooled: bool = True
    environment: Mapping[str, float] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sustained: SustainedLoad | None = None
    lasting_ns: NDArray[np.int64] | None = None
    parts: PartTrace = field(default_factory=PartTrace)
    answers: WindowAnswers = field(default_factory=WindowAnswers)
    here: DeviceReport = field(default_factory=DeviceReport)

"""What a measurement takes and gives: the workload, the samples of its window, and each device's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.types.energy import Method, Reading
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
    """A device's monotonic clock less this process's, within ``error_ns``."""

    offset_ns: int = 0
    error_ns: int = 0


# --- what is asked for ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When warm-up, window and the workload after it end.

    ``warmup``: when the latency is steady, after ``warmup_max_s`` at most, or after one query. The window ends when
    both minima are met, or the maximum time is. ``sustained_s``: the workload continues for this long after the window.
    """

    min_time_s: float = 1.0
    min_queries: int = 662
    max_time_s: float = 60.0
    warmup: Literal["steady", "one"] = "steady"
    warmup_max_s: float = 5.0
    sustained_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Metering:
    """What is done for meters.

    ``idle_s``: idle time before and after the workload, where a meter reads. ``method``: whose rules the energy follows.
    ``error``: relative uncertainty for which the window is lengthened, within its maximum time. ``cool_below_c``: the
    hottest sensor's temperature to wait for, for ``cool_limit_s`` at most. ``elsewhere``: another host's meter reads,
    so there is idle time also where no meter reads here.
    """

    idle_s: float = 2.0
    method: Method = "default"
    error: float | None = None
    cool_below_c: float | None = None
    cool_limit_s: float = 300.0
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class FleetLoad:
    """How queries of a partition over several devices are sent.

    ``in_flight`` queries are worked on at once. A query is answered, or given up, within ``deadline_s``.
    ``on_missing``: a part that does not answer by then ends the measurement, or what its edges declare stands in.
    ``resident``: the images are on the devices before the window begins.
    """

    in_flight: int = 1
    deadline_s: float | None = None
    on_missing: Literal["fail", "substitute"] = "fail"
    resident: bool = False


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The queries to generate, when to stop, and what is done for meters and fleets.

    ``batch``: images that are inferred at once. ``streams``: images of a multi-stream query. ``target_qps``: mean
    arrivals per second of the server scenario, drawn from ``seed``.
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


# --- what a window gives -------------------------------------------------------------------------


@dataclass(frozen=True)
class WarmUp:
    """Latencies before the window, int64 [n] in nanoseconds, and whether they became steady."""

    latency_ns: NDArray[np.int64]
    steady: bool


@dataclass(frozen=True)
class LatencyTrace:
    """The latencies of one window, int64 [n]; its length, both in nanoseconds; whether both minima were met.

    Of the server scenario also, int64 [n]: ``queue_ns``, from when a query was due until it was taken up, a part
    of its latency; and ``late_ns``, the generator's own share of that, when nothing else was being answered.
    ``reference``: the summary of LoadGen where it drove the window (:mod:`harness.worker.loadgen.mlperf`).
    """

    latency_ns: NDArray[np.int64]
    window_ns: int
    reached: bool
    queue_ns: NDArray[np.int64] | None = None
    late_ns: NDArray[np.int64] | None = None
    reference: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SustainedLoad:
    """The end of the workload that continued after the window, compared with the window (burst).

    ``seconds``: length of that workload; ``tail_s``: length of its end, whose figures these are: median latency in ms, its
    ratio to the window's, images per second, and by meter mean watts (None where they are withheld).
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
    """How a partition's parts fared in a window.

    ``timeline``: nanoseconds of each query, int64 [n], by ``compute:PART``, and of parts on other devices also
    ``encode:PART``, ``transport:PART``, ``queue:PART``. ``outcome`` int8 [n]: 0 whole, 1 something stood in for a part,
    2 not answered. ``missed``: by part, queries that it did not answer in time. ``traffic``: bytes of one query, as
    ``input_bytes``, ``feature_bytes``, and for parts on other devices ``sent_bytes:PART``, ``received_bytes:PART``.
    ``links``: nanoseconds of a probe of each link (:meth:`harness.worker.links.Links.probe`).
    """

    timeline: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    outcome: NDArray[np.int8] | None = None
    missed: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WindowAnswers:
    """A random sample of the answers of a window, and how the runtime behaves on changed images.

    ``n`` answers were read. Of the sample, int64 [k]: ``first``, the index of an answer's first image, and ``size``, how
    many images it answers; ``logits``, float32 [sum of size, classes]. ``same_ns`` and ``changed_ns``, int64 [pairs]:
    times of queries with the window's images and with changed ones, taken by turns after the window.
    """

    n: int = 0
    first: NDArray[np.int64] | None = None
    size: NDArray[np.int64] | None = None
    logits: NDArray[Any] | None = None
    same_ns: NDArray[np.int64] | None = None
    changed_ns: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """What one device's meters and watches saw of a window.

    ``memory`` in bytes; ``energy`` the meters' readings; ``meters`` their raw samples, and the spans that they are
    read over, in nanoseconds of the device's monotonic clock; ``states`` what each watch saw of the machine;
    ``problems`` of meters and watches, a line each.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    energy: tuple[Reading, ...] = ()
    meters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    states: Mapping[str, Signals] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def merged(self, other: DeviceReport) -> DeviceReport:
        """Return this report and another one as one. Where both have a key, the other's value counts."""
        return DeviceReport(
            memory={**self.memory, **other.memory},
            energy=(*self.energy, *other.energy),
            meters={**self.meters, **other.meters},
            states={**self.states, **other.states},
            problems=(*self.problems, *other.problems),
        )

    def of_device(self, name: str) -> DeviceReport:
        """Return the report with the device's name in each entry, so that those of several devices may be merged.

        It has no ``memory``, which is each device's own.
        """
        return DeviceReport(
            energy=self.read_on(name).energy,
            meters={f"{key} on {name}": values for key, values in self.meters.items()},
            states={f"{watch} on {name}": state for watch, state in self.states.items()},
            problems=tuple(f"{name}: {line}" for line in self.problems),
        )

    def read_on(self, name: str) -> DeviceReport:
        """Return the report with the device's name in its readings alone."""
        return replace(self, energy=tuple(replace(reading, device=name) for reading in self.energy))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples of one measuring window, all from one process.

    ``first_ns``: the very first inference after loading. ``batch``: images of a query. ``cooled``: whether a
    temperature that was asked for was reached. ``environment``: the window's signals
    (:class:`harness.machine.state.Window`). ``spans``: begin and end of the window and of idle time, in nanoseconds of
    the worker's monotonic clock. ``sustained`` and ``lasting_ns`` (int64 [n]) are of the workload that continued after the
    window. ``answers``: a sample of the window's answers. ``here``: the report of the device that measured.
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

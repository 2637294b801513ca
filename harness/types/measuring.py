"""What a measurement takes and gives: load, samples, reports of other devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DeviceReport", "Clock", "Workload", "Samples", "Scenario"]


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A device's monotonic clock less this process's, within ``error_ns``."""

    offset_ns: int = 0
    error_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """What a device that is not the central one saw of a window: ``memory`` in bytes, ``energy`` readings,
    ``meters`` raw samples, ``states`` and ``problems`` as in :class:`~harness.types.Samples`.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    energy: Sequence[Mapping[str, Any]] = ()
    meters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: Sequence[str] = ()


Scenario = Literal["single-stream", "offline", "multi-stream", "server"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What load to generate, when to stop (both minima met, or the maximum time), and what to read beside it.

    ``streams``: samples of a multi-stream query. ``target_qps``: mean arrivals per second of the server
    scenario, drawn from ``seed``. ``warmup``: until steady, or one query. ``sustained_s``: the load goes on
    for this long. ``idle_s``: idle before and after, where a meter reads; ``energy_error``: relative
    uncertainty for whose sake the window is lengthened, within ``max_time_s``.

    Of a partition over several devices: ``in_flight`` frames are worked on at once; a query is answered, or
    given up, within ``deadline_s``; ``on_missing``: a part that does not answer by then ends the measurement, or
    what its edges declare stands in; ``resident``: the images are on the devices before the window begins.
    ``metered_elsewhere``: idle before and after also where no meter reads here, for another host's does.
    """

    scenario: Scenario = "single-stream"
    batch: int = 1
    streams: int = 8
    target_qps: float | None = None
    seed: int = 0
    generator: Literal["harness", "loadgen"] = "harness"
    min_time_s: float = 1.0
    min_queries: int = 662
    max_time_s: float = 60.0
    warmup: Literal["steady", "one"] = "steady"
    warmup_max_s: float = 5.0
    sustained_s: float | None = None
    idle_s: float = 2.0
    energy_method: Literal["default", "devit", "mlperf"] = "default"
    energy_error: float | None = None
    cool_below_c: float | None = None
    cool_limit_s: float = 300.0
    in_flight: int = 1
    deadline_s: float | None = None
    on_missing: Literal["fail", "substitute"] = "fail"
    resident: bool = False
    metered_elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples of one measuring window, all from one process.

    ``latency_ns`` int64 [n]: one query each; ``first_ns`` the very first inference after loading;
    ``warmup_ns`` those before steady state; ``batch`` images in a query; ``timeline`` per-part nanoseconds,
    int64 [n] each (``compute:PART``); ``memory`` in bytes; ``environment`` the window's signals;
    ``states`` what each watch saw of the machine; ``energy`` the meters' readings, as a record has them, and
    ``meters`` their raw samples; ``sustained`` and ``lasting_ns`` are of the load that went on after the window;
    ``queue_ns``, ``late_ns`` int64 [n] (server, at ``target_qps`` arrivals a second) and ``reference`` as :class:`harness.worker.loadgen.queries.Timed` has them;
    ``cooled``: whether a temperature that was asked for was reached; ``problems`` of watches, a line each;
    ``spans``: begin and end of the window and of idle time, on the worker's monotonic clock.

    Of a partition over several devices: ``timeline`` also has ``encode:PART``, ``transport:PART``, ``queue:PART``;
    ``network`` the bytes of one query (``input_bytes``, ``feature_bytes``) and, per part on another device,
    ``sent_bytes:PART`` and ``received_bytes:PART``; ``links`` a probe of each, per part, in nanoseconds (``up:PART``
    and ``down:PART``: the query's bytes one way and a few back, or the reverse; ``rtt:PART``: a few both ways);
    ``outcome`` int8 [n]: 0 whole, 1 something stood in for a part, 2 not answered; ``missed`` queries by part.
    """

    latency_ns: NDArray[np.int64]
    warmup_ns: NDArray[np.int64]
    first_ns: int
    window_ns: int
    batch: int
    steady: bool
    reached: bool
    cooled: bool = True
    timeline: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    energy: Sequence[Mapping[str, Any]] = ()
    meters: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    sustained: Mapping[str, Any] = field(default_factory=dict)
    lasting_ns: NDArray[np.int64] | None = None
    queue_ns: NDArray[np.int64] | None = None
    late_ns: NDArray[np.int64] | None = None
    target_qps: float | None = None
    reference: Mapping[str, float | str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    network: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    outcome: NDArray[np.int8] | None = None
    missed: Mapping[str, int] = field(default_factory=dict)

"""The workload of MLCommons LoadGen, which checks that of the harness. It sends the same query in the same process.

LoadGen (mlcommons/inference, ``loadgen/``) decides when each query is sent and when to stop. The queries are timed
here. The figures of LoadGen's own summary of the same queries are returned as ``reference``. It calls back in the
calling thread, waits for the answer, and ends within the maximum time: after the query during which that time ends,
or in the server scenario after the next arrival. A run cannot be interrupted.

It differs from the harness's own generators. Images are drawn at random with replacement. The arrivals of the server
scenario are those of LoadGen's own generator. Offline is a single query of all samples; their number is set
beforehand, from the speed of a few queries. LoadGen makes its queries before the window, and they count as memory of
the process.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.extras import install_command
from harness.types import LatencyTrace, Workload
from harness.worker.loadgen.queries import Query, no_collection, queued

__all__ = ["generate_with_loadgen", "needs"]

TRIED = 10
TRIED_NS = 50_000_000
MOST = 1_000_000  # largest number of queries that are made beforehand, of about 200 bytes each
SLACK = 1.1  # factor of extra samples, which LoadGen itself uses in the offline scenario

_PERCENTILE = re.compile(r"^(50|90|99)\.00 percentile latency \(ns\)\s*: (\d+)$", re.MULTILINE)
_RATE = {
    "single-stream": ("qps", r"^QPS w/ loadgen overhead\s*: (\S+)$"),
    "server": ("qps", r"^Completed samples per second\s*: (\S+)$"),
    "offline": ("samples_per_s", r"^Samples per second\s*: (\S+)$"),
}
_QUEUED = re.compile(r'"sample_seq":(\d+),.*"issue_start_ns":(\d+)')


def needs() -> str | None:
    """Return what must be installed before LoadGen can generate a workload here, or ``None`` if nothing is missing."""
    if importlib.util.find_spec("mlperf_loadgen") is not None:
        return None
    return f"generator: loadgen needs MLCommons LoadGen: {install_command('loadgen')}"


def generate_with_loadgen(
    query: Query, inputs: list[NDArray[np.float32]], workload: Workload
) -> LatencyTrace:
    """Let LoadGen generate the workload in performance mode.

    Latencies are as in :mod:`harness.worker.loadgen.generate`. ``reference`` has ``loadgen``, which is its version,
    and figures of its summary. For offline that is ``samples_per_s``. For the other scenarios they are ``p50_ms``,
    ``p90_ms``, ``p99_ms`` and ``qps``. In single-stream, ``qps`` includes LoadGen's own time between queries. In
    server it counts completed queries, and multi-stream has none. There is no reference if an offline run exceeds the
    maximum time, since LoadGen would count samples that were not inferred.

    Raises:
        ImportError: LoadGen is not installed.
        ValueError: LoadGen's trace of the server scenario cannot be read.
    """
    import mlperf_loadgen as lg

    sut = _Sut(
        query,
        inputs,
        workload,
        lambda ids: lg.QuerySamplesComplete([lg.QuerySampleResponse(i, 0, 0) for i in ids]),
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(lg, workload, _pace_ns(query, inputs))
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = workload.scenario == "server"  # only this trace says when a query was due
        tested = lg.ConstructSUT(sut.issue_all if workload.scenario == "offline" else sut.issue, _nothing)
        count = len(inputs) * sut.streams  # one sample of LoadGen is one batch here
        library = lg.ConstructQSL(count, count, _nothing, _nothing)
        try:
            with no_collection():
                lg.StartTestWithLogSettings(tested, library, settings, logs, "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(tested)
        if sut.error is not None:
            raise sut.error
        return sut.trace(Path(folder))


class _Sut:
    """LoadGen's "system under test". It answers LoadGen's queries one at a time, and keeps their times.

    No exception may pass through LoadGen. The first one is kept, and later queries are answered without running.
    """

    def __init__(
        self,
        query: Query,
        inputs: list[NDArray[np.float32]],
        workload: Workload,
        complete: Callable[[Sequence[int]], None],
    ) -> None:
        self.query, self.inputs, self.workload, self.complete = query, inputs, workload, complete
        self.streams = workload.streams if workload.scenario == "multi-stream" else 1
        self.clock = time.perf_counter_ns
        self.max_ns = int(workload.stop.max_time_s * 1e9)
        self.starts, self.ends = array("q"), array("q")
        self.error: Exception | None = None
        self.cut = False

    def issue(self, samples: Sequence[Any]) -> None:
        """Answer one query. It has one sample, or in multi-stream one sample for each stream."""
        self._answer(self.inputs[samples[0].index // self.streams])
        self.complete([sample.id for sample in samples])

    def issue_all(self, samples: Sequence[Any]) -> None:
        """Answer all samples of an offline run. After the maximum time they do not run, so that LoadGen ends."""
        batch = self.workload.batch
        source = itertools.cycle(self.inputs)
        for start in range(0, len(samples), batch):
            if self.starts and self.ends[-1] - self.starts[0] >= self.max_ns:
                self.cut = True
            else:
                self._answer(next(source))
            self.complete([sample.id for sample in samples[start : start + batch]])

    def _answer(self, images: NDArray[np.float32]) -> None:
        if self.error is not None:
            return
        try:
            start = self.clock()
            self.query(images)
            end = self.clock()
        except Exception as error:  # noqa: BLE001 - raised again once LoadGen has ended
            self.error = error
            return
        self.starts.append(start)
        self.ends.append(end)

    def trace(self, folder: Path) -> LatencyTrace:
        """Return the latencies, with LoadGen's own figures from its logs in ``folder``."""
        starts, ends = np.array(self.starts, np.int64), np.array(self.ends, np.int64)
        latency, queue, late = ends - starts, None, None
        begin = int(starts[0])
        if self.workload.scenario == "server":
            queue = _queue(folder / "mlperf_log_trace.json", len(starts))
            begin -= int(queue[0])
            queue, late = queued(starts - queue, starts, ends)
            latency = latency + queue
        window = int(ends[-1]) - begin
        reached = (
            window >= self.workload.stop.min_time_s * 1e9 and len(starts) >= self.workload.stop.min_queries
        )
        reference = {} if self.cut else _summary(folder / "mlperf_log_summary.txt", self.workload.scenario)
        return LatencyTrace(latency, window, reached, queue_ns=queue, late_ns=late, reference=reference)


def _settings(lg: Any, workload: Workload, pace_ns: int) -> Any:
    """Return TestSettings that end within the maximum time. ``pace_ns`` is the time of one query.

    LoadGen makes its queries beforehand: twice as many as the expected latency requires, or all of the schedule. If
    they would be too many, the window is shorter than its minimum time, and the trace says so.
    """
    pace_ns = max(pace_ns, 1, int(2e9 * workload.stop.min_time_s / MOST))
    min_time_s = workload.stop.min_time_s
    settings = lg.TestSettings()
    settings.scenario = {
        "single-stream": lg.TestScenario.SingleStream,
        "multi-stream": lg.TestScenario.MultiStream,
        "server": lg.TestScenario.Server,
        "offline": lg.TestScenario.Offline,
    }[workload.scenario]
    settings.mode = lg.TestMode.PerformanceOnly
    settings.max_duration_ms = max(1, int(workload.stop.max_time_s * 1000))  # 0 means no limit
    settings.min_query_count = workload.stop.min_queries
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = workload.seed
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = pace_ns
    settings.multi_stream_samples_per_query = workload.streams
    if workload.target_qps is not None:
        settings.server_target_qps = workload.target_qps
        min_time_s = min(min_time_s, MOST / workload.target_qps)
    settings.min_duration_ms = int(min_time_s * 1000) + 1
    if workload.scenario == "offline":
        queries = max(workload.stop.min_queries, int(SLACK * workload.stop.min_time_s * 1e9 / pace_ns) + 1)
        queries = max(1, min(queries, int(workload.stop.max_time_s * 1e9 / pace_ns)))
        settings.min_query_count = queries * workload.batch
        settings.offline_expected_qps = (
            0.5 * settings.min_query_count / max(workload.stop.min_time_s, 1.0)
        )  # asks for no more
    return settings


def _pace_ns(query: Query, inputs: list[NDArray[np.float32]]) -> int:
    """Return the shortest time of a few queries in nanoseconds. At most 10 queries are sent, for at most 50 ms."""
    taken: list[int] = []
    for batch in itertools.islice(itertools.cycle(inputs), TRIED):
        start = time.perf_counter_ns()
        query(batch)
        taken.append(time.perf_counter_ns() - start)
        if sum(taken) >= TRIED_NS:
            break
    return min(taken)


def _queue(trace: Path, n: int) -> NDArray[np.int64]:
    """Return the nanoseconds from when each query was due until LoadGen sent it: int64 [n], from its trace."""
    queue = np.full(n, -1, np.int64)
    with trace.open() as lines:
        for line in lines:
            if (match := _QUEUED.search(line)) and int(match[1]) < n:
                queue[int(match[1])] = int(match[2])
    if (queue < 0).any():
        raise ValueError(f"LoadGen {version('mlcommons_loadgen')} left a trace that cannot be read")
    return queue


def _summary(path: Path, scenario: str) -> dict[str, float | str]:
    """Return the figures of LoadGen's summary."""
    text = path.read_text()
    figures: dict[str, float | str] = {"loadgen": version("mlcommons_loadgen")}
    if scenario != "offline":  # in this scenario latency counts from the begin of the window
        figures |= {f"p{name}_ms": int(ns) / 1e6 for name, ns in _PERCENTILE.findall(text)}
    if scenario in _RATE:
        name, pattern = _RATE[scenario]
        if rate := re.search(pattern, text, re.MULTILINE):
            figures[name] = float(rate[1])
    return figures


def _nothing(*_: object) -> None:
    """Do nothing when LoadGen asks to load images or to flush queries.

    The images are in memory, and the queries are answered.
    """

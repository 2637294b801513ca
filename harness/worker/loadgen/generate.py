"""Generate a workload of any scenario. Only this file knows all generators."""

from __future__ import annotations

import itertools
import time

import numpy as np
from numpy.typing import NDArray

from harness.types import LatencyTrace, Workload
from harness.worker.loadgen.loop import closed_loop, server_loop
from harness.worker.loadgen.marks import Marks
from harness.worker.loadgen.mlperf import generate_with_loadgen
from harness.worker.loadgen.pipelined import generate_pipelined
from harness.worker.loadgen.queries import Query, Timer

__all__ = ["generate"]


def generate(
    query: Query, inputs: list[NDArray[np.float32]], workload: Workload, clock: Timer = time
) -> LatencyTrace:
    """Send queries until minimum time and minimum count are both met, or the maximum time is over.

    The queries are sent without pause, or when they are due in the server scenario. The timed region contains the
    call and nothing else. The garbage collector is off. With ``in_flight`` above 1, ``query`` is a
    :class:`harness.worker.loadgen.queries.QueryStream`.

    Raises:
        ValueError: the server scenario has no ``target_qps``, or no query was due within the maximum time.
        ImportError: LoadGen is requested and not installed (:func:`harness.worker.loadgen.mlperf.needs`).
    """
    if workload.generator == "loadgen":
        return generate_with_loadgen(query, inputs, workload)
    if workload.fleet.in_flight > 1:
        return generate_pipelined(query, inputs, workload)  # type: ignore[arg-type]
    if workload.scenario == "server":
        return server_loop(query, itertools.cycle(inputs), workload, clock)
    min_ns, max_ns = int(workload.stop.min_time_s * 1e9), int(workload.stop.max_time_s * 1e9)
    min_n = workload.stop.min_queries
    marks = Marks()

    def enough(n: int, elapsed_ns: int) -> bool:
        end = (elapsed_ns >= min_ns and n >= min_n) or elapsed_ns >= max_ns
        marks.after(n, elapsed_ns, end)
        return end

    latency, elapsed_ns = closed_loop(query, itertools.cycle(inputs), enough, clock)
    reached = elapsed_ns >= min_ns and len(latency) >= min_n
    return LatencyTrace(latency, elapsed_ns, reached, marks=marks.array())

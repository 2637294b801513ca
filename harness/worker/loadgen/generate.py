"""Load of any scenario: the one place that knows all generators."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from harness.types import Workload
from harness.worker.loadgen.loop import _served, _timed
from harness.worker.loadgen.queries import Query, Timed

__all__ = ["generate"]


def generate(query: Query, inputs: list[NDArray[np.float32]], load: Workload) -> Timed:
    """Query until minimum time and minimum count are both met, or the maximum time is: without pause, or as due.

    The timed region holds the call and nothing else; the garbage collector rests.

    Raises:
        ValueError: the server scenario without ``target_qps``, or no query was due within the maximum time.
        ImportError: LoadGen shall generate the load, and is not installed (:func:`harness.worker.loadgen.mlperf.missing`).
    """
    if load.generator == "loadgen":
        from harness.worker.loadgen.mlperf import generate_with_loadgen

        return generate_with_loadgen(query, inputs, load)
    if load.in_flight > 1:
        from harness.worker.loadgen.pipelined import generate_pipelined

        return generate_pipelined(query, inputs, load)  # type: ignore[arg-type]  # the worker's takes frames ahead
    if load.scenario == "server":
        return _served(query, itertools.cycle(inputs), load)
    min_ns, max_ns, min_n = int(load.min_time_s * 1e9), int(load.max_time_s * 1e9), load.min_queries

    def enough(n: int, elapsed: int) -> bool:
        return (elapsed >= min_ns and n >= min_n) or elapsed >= max_ns

    latency, elapsed = _timed(query, itertools.cycle(inputs), enough)
    return Timed(latency, elapsed, elapsed >= min_ns and len(latency) >= min_n)

"""Several queries in flight over a partition: the next query is sent while others are computed.

With several devices, the throughput of consecutive camera images increases, and so does their latency. One run here
measures both. Latency counts from the time when a query was due, and ``in_flight`` queries are in flight at once.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.types import LatencyTrace, Workload
from harness.worker.loadgen.queries import InFlight, QueryStream, arrivals, no_collection

__all__ = ["generate_pipelined"]

Array = NDArray[np.float32]


def generate_pipelined(stream: QueryStream, inputs: list[Array], workload: Workload) -> LatencyTrace:
    """Generate a workload like :func:`harness.worker.loadgen.generate.generate`, with ``in_flight`` queries at once.

    In ``single-stream`` a query is due when another one is answered. In ``server`` it is due at the time of its
    Poisson process. Every query that was begun is answered and counted. With a deadline, every query that was due is
    counted too. Latencies are in the order of the answers.

    Raises:
        ValueError: no query was due within the maximum time.
    """
    clock = time.perf_counter_ns
    stop, in_flight = workload.stop, workload.fleet.in_flight
    min_ns, max_ns, min_n = int(stop.min_time_s * 1e9), int(stop.max_time_s * 1e9), stop.min_queries
    has_deadline = workload.fleet.deadline_s is not None
    source = itertools.cycle(inputs)
    latency, queued, late = array("q"), array("q"), array("q")
    active: list[tuple[InFlight, int]] = []
    with no_collection():
        begin = clock()
        schedule = _schedule(workload, begin, max_ns)
        due = next(schedule, None) if schedule else None
        room_since = begin
        open_ = True
        while open_ or active:
            now = clock()
            if open_ and (now - begin >= max_ns or (len(latency) >= min_n and now - begin >= min_ns)):
                open_ = has_deadline and due is not None and due <= now
            if open_ and schedule and due is None:
                open_ = False
            while open_ and len(active) < in_flight and (schedule is None or (due or 0) <= clock()):
                active.append((stream.submit(next(source), due), room_since))
                if schedule:
                    due = next(schedule, None)
                    if due is None:
                        break
            room = open_ and len(active) < in_flight
            stream.step(due if room and schedule else None if active else clock())
            for query, since in [begun for begun in active if begun[0].done]:
                if len(active) == in_flight:
                    room_since = query.end_ns
                active.remove((query, since))
                latency.append(query.end_ns - query.due_ns)
                queued.append(query.begin_ns - query.due_ns)
                late.append(queued[-1] if since <= query.due_ns else 0)
        elapsed = clock() - begin
    if not latency:
        raise ValueError(f"no query was due within max_time ({stop.max_time_s:g} s)")
    reached = elapsed >= min_ns and len(latency) >= min_n
    latency_ns, queue_ns, late_ns = (np.array(times, np.int64) for times in (latency, queued, late))
    if schedule is None:
        return LatencyTrace(latency_ns, elapsed, reached)
    return LatencyTrace(latency_ns, elapsed, reached, queue_ns=queue_ns, late_ns=late_ns)


def _schedule(workload: Workload, begin: int, max_ns: int) -> Iterator[int] | None:
    """Return the times when queries are due, on the clock of ``begin``, or None if they are due when there is room."""
    if workload.scenario != "server":
        return None
    assert workload.target_qps is not None
    offsets = itertools.takewhile(
        lambda offset: offset < max_ns, arrivals(workload.target_qps, workload.seed)
    )
    return (begin + offset for offset in offsets)

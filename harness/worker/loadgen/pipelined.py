"""Several frames in flight over a partition: the next one is sent while others are computed.

What consecutive frames of a camera gain from several devices is throughput; what each waits is its delay. Both
are of one run here: latency counts from when a frame was due, ``in_flight`` frames are worked on at once.
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


def generate_pipelined(stream: QueryStream, inputs: list[Array], load: Workload) -> LatencyTrace:
    """As :func:`harness.worker.loadgen.generate.generate`, with ``load.fleet.in_flight`` frames at once.

    ``single-stream``: a frame is due when one is answered; ``server``: as its Poisson process says. All that was
    begun is answered, and counted; with a deadline, so is all that was due. Latencies are in the order of the answers.

    Raises:
        ValueError: no query was due within the maximum time.
    """
    clock = time.perf_counter_ns
    min_ns, max_ns, min_n = (
        int(load.stop.min_time_s * 1e9),
        int(load.stop.max_time_s * 1e9),
        load.stop.min_queries,
    )
    source = itertools.cycle(inputs)
    latency, queued, late = array("q"), array("q"), array("q")
    active: list[tuple[InFlight, int]] = []
    with no_collection():
        begin = clock()
        schedule = _schedule(load, begin, max_ns)
        due = next(schedule, None) if schedule else None
        room_since = begin
        open_ = True
        while open_ or active:
            now = clock()
            if open_ and (now - begin >= max_ns or (len(latency) >= min_n and now - begin >= min_ns)):
                open_ = load.fleet.deadline_s is not None and due is not None and due <= now
            if open_ and schedule and due is None:
                open_ = False
            while (
                open_ and len(active) < load.fleet.in_flight and (schedule is None or (due or 0) <= clock())
            ):
                active.append((stream.submit(next(source), due), room_since))
                if schedule:
                    due = next(schedule, None)
                    if due is None:
                        break
            room = open_ and len(active) < load.fleet.in_flight
            stream.step(due if room and schedule else None if active else clock())
            for frame, since in [one for one in active if one[0].done]:
                if len(active) == load.fleet.in_flight:
                    room_since = frame.end_ns
                active.remove((frame, since))
                latency.append(frame.end_ns - frame.due_ns)
                queued.append(frame.begin_ns - frame.due_ns)
                late.append(queued[-1] if since <= frame.due_ns else 0)
        elapsed = clock() - begin
    if not latency:
        raise ValueError(f"no query was due within max_time ({load.stop.max_time_s:g} s)")
    reached = elapsed >= min_ns and len(latency) >= min_n
    taken, waited, own = (np.array(one, np.int64) for one in (latency, queued, late))
    if schedule is None:
        return LatencyTrace(taken, elapsed, reached)
    return LatencyTrace(taken, elapsed, reached, queue_ns=waited, late_ns=own)


def _schedule(load: Workload, begin: int, max_ns: int) -> Iterator[int] | None:
    """When frames are due, on the clock that ``begin`` was read from; ``None``: when there is room."""
    if load.scenario != "server":
        return None
    assert load.target_qps is not None
    offsets = itertools.takewhile(lambda offset: offset < max_ns, arrivals(load.target_qps, load.seed))
    return (begin + offset for offset in offsets)

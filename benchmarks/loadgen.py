"""Measure our generator's p50, divided by that of MLCommons LoadGen, on the same session in one process.

The generators take turns: ours, LoadGen's, ours. Three ratios are printed for each scenario: ours over the value in
LoadGen's summary; ours over itself (A/A), which is the noise of the machine; and, for the queries that LoadGen sent,
our timing over LoadGen's own, which is the cost of its calls. Offline compares images per second inversely, so that a
value above 1 is slower.

    python benchmarks/loadgen.py [ROUNDS]
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from worker_overhead import export

from harness.types import LatencyTrace, SessionOptions, Stop, Workload
from harness.worker.loadgen.generate import generate
from harness.worker.loadgen.loop import warm_up
from harness.worker.loadgen.queries import batches, per_query, whole

LOADS = {
    "single-stream": Workload(stop=Stop(min_time_s=0, min_queries=50)),
    "multi-stream": Workload(
        scenario="multi-stream", streams=4, batch=4, stop=Stop(min_time_s=0, min_queries=10)
    ),
    "offline": Workload(scenario="offline", batch=4, stop=Stop(min_time_s=0, min_queries=10)),
    "server": Workload(scenario="server", stop=Stop(min_time_s=0, min_queries=50)),
}


def figure(timed: LatencyTrace, load: Workload) -> float:
    """Return p50 in ms (of two middle values the upper one, as in LoadGen); for offline, ms per image."""
    if load.scenario == "offline":
        return timed.window_ns / 1e6 / (len(timed.latency_ns) * load.batch)
    return float(np.sort(timed.latency_ns)[len(timed.latency_ns) // 2]) / 1e6


def said(timed: LatencyTrace, load: Workload) -> float:
    return 1e3 / timed.reference["samples_per_s"] if load.scenario == "offline" else timed.reference["p50_ms"]  # type: ignore[return-value,operator]


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        entry, artifact = export(Path(name))
        session = entry.load(artifact, SessionOptions(threads=1))
        images = np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32)

        def query(batch: np.ndarray) -> object:
            return session.run((batch,))

        alone = figure(generate(query, batches(images, 1), LOADS["single-stream"]), LOADS["single-stream"])
        LOADS["server"] = replace(LOADS["server"], target_qps=0.3e3 / alone)  # a utilisation of 30%
        for scenario, load in LOADS.items():
            inputs, run = batches(images, per_query(load)), whole(query, load)
            warm_up(run, inputs, load)
            over, same, calls = [], [], []
            for seed in range(rounds):
                first, theirs, second = (
                    generate(run, inputs, replace(load, seed=seed, generator=generator))
                    for generator in ("harness", "loadgen", "harness")
                )
                ours = [figure(one, load) for one in (first, second)]
                over.append(sum(ours) / 2 / said(theirs, load))
                same.append(ours[1] / ours[0])
                calls.append(figure(theirs, load) / said(theirs, load))
            for title, ratios in (
                ("ours / LoadGen", over),
                ("ours / ours (A/A)", same),
                ("its queries by us / by it", calls),
            ):
                print(
                    f"{scenario}, {title}: median {median(ratios):.4f}, "
                    f"from {min(ratios):.4f} to {max(ratios):.4f}, n {rounds}",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

"""Measure latency with meters on, divided by latency with meters off, in one process.

Slices of queries take turns: on, off, off, on, and so on. On means four powercap meters at 100 Hz each (made-up file
trees, read like real ones), and the state of the machine. The slices are short and follow each other directly, so
that a drift of the machine cancels in the ratio. Off against off (A/A) shows the noise alone. The last line says
which effect this number of pairs would have shown.

    python benchmarks/sampler_overhead.py [ROUNDS]
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from worker_overhead import export

QUERIES = 10


def tree(folder: Path) -> Path:
    zone = folder / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (
        ("name", "package-0"),
        ("energy_uj", "1000000"),
        ("max_energy_range_uj", "262143328850"),
    ):
        (zone / name).write_text(f"{text}\n")
    return folder


def monitor(folder: Path):  # type: ignore[no-untyped-def]
    from harness.machine.meters import answers
    from harness.plugins import load_plugins
    from harness.types import MeterInfo, MeterUse, Monitor
    from harness.types.plain import function_name

    registered = load_plugins().meters.get("powercap")
    where = function_name(registered.entry.open)
    uses = []
    for number in range(4):
        params = registered.entry.params(root=str(tree(folder / str(number))))
        for info in answers(registered, params):
            assert isinstance(info, MeterInfo), info
            uses.append(MeterUse(info=replace(info, name=f"{info.name}:{number}"), open=where))
    assert len(uses) == 4
    return Monitor(meters=tuple(uses), watches={"linux": "harness.machine.state:watch"})


def p50(session, images) -> float:  # type: ignore[no-untyped-def]
    taken = []
    for _ in range(QUERIES):
        start = time.perf_counter_ns()
        session.run((images,))
        taken.append(time.perf_counter_ns() - start)
    return median(taken)


def main(rounds: int) -> None:
    import numpy as np

    from harness.machine.sampler import Sampler
    from harness.types import SessionOptions

    pairs, same, read = [], [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        entry, artifact = export(folder / "model")
        session = entry.load(artifact, SessionOptions(threads=1))
        images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
        sampler = Sampler(monitor(folder / "trees"))

        def on() -> float:
            nonlocal read
            sampler.start()
            begin = time.monotonic_ns()
            latency = p50(session, images)
            end = time.monotonic_ns()
            found = sampler.stop(begin, end, (begin, end))
            assert not any(one.error for one in found.meters)
            read += sum(len(one.ns) for one in found.meters)
            return latency

        for number in range(rounds + 3):
            first, a, b, last = on(), p50(session, images), p50(session, images), on()
            if number >= 3:  # caches and clocks are warm by now
                pairs.append((first + last) / (a + b))
                same.append(b / a)
        sampler.close()
    for title, ratios in (("on / off", pairs), ("off / off (A/A)", same)):
        low, high = interval(ratios)
        print(f"{title}: median {median(ratios):.4f}, 95% interval {low:.4f} to {high:.4f}, n {rounds}")
    low, high = interval(pairs)
    seen = (high - low) / 2 * (1.96 + 0.84) / 1.96
    print(
        f"{read} readings; an effect of {seen:.2%} would have been seen with a power of 80% (two-sided, 5%)"
    )


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the interval of the median from the binomial distribution of its rank. A stall counts as one rank."""
    ordered, n = sorted(ratios), len(ratios)
    off = 1.96 * math.sqrt(n) / 2
    return ordered[max(0, math.floor(n / 2 - off))], ordered[min(n - 1, math.ceil(n / 2 + off))]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)

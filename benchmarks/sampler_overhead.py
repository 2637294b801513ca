"""Latency with meters on over latency with meters off: p50 of the same model in fresh workers that take turns.

On: four powercap meters (made trees, read as real ones are), each at 100 Hz, and the machine's state.
Order is on, off, off, on, so that a slow drift of the machine falls out. The comparison of the two without
meters (A/A) shows what noise alone does; the last line says what effect so many pairs would have shown.

    python benchmarks/sampler_overhead.py [ROUNDS]
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median, stdev

from worker_overhead import QUERIES, export


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
    from dataclasses import replace

    from harness.meters import answers
    from harness.plugins import load_plugins
    from harness.types import MeterInfo, MeterUse, Monitor

    registered = load_plugins().meters.get("powercap")
    uses = []
    for number in range(4):
        params = registered.entry.params(root=str(tree(folder / str(number))))
        for info in answers(registered, params):
            assert isinstance(info, MeterInfo), info
            where = registered.entry.open
            uses.append(
                MeterUse(
                    info=replace(info, name=f"{info.name}:{number}"),
                    open=f"{where.__module__}:{where.__qualname__}",
                )
            )
    assert len(uses) == 4
    return Monitor(meters=tuple(uses), watches={"linux": "harness.state:watch"})


def p50(entry, artifact, monitor) -> float:  # type: ignore[no-untyped-def]
    import numpy as np

    from harness.plugins import load_plugins
    from harness.types import DeviceSpec, Load

    cpu = load_plugins().backends.get("cpu").entry
    images = np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32)
    spec = DeviceSpec(name="here", backend="cpu", params=cpu.params(), monitor=monitor)
    with cpu.open(spec) as device:
        device.load("model", artifact, entry)
        device.connect({"model": ("image",)}, {})
        samples = device.measure(Load(min_time_s=1.0, min_queries=QUERIES, idle_s=0.1), images)
    assert len(samples.energy) == len(monitor.meters)
    return float(median(samples.latency_ns))


def main(rounds: int) -> None:
    from harness.types import Monitor

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        entry, artifact = export(folder / "model")
        on, off = monitor(folder / "trees"), Monitor()
        pairs, same = [], []
        for _ in range(rounds):
            first, a, b, last = (p50(entry, artifact, which) for which in (on, off, off, on))
            pairs.append((first + last) / (a + b))
            same.append(b / a)
            print(
                f"off {a / 1e6:.3f} {b / 1e6:.3f} ms   on {first / 1e6:.3f} {last / 1e6:.3f} ms", flush=True
            )
    for title, ratios in (("on / off", pairs), ("off / off (A/A)", same)):
        print(
            f"{title}: median {median(ratios):.4f}, mean {fmean(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}"
        )
    seen = (1.96 + 0.84) * stdev(pairs) / math.sqrt(rounds)
    print(f"{rounds} pairs of four windows would show {seen:.2%} with a power of 80% (two-sided, 5%)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)

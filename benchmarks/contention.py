"""Measure how often a window is flagged with another process at work, and how often without.

Each window lasts one second on a small model. Quiet and loaded windows take turns. The load is one process that
computes without a pause. The quiet windows also depend on this machine: any other process on it is foreign too.

    python benchmarks/contention.py [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from worker_overhead import export

BUSY = "while True: pass"


def flagged(entry, artifact) -> list[str]:  # type: ignore[no-untyped-def]
    import numpy as np

    from harness.measure.flags import flags
    from harness.plugins import load_plugins
    from harness.types import DeviceSpec, Graph, GraphPart, Stop, Workload

    cpu = load_plugins().backends.get("cpu").entry
    images = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)
    with cpu.open(DeviceSpec(name="here", backend="cpu", params=cpu.params())) as device:
        device.load("model", artifact, entry)
        part = GraphPart(name="model", inputs=("image",), output=artifact.output)
        device.connect(Graph(parts=(part,)), {})
        return flags(device.measure(Workload(stop=Stop(min_time_s=1.0, min_queries=10)), images))


def main(rounds: int) -> None:
    from harness.stats import wilson

    found = {"quiet": Counter[str](), "loaded": Counter[str]()}
    with tempfile.TemporaryDirectory() as name:
        entry, artifact = export(Path(name))
        for _ in range(rounds):
            found["quiet"].update(flagged(entry, artifact))
            foreign = subprocess.Popen([sys.executable, "-c", BUSY])
            try:
                time.sleep(0.5)
                found["loaded"].update(flagged(entry, artifact))
            finally:
                foreign.kill()
                foreign.wait()
    for which, flags in found.items():
        low, high = wilson(flags["contended"], rounds)
        print(
            f"{which}: {flags['contended']} of {rounds} windows flagged contended "
            f"(95% Wilson interval {low:.0%} to {high:.0%}); others {dict(flags - Counter(contended=rounds))}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

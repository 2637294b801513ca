"""Measure the time of ``harness --help`` as a whole process, divided by that of an empty Python process.

python benchmarks/help_time.py [RUNS]
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median


def once(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main(runs: int) -> None:
    pairs = [
        (once(sys.executable, "-m", "harness", "--help"), once(sys.executable, "-c", "")) for _ in range(runs)
    ]
    ours, empty = (median(times) for times in zip(*pairs, strict=True))
    ratio = median(help_time / python for help_time, python in pairs)
    print(f"harness --help: {ours:.3f} s, an empty Python {empty:.3f} s, ratio {ratio:.1f}, n {runs}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

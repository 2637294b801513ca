"""Measure the time to plan a suite of 10,000 cells, divided by that of a suite of 1,000.

python benchmarks/planning.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.suite.loading import load_suite
from harness.types.plan import PrepareHost

SUITE = """
suite: large
data: {{name: synthetic, num_classes: 10, size: 32, channels: 3, train: 100, test: 100}}
seeds: {seeds}
methods:
  cloud: {{build: {{vit: {{patch_size: 8, dim: 96, depth: 12, heads: 6}}}}}}
  edge-${{blocks}}-${{norm}}-${{train}}:
    grid: {{blocks: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], norm: [reinit, transfer], train: [true, false]}}
    from: cloud
    compress: [{{edgevit: {{blocks: "${{blocks}}", layer_norm: "${{norm}}", train_layer_norm: "${{train}}"}}}}]
  cut-${{after}}:
    grid: {{after: [1, 2, 3, 4, 5]}}
    from: cloud
    partition: {{pipeline: {{after: "${{after}}"}}}}
devices: {{here: {{backend: cpu}}, there: {{backend: cpu}}}}
run:
  - {{methods: all, devices: [here, there], runtimes: [onnxruntime, torch]}}
"""


def plan(seeds: int) -> tuple[int, float]:
    plugins = load_plugins()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        path.write_text(SUITE.format(seeds=list(range(seeds))))
        start = time.perf_counter()
        made = make_plan(load_suite(path), plugins, PrepareHost()).plan
        return len(made.cells), time.perf_counter() - start


if __name__ == "__main__":
    plan(1)  # imports
    small_cells, small = plan(5)
    large_cells, large = plan(50)
    print(
        f"{small_cells:,} cells: {small:.2f} s; {large_cells:,} cells: {large:.2f} s; ratio {large / small:.1f}"
    )

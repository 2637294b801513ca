"""Measure the worker's p50, divided by that of a hand-written loop, on the same exported model and settings.

Fresh processes take turns: loop, worker, loop, worker, and so on. The comparison of the loops with each other (A/A)
shows the noise of the machine.

    python benchmarks/worker_overhead.py [ROUNDS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from types import SimpleNamespace

LOOP = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
images = np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32)
for i in range(20):
    session.run(None, {name: images[i % 32 : i % 32 + 1]})
times = []
for i in range(int(sys.argv[2])):
    start = time.perf_counter_ns()
    session.run(None, {name: images[i % 32 : i % 32 + 1]})
    times.append(time.perf_counter_ns() - start)
print(json.dumps(sorted(times)[len(times) // 2]))
"""
QUERIES = 100


def export(folder: Path):  # type: ignore[no-untyped-def]
    import torch

    from harness.plugins import load_plugins
    from harness.types import IMAGE, Edge, ModuleSpec, Part, TensorSpec

    torch.manual_seed(0)
    spec = ModuleSpec(
        factory="timm:create_model", params={"model_name": "vit_tiny_patch16_224", "num_classes": 10}
    )
    part = Part(
        name="model",
        module=spec.build(),
        spec=spec,
        output=TensorSpec(shape=(10,)),
        inputs=(Edge(source=IMAGE, tensor=TensorSpec(shape=(3, 224, 224))),),
    )
    entry = load_plugins().runtimes.get("onnxruntime").entry
    return entry, entry.export(SimpleNamespace(workdir=folder), part, entry.params())


def worker(entry, artifact) -> float:  # type: ignore[no-untyped-def]
    import numpy as np

    from harness.plugins import load_plugins
    from harness.types import DeviceSpec, Graph, GraphPart, Stop, Workload

    cpu = load_plugins().backends.get("cpu").entry
    images = np.random.default_rng(0).standard_normal((32, 3, 224, 224)).astype(np.float32)
    with cpu.open(DeviceSpec(name="here", backend="cpu", params=cpu.params())) as device:
        device.load("model", artifact, entry)
        part = GraphPart(name="model", inputs=("image",), output=artifact.output)
        device.connect(Graph(parts=(part,)), {})
        samples = device.measure(Workload(stop=Stop(min_time_s=0, min_queries=QUERIES)), images)
    return float(median(samples.trace.latency_ns))


def loop(model: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", LOOP, str(model), str(QUERIES)], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout))


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry, artifact = export(folder)
        (model,) = folder.rglob("*.onnx")
        pairs, same = [], []
        for _ in range(rounds):
            first, ours, second = loop(model), worker(entry, artifact), loop(model)
            pairs.append(ours / ((first + second) / 2))
            same.append(second / first)
            print(
                f"loop {first / 1e6:.3f} ms   worker {ours / 1e6:.3f} ms   loop {second / 1e6:.3f} ms",
                flush=True,
            )
    for title, ratios in (("worker / loop", pairs), ("loop / loop (A/A)", same)):
        print(
            f"{title}: median {median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}, n {rounds}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)

"""Measure what happens to queries when boards fail at random.

Faults: a board is slowed, hangs, is unplugged, reset, killed, or runs out of memory. Three agents run on loopback with
TLS and token. Each is behind a forwarder that simulates its cable. The fusion runs here. Queries arrive by a Poisson
process. Each must be answered by its deadline, with stand-ins for absent parts, or be reported as failed. Every
window deploys the parts again, as a suite does for the cells of a lost board.

    python benchmarks/faults.py [SECONDS=600] [SEED=1]
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.errors import HarnessError
from harness.plugins import load_plugins
from harness.types import IMAGE, Artifact, DeviceSpec, FleetLoad, Graph, GraphPart, Stop, TensorSpec, Workload
from harness.worker.loadgen.queries import arrivals

SHAPE, FEATURES = (3, 64, 64), 16
BOARDS = ("b1", "b2", "b3")
WINDOW_S, QPS, DEADLINE_S, SLACK_S = 8.0, 30.0, 0.3, 0.05
DEPLOY_S = 30.0
CABLE = """
import asyncio, sys
from functools import partial
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def accept(target, reader, writer):
    try:
        there, back = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        return writer.close()
    await asyncio.gather(pump(reader, back), pump(there, writer))
async def main():
    ports = list(map(int, sys.argv[1:]))
    for port, target in zip(ports[::2], ports[1::2]):
        await asyncio.start_server(partial(accept, target), "127.0.0.1", port)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Board:
    """An agent and its cable. Faults can be injected and removed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder / name
        self.port, self.agent_port = free_port(), free_port()
        self.frames_port, self.agent_frames_port = free_port(), free_port()
        self.run("init", "--folder", str(self.folder))
        self.agent = self.cable = None
        self.heal()

    def run(self, *words: str) -> None:
        subprocess.run([sys.executable, "-m", "harness", "agent", *words], check=True, capture_output=True)

    def heal(self) -> None:
        """Remove all faults: continue stopped processes and start ended ones."""
        for process in (self.agent, self.cable, *self.workers()):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if process is not None:
                    os.kill(process.pid, signal.SIGCONT)
        for worker in self.workers():
            with suppress(psutil.Error, OSError):
                resource.prlimit(worker.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if self.agent is None or self.agent.poll() is not None:
            ready = self.folder / "ready"
            words = [
                "agent",
                "serve",
                "--folder",
                str(self.folder),
                "--port",
                str(self.agent_port),
                "--frames-port",
                str(self.agent_frames_port),
            ]
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "harness", *words, "--ready-file", str(ready)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            end = time.monotonic() + DEPLOY_S
            while not ready.exists() and time.monotonic() < end:
                time.sleep(0.05)
        if self.cable is None or self.cable.poll() is not None:
            ports = (self.port, self.agent_port, self.frames_port, self.agent_frames_port)
            self.cable = subprocess.Popen([sys.executable, "-c", CABLE, *map(str, ports)])

    def workers(self) -> list[psutil.Process]:
        if self.agent is None:
            return []
        with suppress(psutil.Error):
            children = psutil.Process(self.agent.pid).children()
            return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
        return []

    def end(self) -> None:
        for process in (self.cable, self.agent):
            if process is not None:
                process.kill()
                process.wait(5)

    # --- faults: each returns its duration in seconds ---

    def slow(self, rng: random.Random) -> float:
        return self._stop(self.workers(), rng.uniform(0.05, 0.4))

    def hung(self, rng: random.Random) -> float:
        return self._stop([self.agent, *self.workers()], rng.uniform(0.5, 4))

    def unplugged(self, rng: random.Random) -> float:
        return self._stop([self.cable], rng.uniform(0.5, 4))

    def reset(self, rng: random.Random) -> float:
        return self._kill([self.cable], rng.uniform(0.1, 2))

    def worker_killed(self, rng: random.Random) -> float:
        return self._kill(self.workers(), 0.1)

    def agent_killed(self, rng: random.Random) -> float:
        return self._kill([self.agent], rng.uniform(0.1, 2))

    def out_of_memory(self, rng: random.Random) -> float:
        for worker in self.workers():
            with suppress(psutil.Error, OSError):
                resource.prlimit(worker.pid, resource.RLIMIT_AS, (worker.memory_info().vms,) * 2)
        return rng.uniform(0.5, 3)

    @staticmethod
    def _stop(processes: list[Any], seconds: float) -> float:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
        return seconds

    @staticmethod
    def _kill(processes: list[Any], seconds: float) -> float:
        for process in processes:
            with suppress(ProcessLookupError, psutil.Error):
                process.kill()
                process.wait(5)
        return seconds


FAULTS = (
    Board.slow,
    Board.hung,
    Board.unplugged,
    Board.reset,
    Board.worker_killed,
    Board.agent_killed,
    Board.out_of_memory,
)


def onnx_part(folder: Path, name: str, inputs: list[tuple[int, ...]], output: int) -> Artifact:
    """Write an ONNX part that multiplies its concatenated flat inputs by a random matrix."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = sum(int(np.prod(shape)) for shape in inputs)
    weight = np.random.default_rng(0).normal(size=(size, output)).astype(np.float32) / size**0.5
    names = [f"in{i}" for i in range(len(inputs))]
    nodes = [helper.make_node("Flatten", [one], [f"flat_{one}"]) for one in names]
    nodes += [
        helper.make_node("Concat", [f"flat_{one}" for one in names], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", *shape])
            for one, shape in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", output])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save_model(model, folder / f"{name}.onnx")
    meta = {
        "file": f"{name}.onnx",
        "opset": 18,
        "ir_version": 8,
        "precision": "float32",
        "spinning": False,
        "quantised": 0,
        "batch_dependent": False,
    }
    return Artifact(
        path=folder,
        runtime="onnxruntime",
        precision="float32",
        weight_bytes=weight.nbytes,
        meta=meta,
        inputs=tuple(TensorSpec(shape=shape) for shape in inputs),
        output=TensorSpec(shape=(output,)),
    )


class Tormentor(threading.Thread):
    """Inject one fault after another into random boards until ``stop``. Count them in ``done``."""

    def __init__(self, boards: list[Board], rng: random.Random, done: Counter[str]) -> None:
        super().__init__(daemon=True)
        self.boards, self.rng, self.done, self.over = boards, rng, done, threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.rng.uniform(0.5, 2.5)):
            board, fault = self.rng.choice(self.boards), self.rng.choice(FAULTS)
            self.done[fault.__name__] += 1
            self.over.wait(fault(board, self.rng))
            board.heal()

    def stop(self) -> None:
        self.over.set()
        self.join(DEPLOY_S + 10)
        for board in self.boards:
            board.heal()


def window(
    plugins: Any,
    parts: dict[str, Artifact],
    boards: list[Board],
    seed: int,
    rng: random.Random,
    done: Counter[str],
) -> Any:
    """Measure one window with faults. Return its samples, and the number of queries that were due in it."""
    runtime = plugins.runtimes.get("onnxruntime").entry
    features = {
        name: GraphPart(name=name, inputs=(IMAGE,), output=TensorSpec(shape=(FEATURES,))) for name in BOARDS
    }
    fusion = GraphPart(
        name="fusion", inputs=BOARDS, output=TensorSpec(shape=(10,)), stand_ins=dict.fromkeys(BOARDS, ())
    )
    with ExitStack() as stack:

        def opened(name: str, backend: str) -> Any:
            entry = plugins.backends.get(backend).entry
            given = {"lost_after": 10} if backend == "agent" else {}
            return stack.enter_context(
                entry.open(DeviceSpec(name=name, backend=backend, params=entry.params(**given)))
            )

        devices = {name: opened(name, "agent") for name in BOARDS}
        central = opened("here", "cpu")
        central.load("fusion", parts["fusion"], runtime)
        for name, device in devices.items():
            device.load(name, parts["sub"], runtime)
        central.connect(
            Graph(parts=(*features.values(), fusion)),
            {name: one.serve(central) for name, one in devices.items()},
        )
        load = Workload(
            scenario="server",
            target_qps=QPS,
            seed=seed,
            stop=Stop(min_time_s=WINDOW_S, min_queries=1, max_time_s=WINDOW_S, warmup="one"),
            fleet=FleetLoad(in_flight=4, deadline_s=DEADLINE_S, on_missing="substitute"),
        )
        tormentor = Tormentor(boards, rng, done)
        tormentor.start()
        try:
            samples = central.measure(load, np.zeros((16, *SHAPE), np.float32))
        finally:
            tormentor.stop()
    due = sum(1 for _ in takewhile(lambda offset: offset < WINDOW_S * 1e9, arrivals(QPS, seed)))
    return samples, due


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rng = random.Random(seed)
    faults: Counter[str] = Counter()
    total: Counter[str] = Counter()
    worst = 0.0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        boards = [Board(name, folder) for name in BOARDS]
        inventory = folder / "devices.yaml"
        inventory.write_text(
            "".join(
                f"{one.name}: {{backend: agent, host: 127.0.0.1, port: {one.port}, frames_port: {one.frames_port}, "
                f"certificate: {one.name}/certificate.pem, token: {one.name}/token}}\n"
                for one in boards
            )
        )
        os.environ["HARNESS_DEVICES"] = str(inventory)
        parts = {
            "sub": onnx_part(folder, "sub", [SHAPE], FEATURES),
            "fusion": onnx_part(folder, "fusion", [(FEATURES,)] * len(BOARDS), 10),
        }
        plugins = load_plugins()
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                seed += 1
                try:
                    samples, due = window(plugins, parts, boards, seed, rng, faults)
                except HarnessError as error:
                    total["windows that failed, and said why"] += 1
                    print(f"  {error}", flush=True)
                    time.sleep(1)
                    for board in boards:
                        board.heal()
                    continue
                latency = samples.trace.latency_ns / 1e9
                total["windows"] += 1
                total["frames due"] += due
                total["answered whole"] += int((samples.parts.outcome == 0).sum())
                total["answered with stand-ins"] += int((samples.parts.outcome == 1).sum())
                total["failed, and said so"] += int((samples.parts.outcome == 2).sum())
                total["lost"] += due - len(latency)
                total["answered later than the deadline"] += int((latency > DEADLINE_S + SLACK_S).sum())
                worst = max(worst, float(latency.max()))
        finally:
            for board in boards:
                board.end()
    for name in (
        "frames due",
        "answered whole",
        "answered with stand-ins",
        "failed, and said so",
        "lost",
        "answered later than the deadline",
        "windows",
        "windows that failed, and said why",
    ):
        print(f"{name:36} {total[name]}")
    print(f"slowest answer {worst:.3f} s, deadline {DEADLINE_S} s")
    print("faults: " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sorted(faults.items())))


if __name__ == "__main__":
    main()

"""Tests of an agent that strangers crowd: connections without a token, and files that ask for
more memory than there is, never cost a measurement."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from harness.errors import DeviceError
from harness_remote.agent.session import worker_limit
from harness_remote.wire import secrets
from remote_boards import CLASSES, GRAPH, QUICK, SHAPE, Boards, opened, pictures, spec_of, until

pytest_plugins = ["remote_boards"]

FILES = 256
"""Files that the agent may open. Each connection is one."""


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start an agent with few files, and yield its ports and a board that reaches it."""
    boards = Boards(tmp_path)
    monkeypatch.setenv("HARNESS_DEVICES", str(boards.path))
    secrets.create(tmp_path / "pi1" / "identity")
    ready = tmp_path / "ready"
    serve = [sys.executable, "-m", "harness", "agent", "serve", "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            f'ulimit -n {FILES} && exec "$@"',
            "sh",
            *serve,
            "--folder",
            str(tmp_path / "pi1" / "identity"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        assert until(lambda: ready.exists() and ready.read_text())
        answer = json.loads(ready.read_text())
        ports = [int(answer[key].rpartition(":")[2]) for key in ("address", "frames")]
        boards.enter("pi1", ports[0])
        yield ports
    finally:
        boards.stop()
        process.kill()
        process.wait()


def test_idle_connections_without_a_token_cost_no_measurement(
    crowded: Any, plugins: Any, artifact: Any
) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    with contextlib.ExitStack() as crowd, opened(plugins, spec_of(plugins)) as device:
        device.load("whole", artifact, runtime)
        device.connect(GRAPH, {})
        for port in crowded:
            for _ in range(FILES):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        for _ in range(3):
            assert device.measure(QUICK, pictures()).trace.reached


def bomb(folder: Path, kind: str, elements: int = 2**36) -> Path:
    """Write a small ONNX file whose constant has ``elements`` float32 values: 256 GiB."""
    import onnx
    from onnx import TensorProto, helper

    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [elements])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    if kind == "shape":
        nodes = [helper.make_node("ConstantOfShape", ["shape"], ["big"])]
    else:
        nodes = [helper.make_node("Expand", ["zero", "shape"], ["big"])]
    nodes += [
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Flatten", ["in0/image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        helper.make_node("Add", ["scores", "sum"], ["out/whole"]),
    ]
    size = int(np.prod(SHAPE))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [size, CLASSES], [0.0] * size * CLASSES)
    graph = helper.make_graph(
        nodes,
        "bomb",
        [helper.make_tensor_value_info("in0/image", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("out/whole", TensorProto.FLOAT, ["n", CLASSES])],
        [shape, zero, weight],
    )
    path = folder / f"{kind}.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", ["shape", "expand"])
def test_a_file_that_asks_for_more_memory_than_there_is_fails_alone(
    crowded: Any, plugins: Any, artifact: Any, tmp_path: Path, kind: str
) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    path = bomb(tmp_path, kind)
    big = replace(artifact, path=path.parent, meta={**artifact.meta, "file": path.name})

    def infer() -> None:
        with opened(plugins, spec_of(plugins)) as device:
            device.load("whole", big, runtime)
            device.connect(GRAPH, {})
            device.infer(pictures(1), 1)

    with pytest.raises(DeviceError, match=r"alloc|memory"):
        infer()
    with opened(plugins, spec_of(plugins)) as device:
        device.load("whole", artifact, runtime)
        device.connect(GRAPH, {})
        assert device.measure(QUICK, pictures()).trace.reached


@pytest.mark.parametrize(
    ("free_mib", "held_mib", "limit_mib"), [(250, 70, 256), (100, 70, 134), (20, 70, 134), (4000, 110, 4046)]
)
def test_the_memory_that_a_worker_has_is_not_counted_twice(
    free_mib: int, held_mib: int, limit_mib: int
) -> None:
    """On a board of 512 MB, python and numpy of the worker are a quarter of what is free before they start."""
    assert worker_limit(free_mib * 2**20, held_mib * 2**20) == limit_mib * 2**20


def test_a_worker_may_use_the_free_memory_of_its_board_and_no_more(
    crowded: Any, plugins: Any, artifact: Any
) -> None:
    with opened(plugins, spec_of(plugins)) as device:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        limits = [
            process.rlimit(psutil.RLIMIT_DATA)[0]
            for process in psutil.Process().children(recursive=True)
            if "spawn_main" in " ".join(process.cmdline())
        ]
    assert any(0 < limit <= psutil.virtual_memory().total for limit in limits)

"""A board's agent from this side: real agents on loopback, with TLS and token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.plugins import load_plugins
from harness.types import Artifact, DeviceSpec, Graph, GraphPart, Load, Params, TensorSpec

pytest.importorskip("grpc")

from harness_remote import secrets
from harness_remote.inventory import Board, Inventory
from harness_remote.server import Agent, AgentSettings

SHAPE = (3, 8, 8)
CLASSES = 5


@pytest.fixture(scope="module")
def plugins() -> Any:
    return load_plugins()


def onnx_file(folder: Path, seed: int = 0) -> Artifact:
    """A linear layer over pixels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(seed).normal(size=(int(np.prod(SHAPE)), CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["in0/image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["out/whole"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("in0/image", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("out/whole", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / "whole.onnx")
    return Artifact(
        path=folder, runtime="onnxruntime", precision="float32", weight_bytes=weight.nbytes,
        inputs=(TensorSpec(shape=SHAPE),), output=TensorSpec(shape=(CLASSES,)),
        meta={
            "file": "whole.onnx", "opset": 18, "ir_version": 8, "precision": "float32", "spinning": False,
            "quantised": 0, "batch_dependent": False,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return onnx_file(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The inventory's file of one running agent, ``pi1``."""
    folder = tmp_path_factory.mktemp("board")
    identity = secrets.create(folder / "identity")
    with Agent(AgentSettings(folder=folder / "agent", identity=identity, name="pi1")) as agent:
        port = int(agent.address.rpartition(":")[2])
        inventory = Inventory.load(folder / "devices.yaml")
        inventory.add(
            "pi1",
            Board(
                backend="agent", host="127.0.0.1", port=port,
                certificate="identity/certificate.pem", token="identity/token",
            ),
        )  # fmt: skip
        inventory.save()
        yield inventory.path


def spec_of(plugins: Any, name: str = "pi1", backend: str = "agent", **params: Any) -> DeviceSpec:
    model: type[Params] = plugins.backends.get(backend).entry.params
    return DeviceSpec(name=name, backend=backend, params=model(**params))


GRAPH = Graph(parts=(GraphPart(name="whole", inputs=("image",), output=TensorSpec(shape=(CLASSES,))),))


def test_answers_as_a_local_worker_does(
    board: Path, plugins: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DEVICES", str(board))
    images = np.random.default_rng(1).normal(size=(7, *SHAPE)).astype(np.float32)
    runtime = plugins.runtimes.get("onnxruntime").entry
    answers = []
    for spec in (spec_of(plugins), DeviceSpec(name="cpu", backend="cpu", params=plugins.backends.get("cpu").entry.params())):
        with plugins.backends.get(spec.backend).entry.open(spec) as device:
            facts = device.load("whole", artifact, runtime)
            assert facts["precision"] == "float32"
            device.connect(GRAPH, {})
            answers.append(device.infer(images, 2))
            load = Load(min_time_s=0.05, min_queries=10, max_time_s=1.0, warmup="one")
            samples = device.measure(load, images)
            assert len(samples.latency_ns) >= 10
            assert samples.spans["load"][1] > samples.spans["load"][0]
    np.testing.assert_array_equal(answers[0], answers[1])

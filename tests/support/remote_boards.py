"""Agents on loopback behind relays, an inventory of them, and models for their workers.

A test module that uses the fixtures names this module in ``pytest_plugins``.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.plugins import load_plugins
from harness.types import (
    Artifact,
    DeviceInfo,
    DeviceSpec,
    Graph,
    GraphPart,
    Metering,
    Params,
    Stop,
    TensorSpec,
    Unavailable,
    Workload,
)
from harness_remote.agent import board
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.inventory import boards
from harness_remote.inventory.inventory import Board, Inventory
from harness_remote.wire import secrets
from harness_remote.wire.secrets import Credentials

SHAPE = (3, 8, 8)
CLASSES = 5


@pytest.fixture(scope="module")
def plugins() -> Any:
    return load_plugins()


def weights(seed: int, inputs: int = int(np.prod(SHAPE))) -> Any:
    return np.random.default_rng(seed).normal(size=(inputs, CLASSES)).astype(np.float32)


def onnx_file(folder: Path, seed: int = 0, part: str = "whole", shape: tuple[int, ...] = SHAPE) -> Artifact:
    """Write an ONNX file with one linear layer, and return its artifact."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = weights(seed, int(np.prod(shape)))
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["in0/image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], [f"out/{part}"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("in0/image", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(f"out/{part}", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / f"{part}.onnx")
    return Artifact(
        path=folder,
        runtime="onnxruntime",
        precision="float32",
        weight_bytes=weight.nbytes,
        inputs=(TensorSpec(shape=shape),),
        output=TensorSpec(shape=(CLASSES,)),
        meta={
            "file": f"{part}.onnx",
            "opset": 18,
            "ir_version": 8,
            "precision": "float32",
            "spinning": False,
            "quantised": 0,
            "batch_dependent": False,
        },
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return onnx_file(tmp_path_factory.mktemp("onnx"))


GRAPH = Graph(parts=(GraphPart(name="whole", inputs=("image",), output=TensorSpec(shape=(CLASSES,))),))
QUICK = Workload(
    stop=Stop(min_time_s=0.05, min_queries=10, max_time_s=0.3, warmup="one", warmup_max_s=0.2),
    metering=Metering(idle_s=0.0),
)


def until(condition: Callable[[], object]) -> bool:
    """Wait for up to a minute, and return whether the condition became true."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Relay:
    """A wire between a client and an agent, which can be cut, frozen or closed, and counts its bytes.

    After ``cut_after`` bytes one way it passes no more of them, and is cut once ``cut_when`` is true.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.sent = 0
        self.cut_after: int | None = None
        self.cut_when: Callable[[], object] = lambda: True
        self.frozen = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def open(self) -> int:
        return len(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                down, _ = self._socket.accept()
            except OSError:
                return
            try:
                up = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                down.close()
                continue
            for end in (down, up):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((down, up))
            threading.Thread(target=self._carry, args=(down, up), daemon=True).start()

    def _carry(self, down: socket.socket, up: socket.socket) -> None:
        """Forward bytes both ways until both directions have ended."""
        back = threading.Thread(target=self._pump, args=(up, down), daemon=True)
        back.start()
        self._pump(down, up)
        back.join()
        self._pairs.remove((down, up))

    def _pump(self, source: socket.socket, other: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                while self.frozen:
                    time.sleep(0.01)
                passed += len(data)
                self.sent += len(data)
                other.sendall(data)
                if self.cut_after is not None and passed > self.cut_after:
                    self.cut_after = None
                    until(self.cut_when)
                    break
        except OSError:
            pass
        _end(source)
        _end(other)

    def close(self) -> None:
        _end(self._socket)
        for pair in list(self._pairs):
            for sock in pair:
                _end(sock)


def _end(sock: socket.socket) -> None:
    """Close a socket, so that a reader of it ends."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class Boards:
    """Agents with their relays, and an inventory of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "devices.yaml"
        self.relays: dict[str, Relay] = {}
        self.ports: dict[str, int] = {}
        self.agents: dict[str, Agent] = {}

    def start(self, name: str, heartbeat_s: float = 2.0) -> None:
        identity = secrets.create(self.folder / name / "identity")
        settings = AgentSettings(
            folder=self.folder / name / "agent", identity=identity, name=name, heartbeat_s=heartbeat_s
        )
        self.agents[name] = Agent(settings)
        self.enter(name, int(self.agents[name].address.rpartition(":")[2]))

    def enter(self, name: str, port: int) -> None:
        """Add a board to the inventory, behind a new relay. Its certificate and token exist."""
        self.ports[name], self.relays[name] = port, Relay(port)
        inventory = Inventory.load(self.path)
        board = Board(
            backend="agent",
            host="127.0.0.1",
            port=self.relays[name].port,
            certificate=f"{name}/identity/certificate.pem",
            token=f"{name}/identity/token",
        )
        inventory.add(name, board)
        inventory.save()

    def credentials(self, name: str) -> Credentials:
        return Inventory.load(self.path).credentials(name)

    def stop(self) -> None:
        for relay in self.relays.values():
            relay.close()
        for agent in self.agents.values():
            agent.stop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boards]:
    made = Boards(tmp_path_factory.mktemp("boards"))
    board.describe()  # in a process the first takes long: it starts ONNX Runtime
    try:
        for name in ("pi1", "pi2"):
            made.start(name)
        yield made
    finally:
        made.stop()


PATIENT = boards.Patience(probe_s=120.0, reach_s=120.0, describe_s=120.0)
"""No test here is of how long a board may take to describe itself."""


def described(spec: DeviceSpec) -> DeviceInfo | Unavailable:
    return boards.describe(spec, PATIENT)


@pytest.fixture
def lab(made: Boards, monkeypatch: pytest.MonkeyPatch) -> Boards:
    """Return the boards pi1 and pi2 behind relays."""
    monkeypatch.setenv("HARNESS_DEVICES", str(made.path))
    return made


@pytest.fixture
def own(lab: Boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boards:
    """The board pi1 behind a relay, and in an inventory, of the test's own."""
    own = Boards(tmp_path)
    monkeypatch.setenv("HARNESS_DEVICES", str(own.path))
    (tmp_path / "pi1").symlink_to(lab.folder / "pi1")
    own.enter("pi1", lab.ports["pi1"])
    return own


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boards]:
    """An agent pi2 of the test's own: the lease of whoever loses it lasts."""
    silent = Boards(tmp_path)
    monkeypatch.setenv("HARNESS_DEVICES", str(silent.path))
    try:
        silent.start("pi2", heartbeat_s=0.2)
        yield silent
    finally:
        silent.stop()


def spec_of(plugins: Any, name: str = "pi1", backend: str = "agent", **params: Any) -> DeviceSpec:
    model: type[Params] = plugins.backends.get(backend).entry.params
    return DeviceSpec(name=name, backend=backend, params=model(**params))


def opened(plugins: Any, spec: DeviceSpec) -> Any:
    return plugins.backends.get(spec.backend).entry.open(spec)


def pictures(n: int = 7) -> Any:
    return np.random.default_rng(1).normal(size=(n, *SHAPE)).astype(np.float32)

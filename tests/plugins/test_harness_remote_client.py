"""A board's agent from this side: real agents on loopback, with TLS and token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from harness.errors import BoardLost, DeviceError
from harness.machine.energy.durations import longest_s
from harness.plugins import load_plugins
from harness.types import (
    Answer,
    Artifact,
    Clock,
    DeviceInfo,
    DeviceReport,
    DeviceSpec,
    Graph,
    GraphPart,
    MeterInfo,
    Metering,
    MeterUse,
    Monitor,
    Params,
    Stop,
    TensorSpec,
    Unavailable,
    Workload,
)
from harness.worker.commands import End
from harness.worker.frames import pack

pytest.importorskip("grpc")

from harness_remote import agent_pb2 as pb
from harness_remote.agent import board
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.device import hold
from harness_remote.client.external import External
from harness_remote.client.failures import plugin_name
from harness_remote.client.peer import open_peer
from harness_remote.client.transport import Reach
from harness_remote.inventory import boards
from harness_remote.inventory.inventory import Board, Inventory
from harness_remote.wire import codec, secrets
from harness_remote.wire.board import PROTOCOL
from harness_remote.wire.secrets import Credentials
from harness_remote.wire.wire import SERVICE

SHAPE = (3, 8, 8)
CLASSES = 5


@pytest.fixture(scope="module")
def plugins() -> Any:
    return load_plugins()


def weights(seed: int, inputs: int = int(np.prod(SHAPE))) -> Any:
    return np.random.default_rng(seed).normal(size=(inputs, CLASSES)).astype(np.float32)


def onnx_file(folder: Path, seed: int = 0, part: str = "whole", shape: tuple[int, ...] = SHAPE) -> Artifact:
    """A linear layer."""
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
    """Whether it comes true within a minute."""
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
        """Both ways; it is open until neither passes any more."""
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
        """A board whose certificate and token are there, into the inventory."""
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
    """Boards pi1 and pi2 behind relays."""
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


def test_answers_as_a_local_worker_does(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    answers = []
    for spec in (spec_of(plugins), spec_of(plugins, "cpu", "cpu")):
        with opened(plugins, spec) as device:
            assert device.load("whole", artifact, runtime)["provider"] == "CPUExecutionProvider"
            device.connect(GRAPH, {})
            answers.append(device.infer(pictures(), 2))
            samples = device.measure(QUICK, pictures())
            assert len(samples.trace.latency_ns) >= 10
            assert samples.here.memory["process_peak_bytes"] > 0
            clock = device.clock()
            begin, end = samples.spans["load"]
            assert 0 < end - begin < 10e9
            assert abs(end - clock.offset_ns - time.monotonic_ns()) < 10e9
    np.testing.assert_array_equal(*answers)


def test_the_clock_is_known_within_half_a_round_trip(lab: Boards) -> None:
    client = Client("pi1", lab.credentials("pi1"))
    clock = client.clock()
    client.close()
    assert abs(clock.offset_ns) <= clock.error_ns  # of one machine: none
    assert clock.error_ns < 50e6


def test_two_cannot_hold_a_board(lab: Boards, plugins: Any) -> None:
    with opened(plugins, spec_of(plugins)):
        with pytest.raises(
            BoardLost, match=r"pi1 \(127.0.0.1:\d+\): the board is held by .* for \d+ s more"
        ) as caught:
            opened(plugins, spec_of(plugins, lease_wait=0.2))
        assert caught.value.board == "pi1"
    opened(plugins, spec_of(plugins, lease_wait=0)).close()


def test_wrong_secrets_are_reported(lab: Boards) -> None:
    right = lab.credentials("pi1")
    other = secrets.create(lab.folder / "stranger").certificate_pem
    expired = secrets.create(lab.folder / "expired", days=-1).certificate_pem
    refusals = {
        "does not take the token: copy it from the board": replace(right, token="x" * 43),
        "shows another certificate than the one in the inventory": replace(right, certificate=other),
        "another certificate|not valid at this date": replace(right, certificate=expired),
        "does not answer|did not answer|does not speak": replace(right, certificate=b""),
    }
    for line, credentials in refusals.items():
        client = Client("pi1", credentials, Timeouts(answer=60.0 if credentials.certificate else 3.0))
        with pytest.raises(DeviceError, match=line):
            client.describe()
        client.close()


def test_another_protocol_is_reported(lab: Boards) -> None:
    client = Client("pi1", lab.credentials("pi1"), protocol=PROTOCOL + 1)
    with pytest.raises(
        DeviceError, match=r"pi1 .* speaks protocol 3 .*: upgrade the agent \(`harness devices setup pi1`"
    ):
        client.describe()
    client.close()


def test_a_long_report_arrives(tmp_path: Path) -> None:
    """Meters that are read for an hour give more than gRPC's default of 4 MiB."""
    import grpc

    report = DeviceReport(meters={"meter_value:ina": np.zeros(10**6)})
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _: pb.WorkReply(answer=codec.pack(report)),
        pb.WorkRequest.FromString,
        pb.WorkReply.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Work": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = Client("pi1", Credentials(f"127.0.0.1:{port}"))
    try:
        assert client.work(End({"load": (1, 2)}, 0, 1)).meters["meter_value:ina"].nbytes == 8 * 10**6
    finally:
        client.close()
        server.stop(None)


def test_nothing_listens(plugins: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    client = Client("pi9", Credentials(f"127.0.0.1:{port}"))
    with pytest.raises(
        BoardLost, match=rf"pi9 \(127.0.0.1:{port}\) does not answer: connection refused"
    ) as caught:
        client.health()
    assert caught.value.board == "pi9"
    client.close()


def test_a_file_arrives_though_the_wire_is_cut(lab: Boards) -> None:
    relay, content = lab.relays["pi1"], os.urandom(6 * 2**20)
    sha256 = hashlib.sha256(content).hexdigest()
    part = lab.folder / "pi1" / "agent" / "blobs" / f"{sha256}.part"
    # a cut drops what gRPC has read and the agent has not: it is to take the three pieces that are whole first
    relay.cut_when = lambda: part.exists() and part.stat().st_size >= 3 * 2**20
    client = Client("pi1", lab.credentials("pi1"))
    client.acquire()
    relay.sent, relay.cut_after = 0, 7 * 2**19
    assert client.put(content) == sha256
    assert relay.cut_after is None
    assert relay.sent < 7 * 2**20  # what had arrived was not sent again
    first = relay.sent
    assert client.put(content) == sha256
    assert relay.sent - first < 2**16
    client.close()


def test_an_onnx_file_beyond_the_board_is_not_sent(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    with opened(plugins, spec_of(plugins)) as device:
        newer = replace(artifact, meta={**artifact.meta, "opset": 99})
        with pytest.raises(DeviceError, match=r"loads opset \d+ at most, and the file has 99"):
            device.load("whole", newer, runtime)
        with pytest.raises(DeviceError, match="runs ONNX files only"):
            device.load("whole", replace(artifact, meta={"file": "weights.safetensors"}), runtime)


def test_an_error_of_the_boards_runtime_names_the_runtimes_plugin(
    lab: Boards, plugins: Any, artifact: Artifact, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load_model(artifact.path / "whole.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save_model(model, tmp_path / "whole.onnx")
    with (
        opened(plugins, spec_of(plugins, "pi1")) as device,
        pytest.raises(DeviceError, match="NoSuchOperator") as caught,
    ):
        device.load("whole", replace(artifact, path=tmp_path), plugins.runtimes.get("onnxruntime").entry)
    assert plugins.blame(caught.value) == "runtimes"


@pytest.mark.parametrize("sent", ["", "two words", "line\nbreak", "x" * 101])
def test_what_is_no_name_of_a_plugin_is_not_taken_from_a_board(sent: str) -> None:
    assert plugin_name("run-times.2") == "run-times.2"
    assert plugin_name(sent) is None


def test_detached_nothing_is_sent_while_it_measures(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    relay, seen, away_s, back = lab.relays["pi1"], [], [], threading.Event()
    results = lab.folder / "pi1" / "agent" / "session"

    def sleep(seconds: float) -> None:
        away_s.append(seconds)
        back.wait(60)

    spec = spec_of(plugins, detached=True)
    info = described(spec)
    assert isinstance(info, DeviceInfo)
    reach = Reach(board="pi1", credentials=lab.credentials("pi1"), via={})
    with hold(spec, info, reach, Timeouts(), detached=True, sleep=sleep) as device:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        load = replace(QUICK, stop=replace(QUICK.stop, min_time_s=2.0, max_time_s=6.0))
        measuring = threading.Thread(target=lambda: seen.append(device.measure(load, pictures())))
        measuring.start()
        assert until(lambda: not relay.open)  # it has left
        sent, begin = relay.sent, time.monotonic()
        assert until(lambda: relay.open or relay.sent != sent or list(results.glob("*.answer")))
        assert (relay.open, relay.sent) == (0, sent)
        back.set()
        measuring.join()
        assert away_s == [longest_s(load)]
        samples = seen[0]
        assert samples.here.problems == ()
        left = begin * 1e9 + device.clock().offset_ns
        assert samples.spans["load"][1] - left < longest_s(load) * 1e9
        assert device.infer(pictures(2), 1).shape == (2, CLASSES)  # connected again


@pytest.mark.clock
def test_a_board_that_falls_silent_is_lost(
    silent: Boards, plugins: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, follow, frozen = silent.relays["pi2"], Client.follow, []

    def freeze(self: Client) -> None:
        """While it measures: what came before may take long, and so may a renewal that is under way."""
        with self._renewing:
            self.timeouts = Timeouts(answer=0.5, lost=1.0, renew=0.2)
            relay.frozen = True
        frozen.append(time.monotonic())

    monkeypatch.setattr(
        Client, "follow", lambda self, command, job, s, _: follow(self, command, job, s, lambda: freeze(self))
    )
    spec = spec_of(plugins, "pi2")
    info = described(spec)
    assert isinstance(info, DeviceInfo)
    reach = Reach(board="pi2", credentials=silent.credentials("pi2"), via={})
    device = hold(spec, info, reach, Timeouts(renew=0.2))
    try:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        with pytest.raises(BoardLost, match=r"pi2 \(.*\) did not answer \w+ within 0.5 s") as caught:
            device.measure(
                replace(QUICK, stop=replace(QUICK.stop, min_time_s=20.0, max_time_s=20.0)), pictures()
            )
        assert time.monotonic() - frozen[0] < 4.0
        assert caught.value.board == "pi2"
    finally:
        relay.frozen = False
        begin = time.monotonic()
        device.close()
        assert time.monotonic() - begin < 5.0


@pytest.mark.clock
def test_a_board_that_is_killed_is_lost(lab: Boards, plugins: Any, artifact: Artifact) -> None:
    folder = lab.folder / "pi3"
    secrets.create(folder / "identity")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "harness",
            "agent",
            "serve",
            "--port",
            "0",
            "--folder",
            folder / "identity",
            "--ready-file",
            folder / "ready",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        assert until((folder / "ready").exists)
        lab.enter("pi3", int(json.loads((folder / "ready").read_text())["address"].rpartition(":")[2]))
        device = opened(plugins, spec_of(plugins, "pi3", lost_after=1.0))
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        threading.Timer(0.3, lambda: os.kill(process.pid, signal.SIGKILL)).start()
        begin = time.monotonic()
        with pytest.raises(BoardLost, match=r"pi3 \(.*\) does not answer: ") as caught:
            device.measure(
                replace(QUICK, stop=replace(QUICK.stop, min_time_s=20.0, max_time_s=20.0)), pictures()
            )
        assert time.monotonic() - begin < 6.0
        assert caught.value.board == "pi3"
        with pytest.raises(BoardLost):
            device.infer(pictures(1), 1)
        device.close()
    finally:
        process.kill()
        process.wait()
    found = described(spec_of(plugins, "pi3"))  # as it was when it was opened: nobody described it before
    assert isinstance(found, Unavailable)


# --- several boards ---


def two_parts(folder: Path) -> tuple[Artifact, Artifact]:
    front, back = onnx_file(folder / "front", 1, "front"), onnx_file(folder / "back", 2, "back", (CLASSES,))
    return front, back


def test_a_part_on_another_board(lab: Boards, plugins: Any, tmp_path: Path) -> None:
    front, back = two_parts(tmp_path)
    runtime = plugins.runtimes.get("onnxruntime").entry
    out = TensorSpec(shape=(CLASSES,))
    graph = Graph(
        parts=(
            GraphPart(name="front", inputs=("image",), output=out),
            GraphPart(name="back", inputs=("front",), output=out),
        )
    )
    with (
        opened(plugins, spec_of(plugins, "pi2")) as other,
        opened(plugins, spec_of(plugins, "pi1")) as central,
    ):
        other.load("front", front, runtime)
        central.load("back", back, runtime)
        address = other.serve(central)
        assert address.details["target"] == lab.agents["pi2"].frames_address
        central.connect(graph, {"front": address})
        got = central.infer(pictures(), 1)
        samples = central.measure(QUICK, pictures())
        assert set(samples.parts.timeline) >= {
            "compute:front",
            "transport:front",
            "queue:front",
            "compute:back",
        }
        assert samples.parts.links["rtt:front"] > 0
        other.close()  # its board is gone for the central one
        for ask in (lambda: central.infer(pictures(), 1), lambda: central.measure(QUICK, pictures())):
            with pytest.raises(BoardLost, match=r"pi2 does not answer any more|part front on pi2") as caught:
                ask()
            assert caught.value.board == "pi2"
    flat = pictures().reshape(len(pictures()), -1)
    np.testing.assert_allclose(got, flat @ weights(1) @ weights(2, CLASSES), rtol=1e-4)


def test_a_peer_that_goes_away_says_so(lab: Boards, plugins: Any, tmp_path: Path) -> None:
    front, _ = two_parts(tmp_path)
    answers: list[Answer] = []
    arrived = threading.Condition()

    def take(answer: Answer) -> None:
        with arrived:
            answers.append(answer)
            arrived.notify_all()

    def wait_for(n: int) -> None:
        with arrived:
            assert arrived.wait_for(lambda: len(answers) >= n, 10)

    with opened(plugins, spec_of(plugins, "pi2")) as other:
        other.load("front", front, plugins.runtimes.get("onnxruntime").entry)
        details = {**other.serve(other).details, "device": "pi2#0"}
        with pytest.raises(OSError, match="ticket"):
            open_peer({**details, "ticket": "wrong"}, take)
        peer = open_peer(details, take)
        peer.send(pack({"op": "run", "id": 5, "part": "front"}, [pictures(1)]))
        wait_for(1)
        assert (answers[0].peer, answers[0].query, answers[0].part) == ("pi2#0", 5, "front")
        np.testing.assert_allclose(answers[0].output, pictures(1).reshape(1, -1) @ weights(1), rtol=1e-4)
        peer.send(pack({"op": "run", "id": 6, "part": "no"}, [pictures(1)]))
        wait_for(2)
        assert "no part 'no'" in answers[1].error
        assert not answers[1].lost
    wait_for(3)  # the lease is given back, and with it the worker
    assert answers[2].lost
    with pytest.raises(OSError):
        peer.send(pack({"op": "echo", "id": 7}))
    peer.close()


# --- meters beside the board ---

METER = """
import time

class Steady:
    def __init__(self, info):
        self.counts = info.quantity == "energy"

    def read(self):
        now = time.monotonic_ns()
        return now, 2e-9 * now if self.counts else 2.0

    def close(self):
        pass

class Logged(Steady):
    def fetch(self, begin, end, load):
        return [(ns, 2e-9 * ns) for ns in range(begin - 10**9, end + 10**9, 10**6)]
"""


@pytest.fixture
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeterUse:
    """A meter of this workstation that shows two watts."""
    (tmp_path / "steady_meter.py").write_text(METER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    info = MeterInfo(
        name="steady", scope="board", watches="pi1", provenance="measured", quantity="power", period_s=0.05
    )
    return MeterUse(info=info, open="steady_meter:Steady")


@pytest.mark.clock
def test_a_meter_here_watches_the_board(
    lab: Boards, plugins: Any, artifact: Artifact, steady: MeterUse
) -> None:
    spec = replace(spec_of(plugins), monitor=Monitor(meters=(steady,)))
    with opened(plugins, spec) as device:
        device.load("whole", artifact, plugins.runtimes.get("onnxruntime").entry)
        device.connect(GRAPH, {})
        for _ in range(5):
            samples = device.measure(
                replace(
                    QUICK,
                    stop=replace(QUICK.stop, min_time_s=0.3, max_time_s=0.5),
                    metering=replace(QUICK.metering, idle_s=0.1),
                ),
                pictures(),
            )
            (reading,) = samples.here.energy
            # a busy machine may keep the sampler from its turn, which withholds a figure
            if not any("gap" in why or "readings in" in why for why in reading.withheld.values()):
                break
    assert reading.meter == "steady"
    assert reading.energy_gross_j == pytest.approx(2 * reading.window_s, rel=1e-6)
    assert reading.energy_net_j == pytest.approx(0, abs=1e-6)
    begin, end = samples.spans["load"]
    assert reading.window_s == pytest.approx((end - begin) / 1e9)
    inside = samples.here.meters["meter_ns:steady"]
    assert ((inside >= begin) & (inside <= end)).sum() >= 3


def test_another_clock_moves_a_reading_and_its_error_is_in_it(steady: MeterUse) -> None:
    counter = replace(steady.info, quantity="energy")
    external = External((MeterUse(info=counter, open="steady_meter:Logged"),))
    try:
        external.begin()
        begin = time.monotonic_ns()
        ahead = 3_600_000_000_000
        spans = {"load": (begin + ahead, begin + ahead + 300_000_000)}
        seen = external.end(spans, Clock(offset_ns=ahead, error_ns=20_000_000), 10)
    finally:
        external.close()
    (reading,) = seen.energy
    assert reading.energy_gross_j == pytest.approx(0.6, rel=1e-6)
    assert reading.u_gross_j >= 2.0 * 0.02  # two watts for 20 ms at an edge, at the least
    read = seen.meters["meter_ns:steady"]
    assert read[0] < begin + ahead < read[-1]


# --- planning ---


def test_a_board_that_is_away_is_planned_as_it_was(
    own: Boards, plugins: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(plugins)
    there = described(spec)
    assert isinstance(there, DeviceInfo)
    assert there.machine_id
    own.relays["pi1"].close()
    assert not caplog.records
    assert described(spec) == there
    assert "pi1 (127.0.0.1" in caplog.text
    assert "planned as it was on" in caplog.text
    with pytest.raises(BoardLost, match=r"pi1 .* does not answer"):
        opened(plugins, spec)


def test_backends_are_for_their_boards(
    lab: Boards, plugins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"devices.yaml:2: pi1.backend: agent, and the suite says raspberry-pi"
    ):
        described(spec_of(plugins, backend="raspberry-pi"))
    with pytest.raises(ValueError, match=r"no board 'board7' in .*; allowed: pi1, pi2(, pi3)?"):
        described(spec_of(plugins, "board7"))
    answer = boards.ask_board("pi1", lab.credentials("pi1"), patience=PATIENT)
    cpu_only = {**answer.onnxruntime, "providers": ["CPUExecutionProvider"]}
    without_gpu = replace(answer, onnxruntime=cpu_only)
    with pytest.raises(ValueError, match=r"device: tensorrt: its ONNX Runtime .* has CPU"):
        boards.info_of("pi1", "agent", Inventory.load().boards["pi1"], without_gpu, "tensorrt")
    pi = Inventory.load().boards["pi1"].model_copy(update={"backend": "raspberry-pi"})
    with pytest.raises(ValueError, match=r"pi1 is .*: backend: raspberry-pi is for others; write agent"):
        boards.info_of("pi1", "raspberry-pi", pi, without_gpu)
    emulated = boards.info_of("pi1", "raspberry-pi", pi.model_copy(update={"emulated": True}), without_gpu)
    assert emulated.emulated
    real = boards.info_of(
        "pi1", "raspberry-pi", pi, replace(without_gpu, model="Raspberry Pi 4 Model B Rev 1.4")
    )
    assert (real.model, real.emulated) == ("Raspberry Pi 4 Model B Rev 1.4", False)


def test_meters_of_the_inventory_are_those_that_answer(
    own: Boards, tmp_path: Path, plugins: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entry = own.path.read_text()
    own.path.write_text(
        f"{entry}  meters: [{{csv: {{path: {tmp_path}/log.csv, scope: board, period: 0.1}}}}]\n"
    )
    (tmp_path / "log.csv").write_text(f"time,watt\n{time.time()},1\n")
    info = described(spec_of(plugins))
    assert isinstance(info, DeviceInfo)
    (use,) = info.details["external"]
    assert use["info"]["scope"] == "board"
    assert use["open"].startswith("harness_power.")
    (tmp_path / "log.csv").unlink()
    info = described(spec_of(plugins))
    assert isinstance(info, DeviceInfo)
    assert info.details["external"] == []
    assert "is not read" in caplog.text
    own.path.write_text(f"{entry}  meters: [cvs]\n")
    with pytest.raises(
        ValueError, match=r"devices.yaml:7: pi1.meters.0: unknown meter 'cvs': did you mean 'csv'"
    ):
        described(spec_of(plugins))
    own.relays["pi1"].close()


def test_all_boards_are_probed(lab: Boards) -> None:
    found = {board.name: board for board in boards.probe("agent", PATIENT)}
    assert isinstance(found["pi1"], DeviceInfo)
    assert [board.reason for board in boards.probe("jetson", PATIENT) if isinstance(board, Unavailable)]


# --- commands ---


def test_add_check_and_remove(lab: Boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_remote.cli.devices import add, check, remove

    monkeypatch.setenv("HARNESS_DEVICES", str(tmp_path / "devices.yaml"))
    run = CliRunner().invoke
    identity = lab.folder / "pi1" / "identity"
    secrets_of = ["--certificate", str(identity / "certificate.pem"), "--token", str(identity / "token")]
    port = str(lab.relays["pi1"].port)
    done = run(add, ["desk", "--host", "127.0.0.1", "--port", port, *secrets_of, "--label", "mine"])
    assert done.exit_code == 0, done.exception
    assert done.output.startswith("desk: agent, in ")
    done = run(check, ["--json"])
    assert done.exit_code == 0, done.output
    (checked,) = json.loads(done.output)
    assert checked["usable"]
    assert checked["link"]["rtt_ms"] > 0
    assert checked["clock"]["error_ms"] > 0
    assert checked["onnxruntime"]["version"]
    assert checked["frames"] == ""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        path = tmp_path / "devices.yaml"
        path.write_text(f"{path.read_text()}  frames_port: {closed.getsockname()[1]}\n")
    done = run(check)
    assert done.exit_code == 0, done.output  # alone it can be measured
    assert "no fleet whose central device is this machine can have it: 127.0.0.1:" in done.output
    assert "refused" in done.output
    lab.relays["gone"] = Relay(1)
    dead = str(lab.relays["gone"].port)
    assert run(add, ["dead", "--host", "127.0.0.1", "--port", dead, "--backend", "agent"]).exit_code == 0
    done = run(check, ["dead"])
    assert done.exit_code == 1
    assert "dead (127.0.0.1:" in done.output
    assert "not usable" in done.output
    assert run(remove, ["dead"]).exit_code == 0
    assert list(Inventory.load().boards) == ["desk"]

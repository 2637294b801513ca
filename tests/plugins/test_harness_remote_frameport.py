"""Tests of the port on which an agent accepts frames of other boards."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.types import Answer, TensorSpec
from harness.worker.frames import pack, unpack

pytest.importorskip("grpc")
pytest.importorskip("onnxruntime")

from harness_remote.agent.frameport import FrameLimits
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.client.client import Client
from harness_remote.client.peer import FramePeer, open_peer
from harness_remote.wire import framesocket, secrets
from harness_remote.wire.commands import LoadFile, Open, Serve, ShippedArtifact
from harness_remote.wire.framesocket import FrameSocket, Silence
from harness_remote.wire.secrets import Credentials

MOST = 2**20
WAIT_S = 10.0
IMAGES = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> secrets.Identity:
    return secrets.create(tmp_path_factory.mktemp("identity"))


def matmul(weight: Any) -> bytes:
    """Return an ONNX file with one matrix product."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["in0/image", "w"], ["out/model"])],
        "tiny",
        [helper.make_tensor_value_info("in0/image", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("out/model", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(made.SerializeToString())


class Central:
    """A board with one part loaded, its lease's holder, and what answers came on its frames' connection."""

    def __init__(self, folder: Path, identity: secrets.Identity, **limits: Any) -> None:
        self.identity = identity
        self.agent = Agent(AgentSettings(folder=folder, identity=identity, name="board", **limits))
        self.client = Client(
            "board", Credentials(self.agent.address, identity.certificate_pem, identity.token)
        )
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.ticket = ""

    def ready(self) -> Central:
        self.client.acquire()
        self.client.work(Open(threads=1))
        artifact = ShippedArtifact(
            precision="float32",
            weight_bytes=48,
            inputs=(TensorSpec(shape=(4,)),),
            output=TensorSpec(shape=(3,)),
            meta={"file": "x", "opset": 18, "precision": "float32", "quantised": 0, "spinning": False},
        )
        self.client.work(
            LoadFile(
                part="model",
                runtime="onnxruntime",
                device="cpu",
                sha256=self.client.put(matmul(WEIGHT)),
                artifact=artifact,
            )
        )
        self.serve()
        return self

    def serve(self) -> None:
        served = self.client.work(Serve())
        assert self.agent.frames_address.endswith(f":{served.port}")
        self.ticket = served.ticket

    def details(self, ticket: str | None = None) -> dict[str, Any]:
        return {
            "device": "board",
            "target": self.agent.frames_address,
            "certificate": self.identity.certificate_pem.decode(),
            "ticket": self.ticket if ticket is None else ticket,
        }

    def peer(self, ticket: str | None = None) -> Any:
        return open_peer(self.details(ticket), self.answers.put)

    def answer(self) -> Answer:
        return self.answers.get(timeout=WAIT_S)

    def stop(self) -> None:
        self.client.close()
        self.agent.stop()


LIMITS = FrameLimits(guests=2, leave_s=0.3)


@pytest.fixture
def central(tmp_path: Path, identity: secrets.Identity) -> Iterator[Central]:
    made = Central(tmp_path, identity, frames=LIMITS)
    try:
        yield made.ready()
    finally:
        made.stop()


def raw(central: Central) -> FrameSocket:
    return framesocket.connect(central.agent.frames_address, central.identity.certificate_pem, WAIT_S, 2**26)


def reply_of(conn: FrameSocket) -> dict[str, Any]:
    frame = conn.receive()
    return {"closed": True} if frame is None else unpack(frame)[0]


def closed(conn: FrameSocket) -> bool:
    try:
        return conn.receive() is None
    except ConnectionError:  # reset: it had not read all
        return True


def test_a_ticket_lets_the_central_node_run_parts_and_nothing_else(central: Central) -> None:
    peer = central.peer()
    asked = {
        1: pack({"op": "run", "id": 1, "part": "model"}, [IMAGES]),
        2: pack({"op": "run", "id": 2, "part": "stranger"}, [IMAGES]),
        3: pack({"op": "infer", "id": 3}, [IMAGES]),
        4: pack({"op": "echo", "id": 4, "reply_bytes": 3}, [IMAGES]),
        5: pack({"op": "echo", "id": 5, "reply_bytes": 10**9}),
        6: pack({"op": "exec", "id": 6}),
        7: pack({"op": "run", "id": 7, "part": "model"}, [IMAGES[:1]]),
    }
    for frame in asked.values():
        peer.send(frame)
    answers = {answer.query: answer for answer in (central.answer() for _ in asked)}
    assert {number: answer.error.split(":")[0] for number, answer in answers.items() if answer.error} == {
        2: "no part 'stranger' is loaded",
        3: "no request 'infer' on this stream",
        5: "reply_bytes",
        6: "no request 'exec' on this stream",
    }
    np.testing.assert_allclose(answers[1].output, IMAGES @ WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(answers[7].output, IMAGES[:1] @ WEIGHT, rtol=1e-6)
    assert answers[1].compute_ns > 0
    assert answers[7].queue_ns > 0
    assert answers[4].output.shape == (3,)
    peer.close()
    for wrong in ("", "x" * 43, "ü"):
        with pytest.raises(OSError, match="ticket is wrong, or not valid any more"):
            central.peer(wrong)
    old = central.ticket
    central.client.work(Open(threads=1))  # a fresh worker
    with pytest.raises(OSError, match="ticket is wrong, or not valid any more"):
        central.peer(old)


@pytest.mark.parametrize(
    "greeting", [b"x", b"\0" * 8, b"".join(pack({"op": "echo"})), b"".join(pack({"ticket": 5})), bytes(5000)]
)
def test_a_stranger_learns_nothing(central: Central, greeting: bytes) -> None:
    conn = raw(central)
    conn.send([greeting])
    assert closed(conn)
    with socket.create_connection(raw_address(central), WAIT_S) as plain:  # no TLS at all
        plain.sendall(greeting * 20)
        plain.shutdown(socket.SHUT_WR)
        heard = b""
        while (data := receive(plain)) != b"":
            heard += data
        assert len(heard) < 20  # TLS's own alert
    central.peer().close()


def raw_address(central: Central) -> tuple[str, int]:
    host, _, port = central.agent.frames_address.rpartition(":")
    return host, int(port)


def receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except ConnectionError:
        return b""


@pytest.fixture
def brisk(tmp_path: Path, identity: secrets.Identity) -> Iterator[Central]:
    """A board that soon hangs up on strangers."""
    made = Central(tmp_path, identity, frames=FrameLimits(strangers=3, greet_s=2.0))
    try:
        yield made.ready()
    finally:
        made.stop()


def test_strangers_that_say_nothing_are_shown_out(brisk: Central) -> None:
    central = brisk
    silent = [socket.create_connection(raw_address(central), WAIT_S) for _ in range(4)]
    assert receive(silent[3]) == b""  # there are three already
    silent[0].sendall(b"\x16")  # a little of a handshake is no more
    for sock in silent[:3]:
        assert receive(sock) == b""
        sock.close()
    until(central.peer).close()


def test_a_wrong_ticket_keeps_no_place_by_dripping(central: Central) -> None:
    conns = []
    for _ in range(5):
        conn = raw(central)
        conn.send(pack({"ticket": "x"}))
        assert "ticket is wrong" in reply_of(conn)["error"]
        conns.append(conn)
    end = time.monotonic() + WAIT_S
    while any(thread.name == "frames: board" for thread in threading.enumerate()):
        assert time.monotonic() < end
        for conn in conns:
            with contextlib.suppress(OSError):
                conn.sock.send(b"x")
        time.sleep(0.05)


def test_a_board_without_threads_takes_the_next_one_later(
    central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(threading.Thread):
        def start(self) -> None:
            if self.name == "frames: board":
                raise RuntimeError("can't start new thread")
            super().start()

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Full)
        with socket.create_connection(raw_address(central), WAIT_S) as refused:
            assert receive(refused) == b""
    central.peer().close()


def test_no_more_boards_than_there_are_places(central: Central) -> None:
    peers = [central.peer(), central.peer()]
    with pytest.raises(OSError, match="2 boards send frames already"):
        central.peer()
    peers[0].close()
    until(central.peer)


def until(attempt: Callable[[], Any]) -> Any:
    """Repeat the attempt until it raises no ``OSError``, and return its result."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return attempt()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


class Oversized(bytes):
    """No bytes at all, whose length is announced as 128 MiB."""

    def __len__(self) -> int:
        return 2**27


def test_what_is_no_frame_ends_the_stream_with_a_reason(central: Central) -> None:
    for sent, why in (
        (b"no frame", "not a frame"),
        (b"HF1\n\xff\xff\0\0", "whose header has"),
        (b"", "a frame of 134217728 bytes; allowed are 67108864"),
    ):
        conn = raw(central)
        conn.send(pack({"ticket": central.ticket}))
        assert reply_of(conn) == {"id": None}
        if sent:
            conn.send([sent])
        else:
            conn.send([Oversized()])
        assert why in reply_of(conn)["error"]
        conn.hang_up()


def workers() -> list[int]:
    """Return the process ids of the workers of this process's agents."""
    children = psutil.Process().children()
    return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]


@pytest.mark.parametrize("attempt", range(4))
def test_a_worker_that_is_killed_is_named(central: Central, attempt: int) -> None:
    peer = central.peer()
    (worker,) = workers()
    long = np.zeros((50_000, 4), np.float32)
    for number in range(3):
        peer.send(pack({"op": "run", "id": number, "part": "model"}, [long]))
    os.kill(worker, signal.SIGKILL)
    for number in range(10, 15):
        with contextlib.suppress(OSError):  # it may be known already
            peer.send(pack({"op": "run", "id": number, "part": "model"}, [long if number % 2 else IMAGES]))
    while not (answer := central.answer()).lost:
        pass
    assert answer.error == "the worker on board was ended by SIGKILL (out of memory?)"
    with pytest.raises(OSError, match="ended by SIGKILL"):
        peer.send(pack({"op": "run", "id": 20, "part": "model"}, [IMAGES]))


def test_the_end_of_the_lease_ends_the_frames(central: Central) -> None:
    peer = central.peer()
    central.client.close()
    assert central.answer().lost
    peer.close()


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.binary(max_size=200), min_size=1, max_size=4), welcome=st.booleans())
def test_anything_that_comes_is_answered_or_refused(
    hardened: Central, frames: list[bytes], welcome: bool
) -> None:
    conn = raw(hardened)
    if welcome:
        conn.send(pack({"ticket": hardened.ticket}))
        assert reply_of(conn) == {"id": None}
    try:
        for frame in frames:
            conn.send([frame])
        conn.send(pack({"op": "echo", "id": 1, "reply_bytes": 1}))
    except OSError:  # it has closed
        pass
    if welcome:
        while (answer := conn.receive()) is not None and unpack(answer)[0].get("id") != 1:
            assert "error" in unpack(answer)[0]
    else:
        assert closed(conn)
    conn.hang_up()
    conn = raw(hardened)
    conn.send(pack({"ticket": hardened.ticket}))
    assert reply_of(conn) == {"id": None}
    conn.hang_up()


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory, identity: secrets.Identity) -> Iterator[Central]:
    limits = FrameLimits(guests=200, leave_s=WAIT_S)  # however slow this side is
    made = Central(tmp_path_factory.mktemp("agent"), identity, frames=limits)
    try:
        yield made.ready()
    finally:
        made.stop()


@pytest.mark.clock
def test_both_sides_of_an_idle_connection_ping(tmp_path: Path, identity: secrets.Identity) -> None:
    silence = Silence(ping_s=0.2, gone_s=4)
    central = Central(tmp_path, identity, frames=FrameLimits(silence=silence))
    try:
        peer = FramePeer(central.ready().details(), central.answers.put, silence=silence)
        time.sleep(6)
        assert central.answers.empty()
        peer.send(pack({"op": "run", "id": 1, "part": "model"}, [IMAGES]))
        assert central.answer().output.shape == (8, 3)  # type: ignore[union-attr]
        peer.close()
    finally:
        central.stop()

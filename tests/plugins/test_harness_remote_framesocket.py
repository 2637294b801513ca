"""Frames between boards: the connection itself, and the port at which an agent takes them."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import ssl
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
from harness.worker.frames import FrameError, pack, unpack

pytest.importorskip("grpc")
pytest.importorskip("onnxruntime")

from harness_remote.agent.frameport import FrameLimits
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.client.client import Client
from harness_remote.client.peer import FramePeer, open_peer
from harness_remote.wire import framesocket, secrets
from harness_remote.wire.commands import LoadFile, Open, Serve, ShippedArtifact
from harness_remote.wire.framesocket import SILENCE, FrameSocket, Silence
from harness_remote.wire.secrets import Credentials

MOST = 2**20
WAIT_S = 10.0
IMAGES = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> secrets.Identity:
    return secrets.create(tmp_path_factory.mktemp("identity"))


# --- the connection ---


def pair(
    identity: secrets.Identity | None,
    context: Any = None,
    silence: Silence = SILENCE,
    aes: bool | None = None,
) -> tuple[FrameSocket, FrameSocket]:
    """Return both ends of a connection that is set up."""
    if identity is not None and context is None:
        context = framesocket.server_context(identity)
    certificate = identity.certificate_pem if identity else b""
    near, far = accepted(
        context,
        silence,
        lambda port: framesocket.connect(f"127.0.0.1:{port}", certificate, WAIT_S, MOST, silence, aes),
    )
    near.settle(MOST)
    return near, far


def accepted(
    context: ssl.SSLContext | None, silence: Silence, connect: Callable[[int], Any]
) -> tuple[Any, FrameSocket]:
    """Return what ``connect(port)`` returns, and the end that the server has of that connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: queue.SimpleQueue[FrameSocket] = queue.SimpleQueue()
        thread = threading.Thread(
            target=lambda: ends.put(framesocket.accept(listener.accept()[0], context, MOST, silence))
        )
        thread.start()
        near = connect(listener.getsockname()[1])
        far = ends.get(timeout=WAIT_S)
        thread.join()
    far.settle(MOST)
    return near, far


def tls_client(identity: secrets.Identity) -> tuple[ssl.SSLSocket, FrameSocket]:
    """Return a client that is no :class:`FrameSocket`, and the server's end of its connection."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=identity.certificate_pem.decode())

    def connect(port: int) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", port), WAIT_S)
        return trusting.wrap_socket(sock, server_hostname=secrets.NAME)

    return accepted(framesocket.server_context(identity), SILENCE, connect)


@pytest.fixture(params=["TLS", "bare"])
def ends(
    request: pytest.FixtureRequest, identity: secrets.Identity
) -> Iterator[tuple[FrameSocket, FrameSocket]]:
    near, far = pair(identity if request.param == "TLS" else None)
    yield near, far
    near.hang_up()
    far.hang_up()


@pytest.fixture(scope="module")
def lasting(identity: secrets.Identity) -> tuple[FrameSocket, FrameSocket]:
    return pair(identity)


@settings(deadline=None)
@given(
    pieces=st.lists(
        st.binary(max_size=20) | st.integers(1, 200_000).map(lambda size: bytes([size % 251]) * size),
        min_size=1,
        max_size=4,
    ).filter(any)
)
def test_what_is_sent_in_pieces_arrives_as_one_frame(lasting: Any, pieces: list[bytes]) -> None:
    near, far = lasting
    sender = threading.Thread(target=near.send, args=(pieces,))
    sender.start()
    got = far.receive()
    sender.join(WAIT_S)
    assert bytes(got) == b"".join(pieces)


def test_long_frames_pass_each_other(ends: tuple[FrameSocket, FrameSocket]) -> None:
    """Both sides send more than the network holds before either has received all."""
    frames = [bytes([n]) * (MOST - n) for n in range(20)]
    got: dict[int, list[bytes]] = {0: [], 1: []}

    def receive(n: int) -> None:
        while len(got[n]) < len(frames):
            got[n].append(bytes(ends[n].receive() or b"gone"))

    threads = [threading.Thread(target=receive, args=(n,), daemon=True) for n in (0, 1)]
    threads += [
        threading.Thread(target=lambda end=end: [end.send([frame]) for frame in frames], daemon=True)
        for end in ends
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert got == {0: frames, 1: frames}


def test_a_frame_that_is_too_long_is_refused(ends: tuple[FrameSocket, FrameSocket]) -> None:
    near, far = ends
    near.send([bytes(MOST + 1)])
    with pytest.raises(FrameError, match=f"a frame of {MOST + 1} bytes; allowed are {MOST}"):
        far.receive()


def test_a_connection_that_ends_inside_a_frame_gives_none(ends: tuple[FrameSocket, FrameSocket]) -> None:
    near, far = ends
    near.sock.sendall(b"\x17\x03\x03")  # the beginning of a record, or of a length
    near.hang_up()
    assert far.receive() is None
    with pytest.raises(OSError, match=r"roken pipe|reset"):
        send_until_refused(far)


def send_until_refused(end: FrameSocket) -> None:
    for _ in range(50):
        end.send([bytes(1000)])
        time.sleep(0.01)


def test_what_is_offered_waits_for_nothing_and_comes_in_order(ends: tuple[FrameSocket, FrameSocket]) -> None:
    near, far = ends
    frames = [bytes([n % 256]) * 10_000 for n in range(2000)]  # more than the network holds
    taken = 0
    while (left := near.offer([frames[taken]])) is None:
        taken += 1
    assert left == ()  # this one was begun
    taken += 1
    sender = threading.Thread(
        target=lambda: [near.send(frame) for frame in ([], *([f] for f in frames[taken:]))]
    )
    sender.start()
    assert [bytes(far.receive() or b"") for _ in frames] == frames
    sender.join(WAIT_S)


def test_the_last_frame_arrives_behind_any_others(ends: tuple[FrameSocket, FrameSocket]) -> None:
    near, far = ends
    sender = threading.Thread(target=near.send, args=([bytes(MOST)],))
    sender.start()
    far.last([b"why"])
    reader = threading.Thread(target=far.drain, args=(WAIT_S,))
    reader.start()
    assert bytes(near.receive() or b"") == b"why"
    sender.join(WAIT_S)
    assert near.receive() is None
    near.hang_up()
    reader.join(WAIT_S)
    assert not reader.is_alive()


@pytest.mark.clock
def test_draining_ends_while_bytes_come(ends: tuple[FrameSocket, FrameSocket]) -> None:
    near, far = ends
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            near.sock.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    began = time.monotonic()
    far.drain(0.3)
    assert time.monotonic() - began < 2
    stop.set()
    dripping.join()


@pytest.mark.parametrize(
    ("server", "client", "version", "cipher"),
    [
        (True, True, "TLSv1.3", "AES"),
        (True, False, "TLSv1.2", "CHACHA20"),
        (False, True, "TLSv1.2", "CHACHA20"),
        (False, False, "TLSv1.2", "CHACHA20"),
    ],
)
def test_a_processor_without_aes_takes_chacha(
    identity: secrets.Identity, server: bool, client: bool, version: str, cipher: str
) -> None:
    near, far = pair(identity, framesocket.server_context(identity, server), aes=client)
    for end in (near, far):
        assert end.tls is not None
        assert end.tls[0] == version
        assert cipher in end.tls[1]
    sender = threading.Thread(target=near.send, args=([b"head", bytes(MOST - 4)],))
    sender.start()
    assert bytes(far.receive() or b"") == b"head" + bytes(MOST - 4)
    sender.join(WAIT_S)


@pytest.mark.parametrize(
    ("text", "has"),
    [("flags\t\t: fpu aes avx\n", True), ("Features\t: fp asimd evtstrm crc32 cpuid\n", False), (None, True)],
)
def test_what_the_system_tells_of_aes(tmp_path: Path, text: str | None, has: bool) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert framesocket.has_aes(tmp_path / "cpuinfo") is has


def test_bytes_after_the_end_of_tls_are_none(identity: secrets.Identity) -> None:
    near, far = tls_client(identity)
    near.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        near.unwrap()  # sends the end of TLS, and does not wait for that of the other side
    with socket.socket(fileno=near.detach()) as bare:
        bare.sendall(b"x")
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=lambda: ended.put(far.receive()), daemon=True).start()
    assert ended.get(timeout=WAIT_S) is None


@pytest.mark.clock
def test_silence_is_a_broken_connection_and_pings_are_no_frames(identity: secrets.Identity) -> None:
    near, far = pair(identity, silence=Silence(ping_s=0.1, gone_s=4))
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                got.put(far.receive())
        except OSError as error:
            got.put(str(error))

    threading.Thread(target=receive, daemon=True).start()
    for _ in range(30):
        time.sleep(0.2)
        near.ping()
    assert got.empty()  # after 6 seconds
    near.send([b"here"])
    assert bytes(got.get(timeout=WAIT_S)) == b"here"
    assert got.get(timeout=WAIT_S) == "nothing was heard for 4 s"


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


@pytest.mark.clock
def test_opening_a_peer_ends_in_time_though_it_pings(identity: secrets.Identity) -> None:
    silence = Silence(ping_s=0.05)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            context = framesocket.server_context(identity)
            conn = framesocket.accept(listener.accept()[0], context, MOST, silence)
            while not stop.wait(0.1):
                conn.ping()

        thread = threading.Thread(target=serve)
        thread.start()
        details = {
            "device": "b",
            "target": f"127.0.0.1:{listener.getsockname()[1]}",
            "ticket": "x",
            "certificate": identity.certificate_pem.decode(),
        }
        began = time.monotonic()
        with pytest.raises(OSError, match=r"closed the connection|no answer within"):
            FramePeer(details, lambda answer: None, connect_s=0.5, silence=silence)
        assert time.monotonic() - began < 5
        stop.set()
        thread.join(WAIT_S)


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "nowhere.invalid"])
def test_what_is_no_host_is_named(identity: secrets.Identity, host: str) -> None:
    details = {
        "device": "b",
        "target": f"{host}:5",
        "ticket": "x",
        "certificate": identity.certificate_pem.decode(),
    }
    with pytest.raises(OSError, match=f"^{host}:5: "):
        open_peer(details, lambda answer: None)


def test_another_certificate_is_not_talked_to(identity: secrets.Identity, tmp_path: Path) -> None:
    others = {
        "replaced, or this is another machine": secrets.create(tmp_path / "other"),
        "not valid at this date": secrets.create(tmp_path / "old", days=-1),
    }
    for why, shown in others.items():
        context = framesocket.server_context(shown)
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(listener: socket.socket = listener, context: Any = context) -> None:
                with pytest.raises(OSError):
                    framesocket.accept(listener.accept()[0], context, MOST)

            thread = threading.Thread(target=serve)
            thread.start()
            target = f"127.0.0.1:{listener.getsockname()[1]}"
            details = {
                "device": "b",
                "target": target,
                "ticket": "x",
                "certificate": (identity if "replaced" in why else shown).certificate_pem.decode(),
            }
            with pytest.raises(OSError, match=why):
                open_peer(details, lambda answer: None)
            thread.join(WAIT_S)


# --- the agent's port ---


def matmul(weight: Any) -> bytes:
    """An ONNX file that multiplies."""
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
        with pytest.raises(OSError, match="ticket is wrong, or holds no more"):
            central.peer(wrong)
    old = central.ticket
    central.client.work(Open(threads=1))  # a fresh worker
    with pytest.raises(OSError, match="ticket is wrong, or holds no more"):
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
    """What comes of it, once it works."""
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
    """The workers of this process's agents."""
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

"""Tests of the connection that carries frames between boards."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.worker.frames import FrameError

pytest.importorskip("grpc")
pytest.importorskip("onnxruntime")

from harness_remote.client.peer import FramePeer, open_peer
from harness_remote.wire import framesocket, secrets
from harness_remote.wire.framesocket import SILENCE, FrameSocket, Silence

MOST = 2**20
WAIT_S = 10.0


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> secrets.Identity:
    return secrets.create(tmp_path_factory.mktemp("identity"))


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
    """Both sides send more than the network buffers before either side has received everything."""
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

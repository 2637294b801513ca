"""Tests of the lab without boards: its file, the link model, and the relay that follows the model."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SuiteError
from harness_remote.lab.labfile import find_lab, load_lab, shipped_labs
from harness_remote.lab.link import LinkModel, Port
from harness_remote.lab.relay import Model, Relay, Route, config

MB = 8e6  # bits

# --- the file -------------------------------------------------------------------------------------

GOOD = """
lab: four
boards: 4
link: {rate: 2 MB/s, rtt: 1ms, ports: shared}
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_a_lab_as_written(written: Callable[[str], Path]) -> None:
    lab = load_lab(written(GOOD))
    assert lab.boards == ("board1", "board2", "board3", "board4")
    assert lab.link.rate == 2 * MB
    assert lab.link.rtt == 0.001
    assert (lab.link.shaping, lab.replay, lab.suite) == ("relay", "off", None)


def test_rates_are_in_bytes_or_bits(written: Callable[[str], Path]) -> None:
    for rate, bits in (("16 Mbit/s", 16e6), ("1.5 MB/s", 12e6), ("250kB/s", 2e6), ("1 Gbit/s", 1e9)):
        assert load_lab(written(GOOD.replace("2 MB/s", rate))).link.rate == bits


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 MB/s", "2", ":4: link.rate: 2 is no rate; write 2 MB/s (bytes) or 16 Mbit/s (bits)"),
        ("ports: shared", "port: shared", ":4: link.port: unknown key; did you mean 'ports'?"),
        (", ports: shared", "", ":4: link.ports: missing"),
        ("boards: 4", "boards: 400", ":3: boards: a lab has 1 to 32 boards"),
        ("boards: 4", "boards: [a, a]", ":3: boards: a board's name is written twice"),
        ("boards: 4", "boards: [workstation]", ":3: boards: a board's name is written twice, or is"),
        ("boards: 4", "boards: [a b]", ":3: boards.0: a name has letters, digits, '-' and '_'"),
        ("ports: shared", "ports: per-link, shaping: tc", ":4: link: shaping: tc shapes a board's port"),
        ("rtt: 1ms", "rtt: 3s", ":4: link.rtt: must be less than or equal to 2"),
        ("boards: 4", "boards: 4\nsuite: nothing", ":4: suite: nothing: no such file or shipped suite"),
        ("boards: 4", "boards: 4\nreplay: on", ":4: replay: must be 'off' or 'solo'"),
    ],
)
def test_a_wrong_lab_is_one_line(written: Callable[[str], Path], old: str, new: str, message: str) -> None:
    path = written(GOOD.replace(old, new))
    with pytest.raises(SuiteError) as caught:
        load_lab(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert len(str(caught.value).splitlines()) == 1


def test_shipped_labs_name_suites_that_are_there() -> None:
    assert set(shipped_labs()) == {"nano4", "nano6", "pi10"}
    for name in shipped_labs():
        suite = load_lab(find_lab(name)).suite
        assert suite is not None
        assert Path(suite).is_file()
    with pytest.raises(SuiteError, match="nano5: no such file or shipped lab; did you mean"):
        find_lab("nano5")


# --- the model ------------------------------------------------------------------------------------

times = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 100_000)), min_size=1, max_size=50)


@given(times, st.floats(1e4, 1e9), st.floats(0, 0.5))
def test_no_chunk_is_early_none_overtakes_and_none_waits_for_nothing(
    sent: list[tuple[float, int]], rate: float, delay: float
) -> None:
    link = LinkModel(rate, delay, (Port(), Port()))
    now, last, busy = 0.0, 0.0, 0.0
    for pause, size in sent:
        now += pause
        due = link.due(now, size)
        takes = 8 * size / rate
        assert due >= now + takes + delay  # never early
        assert due >= last  # in order
        busy = max(now, busy) + takes  # a wire that is never idle while something waits
        assert due == pytest.approx(busy + delay)
        assert link.ahead(now) == pytest.approx(busy - now)
        last = due


def test_a_small_message_after_idle_takes_its_time() -> None:
    link = LinkModel(2 * MB, 0.0005, (Port(),))
    assert link.due(0.0, 602_000) == pytest.approx(0.3015)
    assert link.due(10.0, 3_000) == pytest.approx(10.002)  # a token bucket would send it at once


def test_a_shared_port_is_shared_and_a_link_of_ones_own_is_not() -> None:
    relay = Relay(Model(rate=2 * MB, rtt=0.0, shared=True), ())
    out = [relay.link("hub", name).due(0.0, 602_000) for name in "ab"]
    back = [relay.link(name, "hub").due(10.0, 3_000) for name in "ab"]
    assert out == pytest.approx([0.301, 0.602])
    assert back == pytest.approx([10.0015, 10.003])
    assert relay.link("a", "b").due(20.0, 602_000) == pytest.approx(20.301)  # once, not at both ports
    apart = Relay(Model(rate=2 * MB, rtt=0.0, shared=False), ())
    assert [apart.link("hub", name).due(0.0, 602_000) for name in "ab"] == pytest.approx([0.301, 0.301])


# --- the relay ------------------------------------------------------------------------------------


class Echo:
    """Answers with as many bytes as the first two of a message say, times 1000, once ``expect`` have come."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self.socket.accept()
                threading.Thread(target=self._answer, args=(conn,), daemon=True).start()

    @staticmethod
    def _answer(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := conn.recv(8, socket.MSG_WAITALL):
                left, back = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
                while left and (data := conn.recv(min(left, 1 << 20))):
                    left -= len(data)
                conn.sendall(bytes(back))
            conn.sendall(b"end")


def round_trip(conn: socket.socket, up: int, down: int) -> float:
    start = time.perf_counter()
    conn.sendall((up - 8).to_bytes(4, "big") + down.to_bytes(4, "big") + bytes(up - 8))
    while down:
        down -= len(conn.recv(min(down, 1 << 20)))
    return time.perf_counter() - start


Connect = Callable[..., socket.socket]


@pytest.fixture
def relayed() -> Iterator[Connect]:
    """Yield a function that connects through a relay, to an echo server or to ``address``."""
    echo = Echo()
    with contextlib.ExitStack() as stack:

        def connect(model: Model, address: tuple[str, int] = echo.address) -> socket.socket:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            relay = subprocess.Popen(
                [sys.executable, "-m", "harness_remote.lab.relay"],
                stdin=subprocess.PIPE,
                text=True,
                pass_fds=[listener.fileno()],
            )
            stack.callback(relay.wait, 5)
            stack.callback(relay.kill)
            assert relay.stdin is not None
            with relay.stdin:
                relay.stdin.write(config(model, [Route(listener.fileno(), "here", "there", address)]))
            conn = stack.enter_context(socket.create_connection(listener.getsockname(), 5))
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.settimeout(10)
            return conn

        yield connect
    echo.socket.close()


@pytest.mark.clock
def test_the_relay_keeps_to_the_model(relayed: Connect) -> None:
    conn = relayed(Model(rate=2 * MB, rtt=0.004, shared=False))
    round_trip(conn, 8, 1)
    image = min(round_trip(conn, 602_000, 1) for _ in range(3))  # what a stall adds is not the link's
    assert 0.301 + 0.004 <= image < 1.03 * 0.305
    feature = min(round_trip(conn, 8, 3_000) for _ in range(50))
    assert 0.0015 + 0.004 <= feature < 1.15 * 0.0055


def test_the_relay_passes_every_byte_and_the_end(relayed: Connect) -> None:
    conn = relayed(Model(rate=None, rtt=0.0, shared=False))
    round_trip(conn, 3_000_000, 2_000_000)
    conn.shutdown(socket.SHUT_WR)
    assert conn.recv(16, socket.MSG_WAITALL) == b"end"  # half closed, the other half still answers


def test_a_relay_whose_target_is_gone_closes(relayed: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    conn = relayed(Model(rate=None, rtt=0.0, shared=False), address)
    with contextlib.suppress(ConnectionResetError):
        assert conn.recv(1) == b""


def test_a_sender_is_held_back(relayed: Connect) -> None:
    """Bytes that are sent faster than the link's rate wait at the sender, not in the relay."""
    conn = relayed(Model(rate=0.1 * MB, rtt=0.0, shared=False))
    sent, end = 0, time.monotonic() + 0.4
    while (left := end - time.monotonic()) > 0:
        conn.settimeout(left)
        with contextlib.suppress(TimeoutError):
            sent += conn.send(bytes(65_536))
    assert sent < 8_000_000

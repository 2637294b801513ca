"""Tests of the socket at which a worker answers other workers."""

from __future__ import annotations

import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import NoReturn

import numpy as np
import pytest

from harness.errors import DeviceError
from harness.types import PeerAddress
from harness.worker.links import Links
from harness.worker.messages import Done, Run, answer_of, pack_request
from harness.worker.peers import LOCAL, Server

WAIT_S = 60


@pytest.fixture
def server() -> Server:
    return Server(lambda request, tensors: Done(request.number, "a", [2 * tensors[0]]))


def asked(conn: Connection) -> np.ndarray:
    conn.send_bytes(b"".join(pack_request(Run(1, "a"), [np.ones(3, np.float32)])))
    assert conn.poll(WAIT_S)
    doubled = answer_of("pi", conn.recv_bytes()).output
    assert doubled is not None
    return doubled


def test_a_stranger_that_says_nothing_keeps_nobody_waiting(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(WAIT_S)
        stranger.connect(server.address)
        assert stranger.recv(4)  # it was let in, and is asked for the key
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(WAIT_S)
            other.connect(server.address)
            assert other.recv(4)
        with Client(server.address, "AF_UNIX", authkey=server.key) as conn:
            np.testing.assert_array_equal(asked(conn), [2, 2, 2])


def test_who_has_another_key_learns_nothing(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        Client(server.address, "AF_UNIX", authkey=bytes(32))
    with Client(server.address, "AF_UNIX", authkey=server.key) as conn:
        np.testing.assert_array_equal(asked(conn), [2, 2, 2])


def test_without_a_thread_for_it_one_is_turned_away_and_the_next_is_not(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as one:

        def none_left(self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr("threading.Thread.start", none_left)
        one.settimeout(WAIT_S)
        one.connect(server.address)
        assert one.recv(4) == b""
    with Client(server.address, "AF_UNIX", authkey=server.key) as conn:
        np.testing.assert_array_equal(asked(conn), [2, 2, 2])


def test_an_error_at_a_peer_keeps_the_files_in_which_it_arose() -> None:
    def fail(request: object, tensors: object) -> NoReturn:
        raise ValueError("no")

    failing = Server(fail)
    details = {"address": failing.address, "key": failing.key.hex(), "device": "pi"}
    links = Links({"a": PeerAddress(device="pi", open=LOCAL, details=details)})
    with pytest.raises(DeviceError, match="pi: ValueError: no") as error:
        links.exchange(links.where("a"), Run(1, "a"), [])
    assert error.value.files[-1] == __file__

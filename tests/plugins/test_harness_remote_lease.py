"""A lease whose holder leaves at the wrong moment, and a session whose board is out of threads."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import BoardLost, DeviceError
from harness.types import Workload

grpc = pytest.importorskip("grpc")

from harness_remote import agent_pb2 as pb  # noqa: E402
from harness_remote.agent.server import Agent, AgentSettings  # noqa: E402
from harness_remote.agent.session import Session  # noqa: E402
from harness_remote.client.client import Client  # noqa: E402
from harness_remote.client.external import External  # noqa: E402
from harness_remote.wire.secrets import Credentials  # noqa: E402

WAIT_S = 60


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(AgentSettings(folder=tmp_path, name="board")) as running:
        yield running


@pytest.fixture
def client(agent: Agent) -> Iterator[Client]:
    made = Client("board", Credentials(target=agent.address))
    yield made
    made.close()


class Caller:
    """Of a call that has no network."""

    def __init__(self, lease: str = "") -> None:
        self._lease = lease
        self.then: list[Callable[[], None]] = []

    def lease(self) -> str:
        return self._lease

    def on_end(self, then: Callable[[], None]) -> None:
        self.then.append(then)

    def leaves(self) -> None:
        for one in self.then:
            one()

    def cancel(self) -> None: ...


def acquire(agent: Agent, caller: Caller) -> pb.Lease:
    assert agent._calls is not None
    return agent._calls.acquire(pb.AcquireRequest(holder="me", seconds=60), caller)


@pytest.mark.parametrize("when", ["while another holder's session ends", "while its own begins"])
def test_who_left_before_it_was_given_holds_nothing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    first = acquire(agent, Caller())
    caller = Caller()
    slow = Session.close if when.startswith("while another") else Session.__init__

    def leave(self: Session, *given: Any) -> None:
        caller.leaves()
        slow(self, *given)

    assert agent._calls is not None
    agent._calls._leases.release(first.id)
    with monkeypatch.context() as patch:
        patch.setattr(Session, slow.__name__, leave)
        with pytest.raises(DeviceError, match="nobody waits for this lease"):
            acquire(agent, caller)
    assert acquire(agent, Caller()).id  # the board is free


def test_who_left_in_the_queue_holds_nothing(agent: Agent) -> None:
    caller = Caller()
    caller.leaves()
    caller.on_end = lambda then: then()  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="nobody waits for this lease"):
        acquire(agent, caller)
    assert acquire(agent, Caller()).id


def test_a_renewal_that_nobody_waits_for_shortens_no_lease(agent: Agent) -> None:
    """It may have been waiting for its turn at the agent, while its holder asked for another time."""
    assert agent._calls is not None
    caller = Caller(acquire(agent, Caller()).id)
    agent._calls.renew(pb.RenewRequest(seconds=3600), caller)
    caller.on_end = lambda then: then()  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="nobody waits for this lease"):
        agent._calls.renew(pb.RenewRequest(seconds=60), caller)
    lease = agent._calls._leases._lease
    assert lease is not None
    assert lease.until - time.monotonic() > 3000


def test_a_renewal_under_way_does_not_shorten_a_detached_lease(
    agent: Agent, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agent._calls is not None
    leases = agent._calls._leases
    renew, kept, detached = leases.renew, threading.Event(), threading.Event()

    def slow(id: str, seconds: float) -> float:
        if seconds > 60:
            detached.set()
        else:  # of the one who keeps the lease
            kept.set()
            detached.wait(1)
        return renew(id, seconds)

    monkeypatch.setattr(leases, "renew", slow)
    monkeypatch.setattr("harness_remote.client.client.RENEW_S", 0.01)
    client.acquire()
    assert kept.wait(WAIT_S)
    client.detach(3600)
    assert detached.is_set()
    time.sleep(0.1)  # were one more under way, it would end now
    assert leases._lease is not None
    assert leases._lease.until - time.monotonic() > 3000


def test_a_channel_that_another_thread_closed_just_now_is_a_lost_board(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.health()
    channel = client._open()
    channel.close()
    monkeypatch.setattr(client, "_open", lambda: channel)
    for use in (client.health, lambda: client.stream(iter(()))):
        with pytest.raises(BoardLost):
            use()
    with pytest.raises(DeviceError, match="did not end within"):  # after further trials
        client.follow("job", 0.1)


def test_the_board_is_given_back_though_an_own_meter_does_not_end(agent: Agent, tmp_path: Path) -> None:
    from harness_remote.client.device import RemoteDevice

    device = object.__new__(RemoteDevice)
    device._client = Client("board", Credentials(target=agent.address))
    device._external = External.__new__(External)
    device._client.acquire()

    def stuck() -> None:
        raise OSError("the meter's process does not end")

    device._external.close = stuck  # type: ignore[method-assign]
    device._hang_up = lambda: None  # type: ignore[method-assign]
    with pytest.raises(OSError, match="does not end"):
        device.close()
    end = time.monotonic() + WAIT_S / 2  # half as long as the lease would hold by itself
    while agent._calls is not None and agent._calls._leases.held():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_measurement_that_gets_no_thread_is_told_and_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 2), np.float32))
    (tmp_path / "images").write_bytes(stream.getvalue())
    worker = type(
        "Worker", (), {"ask": lambda self, *told: None, "kill": lambda self: None, "close": lambda self: None}
    )()
    blobs = type("Blobs", (), {"path": lambda self, sha256: tmp_path / "images"})()
    session = Session(tmp_path / "session", blobs, None, "board")  # type: ignore[arg-type]
    session._worker = worker
    with monkeypatch.context() as patch:

        def none_left(self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr("threading.Thread.start", none_left)
        with pytest.raises(DeviceError, match="measure on board: can't start new thread"):
            session.measure(Workload(), "sha")
    assert not session.measuring
    assert session.job(session.measure(Workload(), "sha")).done.wait(WAIT_S)
    session.close()

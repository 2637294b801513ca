"""Tests of a lease whose holder disconnects at a bad moment, and of a session on a board without free threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from harness.errors import BoardLost, DeviceError
from harness.plugins import load_plugins
from harness.types import DeviceInfo, SessionOptions, Workload
from harness.worker.commands import Command, Measure
from harness.worker.process import WorkerProcess

grpc = pytest.importorskip("grpc")

from harness_remote import agent_pb2 as pb  # noqa: E402
from harness_remote.agent.blobs import Blobs  # noqa: E402
from harness_remote.agent.calls import Calls  # noqa: E402
from harness_remote.agent.jobs import Jobs  # noqa: E402
from harness_remote.agent.lease import Leases  # noqa: E402
from harness_remote.agent.server import Agent, AgentSettings  # noqa: E402
from harness_remote.agent.session import LeaseSession  # noqa: E402
from harness_remote.client.channel import open_channel  # noqa: E402
from harness_remote.client.client import Client, Timeouts  # noqa: E402
from harness_remote.client.device import RemoteDevice  # noqa: E402
from harness_remote.client.external import External  # noqa: E402
from harness_remote.client.transport import BoardTransport, Reach  # noqa: E402
from harness_remote.wire.commands import InferFile  # noqa: E402
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


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def calls(tmp_path: Path, leases: Leases) -> Iterator[Calls]:
    """The calls of a board, without a network."""
    made = Calls(tmp_path, Blobs(tmp_path / "blobs", 2**20, 2**20), load_plugins(), "board", leases)
    yield made
    made.stop()


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


def acquire(calls: Calls, caller: Caller, seconds: float = 60) -> pb.Lease:
    return calls.acquire(pb.AcquireRequest(holder="me", seconds=seconds), caller)


@pytest.mark.parametrize("when", ["while another holder's session ends", "while its own begins"])
def test_who_left_before_it_was_given_holds_nothing(
    calls: Calls, leases: Leases, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    first = acquire(calls, Caller())
    caller = Caller()
    slow = LeaseSession.close if when.startswith("while another") else LeaseSession.__init__

    def leave(self: LeaseSession, *given: Any) -> None:
        caller.leaves()
        slow(self, *given)

    leases.release(first.id)
    with monkeypatch.context() as patch:
        patch.setattr(LeaseSession, slow.__name__, leave)
        with pytest.raises(DeviceError, match="nobody waits for this lease"):
            acquire(calls, caller)
    assert acquire(calls, Caller()).id  # the board is free


def test_who_left_in_the_queue_holds_nothing(calls: Calls) -> None:
    caller = Caller()
    caller.leaves()
    caller.on_end = lambda then: then()  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="nobody waits for this lease"):
        acquire(calls, caller)
    assert acquire(calls, Caller()).id


def left_s(leases: Leases) -> int:
    """Return the seconds for which the board is still held."""
    with pytest.raises(DeviceError, match="held by") as caught:
        leases.acquire("another", 1)
    return int(str(caught.value).partition(" s more")[0].rpartition(" ")[2])


def test_a_renewal_that_nobody_waits_for_shortens_no_lease(calls: Calls, leases: Leases) -> None:
    """The renewal may have waited for its turn at the agent, while its holder asked for another time."""
    caller = Caller(acquire(calls, Caller()).id)
    calls.renew(pb.RenewRequest(seconds=3600), caller)
    caller.on_end = lambda then: then()  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="nobody waits for this lease"):
        calls.renew(pb.RenewRequest(seconds=60), caller)
    assert left_s(leases) > 3000


class SlowLeases(Leases):
    """A renewal that keeps the lease takes until the one that detaches comes, or a second."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.detached = threading.Event(), threading.Event()

    def renew(self, id: str, seconds: float) -> float:
        if seconds > 60:
            self.detached.set()
        else:
            self.kept.set()
            self.detached.wait(1)
        return super().renew(id, seconds)


def test_a_renewal_under_way_does_not_shorten_a_detached_lease(tmp_path: Path) -> None:
    leases = SlowLeases()
    with Agent(AgentSettings(folder=tmp_path, name="board"), leases) as agent:
        client = Client("board", Credentials(target=agent.address), Timeouts(renew=0.01))
        client.acquire()
        assert leases.kept.wait(WAIT_S)
        client.detach(3600)
        assert leases.detached.is_set()
        time.sleep(0.1)  # were one more under way, it would end now
        assert left_s(leases) > 3000
        client.close()


def test_a_channel_that_another_thread_closed_just_now_is_a_lost_board(agent: Agent) -> None:
    def closed(target: str, certificate: bytes) -> Any:
        channel = open_channel(target, certificate)
        channel.close()
        return channel

    client = Client("board", Credentials(target=agent.address), channel=closed)
    with pytest.raises(BoardLost):
        client.health()
    with pytest.raises(DeviceError, match="did not end within"):  # after further trials
        client.follow(InferFile("", 1), "job", 0.1)
    client.close()


class StuckMeters(External):
    def close(self) -> None:
        raise OSError("the meter's process does not end")


def test_the_board_is_given_back_though_an_own_meter_does_not_end(tmp_path: Path, leases: Leases) -> None:
    info = DeviceInfo(name="board", backend="agent", model="", kind="cpu", cores=1, memory_bytes=1)
    with Agent(AgentSettings(folder=tmp_path, name="board"), leases) as agent:
        credentials = Credentials(target=agent.address)
        client = Client("board", credentials)
        reach = Reach(board="board", credentials=credentials, via={})
        transport = BoardTransport(client, reach, info, threads=1, meters=(), device="cpu", detached=False)
        device = RemoteDevice(info, transport, SessionOptions(), StuckMeters(()))
        client.acquire()
        assert leases.held()
        with pytest.raises(OSError, match="does not end"):
            device.close()
        end = time.monotonic() + WAIT_S / 2  # half as long as the lease would hold by itself
        while leases.held():
            assert time.monotonic() < end
            time.sleep(0.05)


class Idle:
    """A worker that answers nothing."""

    def ask(self, command: Command[Any]) -> None: ...


def test_a_measurement_that_gets_no_thread_is_reported_and_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(tmp_path, "board")
    command = Measure(Workload(), np.zeros((1, 2), np.float32))
    worker = cast(WorkerProcess, Idle())
    with monkeypatch.context() as patch:

        def none_left(self: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr("threading.Thread.start", none_left)
        with pytest.raises(DeviceError, match="measure on board: can't start new thread"):
            jobs.start(command, worker)
    assert not jobs.running
    job = jobs.start(command, worker)
    assert jobs.get(job.id).done.wait(WAIT_S)
    assert job.result is not None

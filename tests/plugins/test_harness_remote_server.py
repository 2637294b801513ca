"""Tests of the agent over real gRPC on loopback, with and without TLS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.errors import DeviceError
from harness.types import Graph, GraphPart, Samples, TensorSpec
from harness.worker.commands import Begin, End

grpc = pytest.importorskip("grpc")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from harness_remote import agent_pb2 as pb  # noqa: E402
from harness_remote.agent.server import Agent, AgentSettings  # noqa: E402
from harness_remote.wire import codec, secrets  # noqa: E402
from harness_remote.wire.commands import InferFile, Join, Open, Serve  # noqa: E402
from harness_remote.wire.wire import LOST, MAX_CONTROL_BYTES, PLUGIN  # noqa: E402
from remote_calls import ENDLESS, IMAGES, WEIGHT, Client, alive, below, matmul, neighbour, refusal, workers  # noqa: E402

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> secrets.Identity:
    return secrets.create(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(AgentSettings(folder=tmp_path, name="board", max_blob_bytes=2**20)) as running:
        yield running


def test_no_address_of_the_network_without_an_identity(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="harness agent init"):
        Agent(AgentSettings(folder=tmp_path, host="0.0.0.0"))


def test_one_agent_per_folder_and_port(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="another agent uses"):
        Agent(AgentSettings(folder=tmp_path))
    with pytest.raises(DeviceError, match="cannot listen on"):
        Agent(AgentSettings(folder=tmp_path / "b", port=int(agent.address.rpartition(":")[2])))
    taken = int(agent.frames_address.rpartition(":")[2])
    with pytest.raises(DeviceError, match=f"cannot listen on 127.0.0.1:{taken} for other boards' frames"):
        Agent(AgentSettings(folder=tmp_path / "b", frames_port=taken))
    with pytest.raises(DeviceError, match=r"no port comes after 65535 .* --frames-port"):
        Agent(AgentSettings(folder=tmp_path / "b", frames_port=65536))
    for attempt in range(5):  # another program may have the one after
        with Agent(AgentSettings(folder=tmp_path / "b")) as free:
            port = int(free.address.rpartition(":")[2])
        try:
            with Agent(AgentSettings(folder=tmp_path / "b", port=port)) as next_to_it:
                assert next_to_it.frames_address == f"127.0.0.1:{port + 1}"
            break
        except DeviceError:
            assert attempt < 4


def test_every_address_of_the_machine_is_both_versions(tmp_path: Path, identity: secrets.Identity) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with Agent(AgentSettings(folder=tmp_path, host="0.0.0.0", identity=identity)) as agent:
        for address in (agent.address, agent.frames_address):
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, int(address.rpartition(":")[2])), 5).close()


def test_only_the_token_opens(tmp_path: Path, identity: secrets.Identity) -> None:
    with Agent(AgentSettings(folder=tmp_path, identity=identity)) as agent:
        assert Client(agent.address, identity)(
            "Acquire", pb.AcquireRequest(holder="a", seconds=9), pb.Lease
        ).id
        for wrong in ("", "wrong", identity.token[:-1], identity.token + "x"):
            stranger = Client(agent.address, identity, token=wrong)
            assert stranger("Health", pb.HealthRequest(), pb.HealthReply).leased
            for name in ("Describe", "Acquire", "Put", "Work", "Follow", "Nonsense"):
                with pytest.raises(grpc.RpcError) as error:
                    stranger(name, pb.HealthRequest(), pb.HealthReply)
                assert refusal(error)[0] == Code.UNAUTHENTICATED
        for certificate in (None, secrets.create(tmp_path / "other")):
            with pytest.raises(grpc.RpcError) as error:
                Client(agent.address, certificate, identity.token)(
                    "Health", pb.HealthRequest(), pb.HealthReply
                )
            assert refusal(error)[0] == Code.UNAVAILABLE


def test_one_holder_at_a_time(agent: Agent) -> None:
    first, second = Client(agent.address).acquire("Ann"), Client(agent.address)
    with pytest.raises(grpc.RpcError) as error:
        second.acquire("Bob")
    assert refusal(error)[0] == Code.FAILED_PRECONDITION
    assert "held by Ann" in refusal(error)[1]
    for lease in ("", "guess", first.lease + "x"):
        second.lease = lease
        for name, request in (
            ("Work", pb.WorkRequest(kind="Open", value='{"threads": 1}')),
            ("Release", pb.ReleaseRequest()),
        ):
            with pytest.raises(grpc.RpcError) as error:
                second(name, request, pb.Done)
            assert refusal(error)[0] == Code.PERMISSION_DENIED
    first("Release", pb.ReleaseRequest(), pb.Done)
    second.acquire("Bob")
    with pytest.raises(grpc.RpcError) as error:
        first("Renew", pb.RenewRequest(seconds=5), pb.Lease)
    assert refusal(error)[0] == Code.PERMISSION_DENIED


def test_describe_tells_what_the_board_is(agent: Agent) -> None:
    description = json.loads(Client(agent.address)("Describe", pb.DescribeRequest(), pb.DescribeReply).board)
    assert description["memory_bytes"] > 0
    assert description["onnxruntime"]["version"]


def test_a_put_that_broke_off_continues_where_it_was(agent: Agent) -> None:
    client = Client(agent.address).acquire()
    data = os.urandom(300_000)
    name = hashlib.sha256(data).hexdigest()
    stat = pb.StatRequest(sha256=name, size=len(data))

    def half() -> Iterator[pb.PutRequest]:
        yield pb.PutRequest(sha256=name, size=len(data), data=data[:100_000])
        while client("Stat", stat, pb.StatReply).held < 100_000:
            time.sleep(0.01)
        raise RuntimeError("the link is gone")

    with pytest.raises(grpc.RpcError):
        client.put_from(half())
    held = client("Stat", stat, pb.StatReply).held
    assert held == 100_000
    rest = [
        pb.PutRequest(sha256=name, size=len(data), offset=held, data=data[held:200_000]),
        pb.PutRequest(data=data[200_000:]),
    ]
    assert client.put_from(iter(rest)) == len(data)
    assert client("Stat", stat, pb.StatReply).held == len(data)


def test_too_much_is_refused(agent: Agent) -> None:
    client = Client(agent.address).acquire()
    with pytest.raises(grpc.RpcError) as error:
        client("Stat", pb.StatRequest(sha256="0" * 64, size=2**21), pb.StatReply)
    assert "allowed are 1 to 1048576" in refusal(error)[1]
    with pytest.raises(grpc.RpcError) as error:
        client.put_from(iter([pb.PutRequest(sha256="0" * 64, size=9, data=bytes(MAX_CONTROL_BYTES))]))
    assert refusal(error)[0] == Code.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as error:
        client("Work", pb.WorkRequest(value="x" * MAX_CONTROL_BYTES), pb.WorkReply)
    assert refusal(error)[0] == Code.RESOURCE_EXHAUSTED


def test_infer_answers_for_a_file_of_images(agent: Agent) -> None:
    client = Client(agent.address).acquire().ready()
    np.testing.assert_allclose(client.infer(batch=3), IMAGES @ WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(client.infer(batch=-5), IMAGES @ WEIGHT, rtol=1e-6)
    (*_, last) = client.follow(client.work(InferFile(client.put_images(), 1, ("stranger",))))
    assert "stranger" in last.error


def test_what_may_not_be_loaded_or_connected(agent: Agent) -> None:
    client = Client(agent.address).acquire()
    good, bad = client.put(matmul(WEIGHT)), client.put(b"\x80\x04pickle")
    with pytest.raises(grpc.RpcError, match="has no worker"):
        client.load(good)
    with pytest.raises(grpc.RpcError, match="no command 'Observe'; allowed: Open, "):
        client("Work", pb.WorkRequest(kind="Observe", value="{}"), pb.WorkReply)
    client.work(Open(threads=1))
    for changed, why in (
        ({"sha": bad}, "not an ONNX model"),
        ({"sha": "f" * 64}, "is not on the board"),
        ({"sha": good, "runtime": "torch"}, "loads no ONNX file"),
        ({"sha": good, "runtime": "os:system"}, "unknown runtime"),
        ({"sha": good, "device": "cpu; rm"}, "device: cpu, cuda:N"),
        ({"sha": good, "part": ""}, "a part has a name"),
    ):
        with pytest.raises(grpc.RpcError, match=why) as error:
            client.load(**changed)
        assert refusal(error)[0] == Code.FAILED_PRECONDITION
        assert PLUGIN not in dict(error.value.trailing_metadata())  # the agent refuses it, not a runtime
    client.load(good)
    output = TensorSpec(shape=(3,))
    graph = Graph(
        parts=(
            GraphPart(name="far", inputs=("image",), output=output),
            GraphPart(name="model", inputs=("far",), output=output),
        )
    )
    for target in ("dns:///x:1", "host", "a b:1", "host:0", "host:99999", "/x:1", "-x:1", "unix:/x:1"):
        with pytest.raises(grpc.RpcError, match="HOST:PORT"):
            client.work(Join(graph, (neighbour("far", target),)))
    with pytest.raises(grpc.RpcError, match="'far' is neither loaded here"):
        client.work(Join(graph))
    with pytest.raises(grpc.RpcError, match="'stranger' is not in the graph"):
        client.work(Join(graph, (neighbour("stranger", "host:1"),)))
    for meter in ("nvml:0; rm", ""):
        with pytest.raises(grpc.RpcError, match="no meter"):
            client.work(Open(threads=1, meters=(meter,)))


def test_two_boards_answer_together_until_one_is_gone(tmp_path: Path, identity: secrets.Identity) -> None:
    settings = [
        AgentSettings(folder=tmp_path / name, identity=identity, name=name) for name in ("near", "far")
    ]
    second = np.eye(3, dtype=np.float32) * 2
    with Agent(settings[0]) as near, Agent(settings[1]) as far:
        there = Client(far.address, identity).acquire().ready()
        client = Client(near.address, identity).acquire().ready(second)
        graph = Graph(
            parts=(
                GraphPart(name="first", inputs=("image",), output=TensorSpec(shape=(3,))),
                GraphPart(name="model", inputs=("first",), output=TensorSpec(shape=(3,))),
            )
        )
        there.load(there.put(matmul(WEIGHT)), part="first")
        served = there.work(Serve())
        assert far.frames_address.endswith(f":{served.port}")
        certificate = identity.certificate_pem.decode()
        join = Join(graph, (neighbour("first", far.frames_address, certificate, served.ticket),))
        client.work(join)
        np.testing.assert_allclose(client.infer(batch=4), IMAGES @ WEIGHT @ second, rtol=1e-6)

        there.work(Begin())
        samples = codec.unpack(Samples, client.answer(client.measure()))
        assert set(samples.parts.timeline) >= {
            "transport:first",
            "queue:first",
            "compute:first",
            "compute:model",
        }
        assert samples.parts.traffic["sent_bytes:first"] > 16
        report = there.work(End({"load": samples.spans["load"]}, clock_error_ns=10, images=5))
        assert "process_peak_bytes" in report.memory

        job = client.measure(**ENDLESS)
        there("Release", pb.ReleaseRequest(), pb.Done)  # its worker is gone, and so is the ticket
        (*_, last) = client.follow(job)
        assert (last.kind, last.lost) == ("BoardLost", "far")
        client.ready(second)
        with pytest.raises(grpc.RpcError, match="far cannot be reached") as error:
            client.work(join)
        assert dict(error.value.trailing_metadata())[LOST] == "far"


def test_a_measurement_continues_without_its_client_and_is_fetched_later(agent: Agent) -> None:
    client = Client(agent.address).acquire().ready()
    job = client.measure(min_time_s=2.0)
    (worker,) = workers()
    os.kill(worker, signal.SIGSTOP)  # it still measures while it is asked
    lease = client.lease
    client.channel.close()  # the link is dropped
    later = Client(agent.address)
    later.lease = lease
    with pytest.raises(grpc.RpcError, match="busy"):
        later.work(Serve())
    with pytest.raises(grpc.RpcError, match="is measuring"):  # that asks every sensor
        later("Describe", pb.DescribeRequest(), pb.DescribeReply)
    os.kill(worker, signal.SIGCONT)
    data = later.answer(job)
    samples = codec.unpack(Samples, data)
    assert len(samples.trace.latency_ns) >= 5
    assert samples.trace.window_ns >= 2e9
    again = list(later.follow(job, offset=100))
    assert b"".join(reply.data for reply in again) == data[100:]
    assert again[0].size == len(data)
    with pytest.raises(grpc.RpcError, match="nothing is at"):
        list(later.follow(job, offset=len(data) + 1))


def test_a_cancelled_measurement_says_so(agent: Agent) -> None:
    client = Client(agent.address).acquire().ready()
    job = client.measure(**ENDLESS)
    client("Cancel", pb.CancelRequest(id=job), pb.Done)
    (*_, last) = client.follow(job)
    assert "cancelled" in last.error
    assert last.kind == "DeviceError"


def test_a_worker_that_is_killed_is_named_to_all(agent: Agent) -> None:
    client = Client(agent.address).acquire().ready()
    job = client.measure(**ENDLESS)
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    (*_, last) = client.follow(job)
    assert last.error == "the worker on board was ended by SIGKILL (out of memory?)"
    assert last.plugin == "runtimes"  # whose code it ran
    with pytest.raises(grpc.RpcError, match="the worker on board was ended by SIGKILL") as error:
        client.work(Begin())
    assert dict(error.value.trailing_metadata())[PLUGIN] == "runtimes"
    client.ready()  # a fresh one works


def test_a_lease_that_lapses_ends_the_worker_and_every_call(agent: Agent, tmp_path: Path) -> None:
    client = Client(agent.address).acquire(seconds=60).ready()
    job = client.measure(**ENDLESS)
    following = client.follow(job)
    client("Renew", pb.RenewRequest(seconds=1), pb.Lease)
    with contextlib.suppress(grpc.RpcError):  # or it hears of it in time
        (*_, last) = following
        assert "lease of board has ended" in last.error
    deadline = time.monotonic() + 60
    while workers():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(grpc.RpcError) as error:
        client.follow(job).next()
    assert refusal(error)[0] == Code.PERMISSION_DENIED
    assert not list(tmp_path.glob("session/*"))
    Client(agent.address).acquire("next")


def test_sigterm_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from harness_remote.agent.server import AgentSettings, serve\n"
        "if __name__ == '__main__':\n"
        "    serve(AgentSettings(folder=pathlib.Path(sys.argv[1])), announce=lambda *a: print(a[0], flush=True))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "agent")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        client = Client(process.stdout.readline().strip()).acquire().ready()
        client.measure(**ENDLESS)
        children = below(process.pid)
        assert len(children) >= 2  # the worker, and Python's resource tracker
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)

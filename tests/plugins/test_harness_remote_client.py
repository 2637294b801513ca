"""Tests of the client of one board's agent: real agents on loopback, with TLS and token."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import BoardLost, DeviceError
from harness.types import Artifact, DeviceReport
from harness.worker.commands import End

pytest.importorskip("grpc")

from harness_remote import agent_pb2 as pb
from harness_remote.client.client import Client, Timeouts
from harness_remote.client.failures import plugin_name
from harness_remote.wire import codec, secrets
from harness_remote.wire.board import PROTOCOL
from harness_remote.wire.secrets import Credentials
from harness_remote.wire.wire import SERVICE
from remote_boards import GRAPH, QUICK, Boards, opened, pictures, spec_of

pytest_plugins = ["remote_boards"]


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
        DeviceError,
        match=rf"pi1 .* speaks protocol {PROTOCOL} .*: upgrade the agent \(`harness devices setup pi1`",
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


def test_a_file_that_was_damaged_on_the_board_is_sent_again(
    lab: Boards, plugins: Any, artifact: Artifact
) -> None:
    runtime = plugins.runtimes.get("onnxruntime").entry
    content = (artifact.path / artifact.meta["file"]).read_bytes()
    blobs = lab.folder / "pi1" / "agent" / "blobs"
    whole = blobs / hashlib.sha256(content).hexdigest()
    part = whole.with_name(f"{whole.name}.part")
    answers = []
    for planted in (None, (whole, bytes(len(content))), (whole, b""), (part, b"another beginning")):
        if planted is not None:
            whole.unlink()
            planted[0].write_bytes(planted[1])
        with opened(plugins, spec_of(plugins)) as device:
            device.load("whole", artifact, runtime)
            device.connect(GRAPH, {})
            answers.append(device.infer(pictures(), 2))
        assert whole.read_bytes() == content
    for other in answers[1:]:
        np.testing.assert_array_equal(answers[0], other)


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

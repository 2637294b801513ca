"""Tests of calls to an agent with arbitrary content: each is answered or refused, and the agent stays usable."""

from __future__ import annotations

import hashlib
import io
import json
import time

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.types import Workload
from harness_remote import agent_pb2 as pb
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.wire import codec
from harness_remote.wire.commands import MeasureFile, Open
from harness_remote.wire.wire import SERVICE
from remote_messages import TEXTS, altered

OWN_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["Agent"].methods]
REQUESTS = {
    method.name: message_factory.GetMessageClass(method.input_type)
    for method in pb.DESCRIPTOR.services_by_name["Agent"].methods
}
TEXT = st.text(max_size=20) | st.sampled_from(
    [
        "{}",
        "[]",
        "null",
        "[" * 500,
        "NaN",
        "1e999",
        "a" * 64,
        "../../etc/passwd",
        "model",
        "cpu",
        "onnxruntime",
    ]
)
BY_TYPE = {
    "string": TEXT,
    "bytes": st.binary(max_size=40),
    "double": st.floats(max_value=0.5) | st.sampled_from([-1.0, float("nan"), float("inf")]),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
}


def message(kind):
    """Return a strategy for messages of a kind with arbitrary values in any fields.

    No field of these kinds is repeated or a message.
    """
    fields = {}
    for field in kind.DESCRIPTOR.fields:
        name = next(name for name in BY_TYPE if getattr(field, f"TYPE_{name.upper()}") == field.type)
        fields[field.name] = BY_TYPE[name]
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


CALLS = st.sampled_from([name for name in METHODS if name != "Describe"]).flatmap(
    lambda method: st.tuples(
        st.just(method),
        message(REQUESTS[method]).map(lambda made: made.SerializeToString()) | st.binary(max_size=60),
        st.fixed_dictionaries(
            {}, optional={"harness_lease": st.sampled_from(["", "x" * 2000]), "authorization": st.just("x")}
        ),
    )
)


class Board:
    """A running agent, and raw calls to it, under a lease of its own."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.lease = ""

    def call(self, method, *data, **metadata):
        """Return status and answers of a call, which must end within 20 s."""
        told = [
            (key.replace("_", "-"), value)
            for key, value in ({"harness_lease": self.lease} | metadata).items()
        ]
        stream = self.channel.stream_stream(f"/{SERVICE}/{method}")(iter(data), timeout=20, metadata=told)
        answers = []
        try:
            answers.extend(stream)
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, answers

    def acquire(self):
        self.call("Release", b"")
        asked = pb.AcquireRequest(holder="me", seconds=600).SerializeToString()
        until = time.monotonic() + 20
        while (got := self.call("Acquire", asked))[0] != grpc.StatusCode.OK:
            assert time.monotonic() < until, got  # a call of before holds it, for seconds
            time.sleep(0.1)
        (told,) = got[1]
        self.lease = pb.Lease.FromString(told).id

    def lives(self):
        return self.call("Health")[0] == grpc.StatusCode.OK


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    with Agent(
        AgentSettings(folder=folder, name="board", max_blob_bytes=2**16, max_total_bytes=2**18)
    ) as agent:
        yield Board(agent.address)


class TestAgent:
    @settings(max_examples=100)
    @given(calls=st.lists(CALLS, min_size=1, max_size=4))
    def test_calls_with_anything_in_them_are_answered_or_refused(self, board, calls):
        board.acquire()
        for method, content, metadata in calls:
            code, told = board.call(method, content, **metadata)
            assert code not in {*OWN_FAULTS, grpc.StatusCode.DEADLINE_EXCEEDED}, told
        assert board.lives()

    @settings(max_examples=100)
    @given(data=st.data(), kind=st.sampled_from([*TEXTS, "Observe", "Load"]))
    def test_commands_with_anything_in_them_are_carried_out_or_refused(self, board, data, kind):
        if not board.lease:
            board.acquire()
        value = json.dumps(data.draw(altered(json.loads(TEXTS.get(kind, "{}")))))
        request = pb.WorkRequest(kind=kind, value=value).SerializeToString()
        code, answer = board.call("Work", request)
        assert code not in {*OWN_FAULTS, grpc.StatusCode.DEADLINE_EXCEEDED}, answer
        assert board.lives()

    def test_messages_that_cannot_be_read_leave_the_connection_as_it_was(self, board):
        for method in ("Renew", "Put", "Follow"):
            for _ in range(100):
                assert board.call(method, b"\xff\xff")[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert board.lives()

    def test_a_broken_piece_between_good_ones(self, board):
        board.acquire()
        name = hashlib.sha256(b"abcd").hexdigest()
        first = pb.PutRequest(sha256=name, size=4, data=b"ab").SerializeToString()
        assert board.call("Put", first, b"\xff", first)[0] == grpc.StatusCode.INVALID_ARGUMENT
        stat = pb.StatRequest(sha256=name, size=4).SerializeToString()
        assert pb.StatReply.FromString(board.call("Stat", stat)[1][0]).held == 2

    def test_a_measurement_without_a_worker_keeps_nobody_waiting(self, board):
        board.acquire()
        file = io.BytesIO()
        np.save(file, np.ones((2, 4), np.float32))
        code, told = board.call("Work", measure_of(board, file.getvalue()))
        assert (code, "open one first" in told) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert board.call("Work", work(Open(1)))[0] == grpc.StatusCode.OK

    @settings(max_examples=40)
    @given(at=st.integers(8, 100), change=st.binary(min_size=1, max_size=4))
    @example(at=10, change=b"(")
    def test_images_that_are_none(self, board, at, change):
        if not board.lease:
            board.acquire()
        file = io.BytesIO()
        np.save(file, np.ones((2, 4), np.float32))
        content = file.getvalue()[:at] + change + file.getvalue()[at + len(change) :]
        code, told = board.call("Work", measure_of(board, content))
        assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OK), told


def measure_of(board, images):
    """Send a file of images, and return a request to measure over it."""
    name = hashlib.sha256(images).hexdigest()
    board.call("Put", pb.PutRequest(sha256=name, size=len(images), data=images).SerializeToString())
    return work(MeasureFile(name, Workload()))


def work(command):
    return pb.WorkRequest(kind=type(command).__name__, value=codec.to_json(command)).SerializeToString()

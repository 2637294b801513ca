"""Whatever comes over the wire, it is answered or refused, in one line; nothing hangs, and no thread dies of it."""

from __future__ import annotations

import hashlib
import io
import json
import time
from contextlib import suppress
from multiprocessing.connection import Client

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import DeviceError
from harness.types import (
    DeviceReport,
    Graph,
    GraphPart,
    LatencyTrace,
    PartTrace,
    Samples,
    TensorSpec,
    WarmUp,
    Workload,
)
from harness.worker.commands import Begin, End
from harness.worker.frames import DTYPES, MAX_HEADER, FrameError, header_of, pack, unpack, with_header
from harness.worker.messages import answer_of
from harness.worker.peers import Server
from harness.worker.requests import Requests
from harness_remote import agent_pb2 as pb
from harness_remote.agent.server import Agent, AgentSettings
from harness_remote.wire import codec
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Neighbour,
    Open,
    Serve,
    Served,
    ShippedArtifact,
    command_of,
)
from harness_remote.wire.wire import SERVICE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SIZES = st.integers(0, 4) | st.sampled_from([-1, 2**31 - 1, 2**31, 2**63, True, 1.5])
TENSOR = (
    st.fixed_dictionaries(
        {"dtype": st.sampled_from([*DTYPES, "object"]), "shape": st.lists(SIZES, max_size=9)}
    )
    | JSON
)
HEADER = st.dictionaries(
    st.sampled_from(
        ["id", "op", "kind", "part", "slot", "from", "wire", "normalise", "reply_bytes", "compute_ns"]
    ),
    JSON | st.sampled_from(["run", "keep", "infer", "echo", "a", "float16", ["slot"], ["tensor", "slot"]]),
    max_size=6,
)


def framed(header, body=b""):
    text = json.dumps(header).encode()
    return b"HF1\n" + len(text).to_bytes(4, "little") + text + body


FRAMES = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda rest: b"HF1\n" + rest, st.binary(max_size=60)),
    st.builds(framed, JSON, st.binary(max_size=40)),
    st.builds(
        lambda header, tensors, body: framed({**header, "tensors": tensors}, body),
        HEADER,
        st.lists(TENSOR, max_size=3),
        st.binary(max_size=40),
    ),
)
HUGE_BUT_EMPTY = framed({"tensors": [{"dtype": "float32", "shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]}]})


class TestFrames:
    @given(frame=FRAMES)
    @example(frame=HUGE_BUT_EMPTY)
    def test_they_are_read_or_refused(self, frame):
        try:
            _, arrays = unpack(frame)
        except FrameError:
            return
        assert sum(array.nbytes for array in arrays) == len(header_of(frame)[1])

    @given(frame=FRAMES)
    @example(frame=HUGE_BUT_EMPTY)
    def test_an_answer_that_is_none_is_an_error_that_is_told(self, frame):
        told = answer_of("pi1", frame)
        assert told.peer == "pi1"
        assert told.queue_ns >= 0

    @given(
        header=HEADER.filter(lambda header: "NaN" not in json.dumps(header)),
        shapes=st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=3),
        dtype=st.sampled_from(DTYPES),
    )
    def test_what_was_packed_comes_out_and_passes_through_unread(self, header, shapes, dtype):
        arrays = [np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype) for shape in shapes]
        frame = b"".join(pack(header, arrays))
        told, found = unpack(frame)
        assert told == header
        assert all(np.array_equal(one, other) for one, other in zip(arrays, found, strict=True))
        assert b"".join(with_header(*header_of(frame))) == frame


GRAPH = Graph(
    parts=(
        GraphPart(name="a", inputs=("image",), output=TensorSpec(shape=(3,)), stand_ins={"image": (0.5,)}),
        GraphPart(name="b", inputs=("a", "image"), output=TensorSpec(shape=(2,))),
    )
)
ARTIFACT = ShippedArtifact(
    precision="float32",
    weight_bytes=8,
    inputs=(TensorSpec(shape=(4,)),),
    output=TensorSpec(shape=(3,)),
    meta={"file": "m.onnx", "opset": 18},
)
COMMANDS = [
    Open(1, ("a",)),
    LoadFile(part="a", runtime="onnxruntime", sha256="f" * 64, artifact=ARTIFACT, device="cpu"),
    Serve(),
    Join(GRAPH, (Neighbour(device="b", parts=("b",), target="b:1", certificate="", ticket="t"),)),
    InferFile("f" * 64, 2, ("a",)),
    MeasureFile("f" * 64, Workload()),
    Begin(),
    End({"load": (1, 2)}, 3, 4),
]
TEXTS = {type(command).__name__: codec.to_json(command) for command in COMMANDS}
SAMPLES = codec.pack(
    Samples(
        trace=LatencyTrace(latency_ns=np.arange(5), window_ns=9, reached=True),
        warmup=WarmUp(latency_ns=np.arange(2), steady=True),
        first_ns=1,
        batch=1,
        parts=PartTrace(timeline={"compute:a": np.arange(5)}, outcome=np.zeros(5, np.int8)),
        here=DeviceReport(memory={"baseline_bytes": 1}),
    )
)
REPORT = codec.pack(DeviceReport(memory={"a": 1}, meters={"m": np.ones((2, 2))}, problems=("x",)))


@st.composite
def altered(draw, value):
    """A JSON value, with one of its parts replaced, one left out, or one put in."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        kept = {name: one for name, one in value.items() if name != key}
        return {**kept, draw(st.sampled_from([key, key, key, "other"])): draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        return [*value[:-1], draw(altered(value[-1]))] * draw(st.sampled_from([1, 1, 2]))
    return draw(JSON)


@st.composite
def damaged(draw, content):
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found)))
        found[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(found)


class TestCodec:
    @settings(max_examples=120)
    @given(data=st.data(), kind=st.sampled_from(list(TEXTS)))
    def test_json_is_a_value_or_refused_in_one_line(self, data, kind):
        text = json.dumps(data.draw(altered(json.loads(TEXTS[kind]))))
        try:
            assert codec.to_json(command_of(kind, text))
        except DeviceError as error:
            message = str(error)
            assert len(message) < 500, message

    @pytest.mark.parametrize("kind", [Workload, Graph])
    @pytest.mark.parametrize(
        "text", ["", "[" * 100_000, '{"a":' * 50_000, "nul", "1" * 5000, '"\\ud800"', "NaN"]
    )
    def test_text_that_is_no_value(self, kind, text):
        with pytest.raises(DeviceError):
            codec.from_json(kind, text)

    @settings(max_examples=120)
    @given(content=damaged(SAMPLES) | damaged(REPORT) | st.binary(max_size=80))
    def test_bytes_are_a_value_or_refused(self, content):
        for kind in (Samples, DeviceReport, Served, codec.Tensor, type(None), dict[str, object]):
            with suppress(DeviceError):
                codec.unpack(kind, content)


class Double:
    def run(self, inputs):
        return inputs[0] * 2

    def close(self): ...


def asking(behind):
    """A connection to a worker's socket, and a function that asks there and waits for the answer."""
    server = Server(behind.answer)
    conn = Client(server.address, "AF_UNIX", authkey=server.key)

    def ask(frame):
        conn.send_bytes(frame)
        assert conn.poll(10), "no answer"
        return unpack(conn.recv_bytes())

    return conn, ask


@pytest.fixture(scope="module")
def worker():
    conn, ask = asking(Requests({"a": Double()}))
    yield ask
    conn.close()


class TestWorker:
    @settings(max_examples=120)
    @given(frame=FRAMES.filter(lambda frame: len(frame) > 0))
    @example(frame=framed({"id": "x" * (MAX_HEADER - 20)}))
    @example(frame=framed({"id": 1, "op": "run", "part": "x" * (MAX_HEADER - 50)}))
    @example(frame=framed({"id": [[1]], "op": "keep", "slot": []}))
    def test_it_answers_every_frame_and_the_next_one(self, worker, frame):
        header, _ = worker(frame)
        assert "error" in header or "queue_ns" in header
        assert str(header.get("error", "")).isprintable()
        images = np.ones((1, 2), np.float32)
        header, (output,) = worker(b"".join(pack({"op": "run", "part": "a", "id": 7}, [images])))
        assert header["id"] == 7
        assert output.tolist() == [[2, 2]]

    def test_too_few_tensors_are_named(self, worker):
        header, _ = worker(framed({"op": "run", "part": "a", "id": 1, "from": ["tensor", "slot"]}))
        assert header["error"] == "part 'a': too few tensors, or an empty slot"

    def test_what_is_kept_is_bounded(self):
        conn, worker = asking(Requests({}, max_kept_bytes=100))
        answers = [
            worker(b"".join(pack({"op": "keep", "slot": slot, "id": slot}, [np.zeros(20, np.uint8)])))[0]
            for slot in (0, 1, 2, 3, 4, 5, 0)
        ]
        assert [("error" in one) for one in answers] == [False] * 5 + [True, False]
        conn.close()


# --- the agent -----------------------------------------------------------------------------------

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
    """Messages of a kind, with any of its fields set to anything; no field is repeated or a message."""
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
        """Status and answers; the call must end in time."""
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
    """A request to measure over a file, which is sent first."""
    name = hashlib.sha256(images).hexdigest()
    board.call("Put", pb.PutRequest(sha256=name, size=len(images), data=images).SerializeToString())
    return work(MeasureFile(name, Workload()))


def work(command):
    return pb.WorkRequest(kind=type(command).__name__, value=codec.to_json(command)).SerializeToString()

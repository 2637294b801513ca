"""Tests with arbitrary network input: it is answered or refused in one line, nothing hangs, and no thread dies."""

from __future__ import annotations

import json
from contextlib import suppress
from multiprocessing.connection import Client

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import DeviceError
from harness.types import DeviceReport, Graph, LatencyTrace, PartTrace, Samples, WarmUp, Workload
from harness.worker.frames import DTYPES, MAX_HEADER, FrameError, header_of, pack, unpack, with_header
from harness.worker.messages import answer_of
from harness.worker.peers import Server
from harness.worker.requests import Requests
from harness_remote.wire import codec
from harness_remote.wire.commands import Served, command_of
from remote_messages import JSON, TEXTS, altered

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
    """Return a connection to a worker's socket, and a function that sends a frame there and waits for the answer."""
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

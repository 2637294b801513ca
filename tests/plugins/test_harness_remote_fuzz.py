"""Whatever comes over the wire, it is answered or refused, in one line; nothing hangs, and no thread dies of it."""

from __future__ import annotations

import json
from multiprocessing.connection import Client

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.frames import DTYPES, MAX_HEADER, FrameError, header_of, pack, unpack, with_header
from harness.peers import Server, answer_of
from harness.worker import Worker

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


class Double:
    def run(self, inputs):
        return inputs[0] * 2

    def close(self): ...


@pytest.fixture(scope="module")
def worker():
    """A worker's socket, with a part ``a`` behind it; asks and waits for the answer."""
    server = Server(Worker(sessions={"a": Double()}).handle)
    conn = Client(server.address, "AF_UNIX", authkey=server.key)

    def ask(frame):
        conn.send_bytes(frame)
        assert conn.poll(10), "no answer"
        return unpack(conn.recv_bytes())

    yield ask
    conn.close()


class TestWorker:
    @settings(max_examples=200)
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

    def test_what_is_kept_is_bounded(self, worker, monkeypatch):
        monkeypatch.setattr("harness.worker.MAX_KEPT_BYTES", 100)
        answers = [
            worker(b"".join(pack({"op": "keep", "slot": slot, "id": slot}, [np.zeros(20, np.uint8)])))[0]
            for slot in (0, 1, 2, 3, 4, 5, 0)
        ]
        assert [("error" in one) for one in answers] == [False] * 5 + [True, False]

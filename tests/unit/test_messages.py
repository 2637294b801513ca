"""Tests of requests and answers between workers: their bytes, and refused messages."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.worker.frames import FrameError, Pieces, unpack
from harness.worker.messages import (
    MAX_NAME,
    MAX_SLOTS,
    Done,
    Echo,
    Failure,
    Keep,
    Request,
    RequestRefused,
    Run,
    Statistics,
    answer_of,
    pack_done,
    pack_failure,
    pack_request,
    read_request,
    request_of,
    requeued,
)

IMAGES = np.arange(6, dtype=np.float32).reshape(2, 3)
TENSORS = [{"dtype": "float32", "shape": [2, 3]}]
ALL = Run(
    7, "a", "float16", rehearse=True, slot=3, places=("slot", "tensor"), normalise=Statistics((0.5,), (0.25,))
)


def framed(header: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"HF1\n" + len(text).to_bytes(4, "little") + text + body


def whole(frame: Pieces) -> bytes:
    return b"".join(frame)


@pytest.mark.parametrize(
    ("request_", "header"),
    [
        (Run(7, "a"), {"op": "run", "id": 7, "part": "a", "wire": "float32"}),
        (
            ALL,
            {
                "op": "run",
                "id": 7,
                "part": "a",
                "wire": "float16",
                "rehearse": True,
                "slot": 3,
                "from": ["slot", "tensor"],
                "normalise": {"mean": [0.5], "std": [0.25]},
            },
        ),
        (Keep(8, 4), {"op": "keep", "id": 8, "slot": 4}),
        (Echo(9, 16), {"op": "echo", "id": 9, "reply_bytes": 16}),
        (Echo(9, 16, worker=True), {"op": "echo", "id": 9, "reply_bytes": 16, "worker": True}),
    ],
)
def test_a_request_has_the_bytes_of_protocol_3(request_: Request, header: dict[str, Any]) -> None:
    frame = whole(pack_request(request_, [IMAGES]))
    assert frame == framed({**header, "tensors": TENSORS}, IMAGES.tobytes())
    read, (tensor,) = read_request(frame)
    assert read == request_ == request_of(frame)
    np.testing.assert_array_equal(tensor, IMAGES)


def test_an_answer_has_the_bytes_of_protocol_3() -> None:
    done = whole(pack_done(Done(7, "a", [IMAGES], 5), queue_ns=2))
    header = {"id": 7, "part": "a", "compute_ns": 5, "queue_ns": 2, "tensors": TENSORS}
    assert done == framed(header, IMAGES.tobytes())
    answer = answer_of("pi", done)
    assert (answer.peer, answer.query, answer.part, answer.error) == ("pi", 7, "a", "")
    assert (answer.compute_ns, answer.queue_ns, answer.received_bytes) == (5, 2, len(done))
    kept = whole(pack_done(Done(8), queue_ns=2))
    assert kept == framed({"id": 8, "queue_ns": 2, "tensors": []})
    failed = whole(pack_failure(Failure(7, "no", "a", ("x.py",))))
    assert failed == framed({"id": 7, "part": "a", "error": "no", "files": ["x.py"], "tensors": []})
    answer = answer_of("pi", failed)
    assert (answer.query, answer.part, answer.error, answer.files) == (7, "a", "no", ("x.py",))
    assert not answer.lost


RUN = {"op": "run", "id": 1, "part": "a"}


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"op": "exec", "id": 1}, "no request 'exec' on this stream"),
        ({"op": ["run"], "id": 1}, "op: run, keep or echo"),
        ({"id": 1}, "op: run, keep or echo"),
        ({"op": "x" * 60_000, "id": 1}, f"no request {'x' * 40!r} on this stream"),
        ({**RUN, "id": "1"}, "id: a whole number below 2^63 in size"),
        ({**RUN, "id": True}, "id: a whole number below 2^63 in size"),
        ({**RUN, "id": 2**63}, "id: a whole number below 2^63 in size"),
        ({"op": "run", "part": "a"}, "id: a whole number below 2^63 in size"),
        ({"op": "run", "id": 1}, f"part: a name of at most {MAX_NAME} characters"),
        ({**RUN, "part": "x" * (MAX_NAME + 1)}, f"part: a name of at most {MAX_NAME} characters"),
        ({**RUN, "wire": "object"}, "wire: one of float32, float16, uint8, int8, int64, float64"),
        ({**RUN, "wire": {}}, "wire: one of float32, float16, uint8, int8, int64, float64"),
        ({**RUN, "rehearse": 1}, "rehearse: true or false"),
        ({**RUN, "slot": MAX_SLOTS}, f"slot: 0 to {MAX_SLOTS - 1}"),
        ({**RUN, "slot": [0]}, f"slot: 0 to {MAX_SLOTS - 1}"),
        ({**RUN, "from": "slot"}, "from: a list of tensor and slot"),
        ({**RUN, "from": ["disk"]}, "from: a list of tensor and slot"),
        ({**RUN, "from": ["slot"] * 2000}, "from: a list of tensor and slot"),
        ({**RUN, "normalise": {"mean": [0.5]}}, "normalise: mean and std, a number for each channel"),
        (
            {**RUN, "normalise": {"mean": ["0"], "std": [1]}},
            "normalise: mean and std, a number for each channel",
        ),
        (
            {**RUN, "normalise": {"mean": [0], "std": []}},
            "normalise: mean and std, a number for each channel",
        ),
        (
            {**RUN, "repeat": 2},
            "unknown key 'repeat'; known are from, id, normalise, op, part, rehearse, slot, tensors, wire",
        ),
        ({"op": "keep", "id": 1}, f"slot: 0 to {MAX_SLOTS - 1}"),
        ({"op": "keep", "id": 1, "slot": -1}, f"slot: 0 to {MAX_SLOTS - 1}"),
        ({"op": "echo", "id": 1, "reply_bytes": -1}, "reply_bytes: a whole number from 0"),
        ({"op": "echo", "id": 1, "reply_bytes": 1.5}, "reply_bytes: a whole number from 0"),
        ({"op": "echo", "id": 1, "worker": "yes"}, "worker: true or false"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(header: dict[str, Any], why: str) -> None:
    for read in (read_request, request_of):
        with pytest.raises(RequestRefused) as refused:
            read(framed(header))
        assert str(refused.value) == why
        number, part = header.get("id"), header.get("part", "")
        assert refused.value.number == (1 if number == 1 and type(number) is int else None)
        assert refused.value.part == (part if len(part) <= MAX_NAME else "")


@pytest.mark.parametrize(
    "header",
    [
        {"id": "1"},
        {"id": 2**63},
        {"id": 1, "part": ["a"]},
        {"id": 1, "part": "x" * (MAX_NAME + 1)},
        {"id": 1, "error": {"a": 1}},
        {"id": 1, "queue_ns": -1},
        {"id": 1, "compute_ns": 2**63},
        {"id": 1, "compute_ns": 1.5},
        {"id": 1, "files": "x.py"},
        {"id": 1, "files": [1]},
    ],
)
def test_an_answer_with_a_wrong_value_ends_the_peer(header: dict[str, Any]) -> None:
    answer = answer_of("pi", framed(header))
    assert answer.lost
    assert answer.query == -1
    assert answer.error.startswith("answers with ")


def test_an_answer_may_state_more_than_is_known() -> None:
    assert answer_of("pi", framed({"id": 1, "error": "no", "later": 1})).error == "no"


@given(st.text(max_size=3000), st.lists(st.text(max_size=1500), max_size=30), st.text(max_size=MAX_NAME))
def test_every_failure_fits_into_a_header(error: str, files: list[str], part: str) -> None:
    answer = answer_of("pi", whole(pack_failure(Failure(1, error, part, tuple(files)))))
    assert not answer.lost
    assert answer.part == part
    assert answer.error == error[:2000]


def test_an_agent_states_the_time_in_its_own_queue() -> None:
    answer = whole(pack_done(Done(7, "a", [IMAGES], 5), queue_ns=2))
    onward = answer_of("pi", whole(requeued(answer, 30)))
    assert (onward.compute_ns, onward.queue_ns) == (5, 25)
    np.testing.assert_array_equal(onward.output, IMAGES)
    assert answer_of("pi", whole(requeued(answer, 3))).queue_ns == 0
    for wrong in (b"no frame", framed({"id": 7, "compute_ns": "5"})):
        with pytest.raises(FrameError):
            requeued(wrong, 30)


def test_a_frame_that_is_no_request_leaves_its_tensors_unread() -> None:
    frame = framed({**RUN, "tensors": [{"dtype": "float32", "shape": [4]}]}, bytes(3))
    assert request_of(frame) == Run(1, "a")
    with pytest.raises(FrameError):
        read_request(frame)
    assert unpack(framed({}))[1] == []

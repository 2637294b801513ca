"""Tests of the central device with peers in this process: answers, late answers, and lost peers."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.data.splits import normalise, to_pixels
from harness.errors import BoardLost, HarnessError
from harness.types import Answer, FleetLoad, Graph, GraphPart, PeerAddress, Stop, TensorSpec, Workload
from harness.worker.collaborate import Collaboration
from harness.worker.frames import DTYPES, FrameError, pack, size_of, unpack
from harness.worker.loadgen.pipelined import generate_pipelined
from harness.worker.messages import Done, Echo, Failure, Run, answer_of, pack_done, pack_failure, read_request
from harness.worker.requests import Requests
from harness_remote.lab.replay import VARIABLE, replayed

SPEC = TensorSpec(shape=(2,))
IMAGES = np.arange(4, dtype=np.float32).reshape(2, 2)
HERE = __name__


class Times:
    """A session that multiplies the sum of its inputs, once ``work`` is done."""

    def __init__(self, times=1.0, work=lambda: None, fail_from=None):
        self.times, self.work, self.fail_from, self.calls = times, work, fail_from, 0
        self.facts = {}

    def run(self, inputs):
        self.calls += 1
        self.work()
        if self.fail_from is not None and self.calls >= self.fail_from:
            raise ValueError("fails on demand")
        return np.float32(self.times) * sum(inputs)


class ThreadPeer:
    """A peer whose worker is a thread of this process, or answers ``at_once``: while it is being asked."""

    def __init__(self, details, answers):
        self.device, self.answers = details["device"], answers
        self.worker, self.lag, self.cut = details["worker"], details.get("lag", 0), details.get("cut")
        self.seen = 0
        self.ask = self._work if details.get("at_once") else partial(ThreadPoolExecutor(1).submit, self._work)

    def send(self, frame):
        if self.cut is not None and self.seen >= self.cut:
            raise OSError("cable pulled")
        self.seen += 1
        self.ask(b"".join(frame))

    def _work(self, frame):
        request, tensors = read_request(frame)
        time.sleep(self.lag)
        try:
            if isinstance(request, Echo):
                done = Done(request.number, outputs=[np.zeros(request.reply_bytes, np.uint8)])
            else:
                done = self.worker.answer(request, tensors)
            answer = pack_done(done, queue_ns=0)
        except Exception as error:  # noqa: BLE001 - as a worker does
            part = request.part if isinstance(request, Run) else ""
            answer = pack_failure(Failure(request.number, str(error), part))
        self.answers(answer_of(self.device, b"".join(answer)))

    def close(self):
        pass


PEERS: dict[int, dict] = {}


def open_thread(details, answers):
    return ThreadPeer({**details, **PEERS[details["number"]]}, answers)


def fleet(sessions, own=None, missing=("zeros", "zeros"), options=None, **graph):
    """Return a collaboration: by default ``left`` and ``right`` on one peer each, and ``sum`` on this device."""
    PEERS.clear()
    peers = {}
    for number, (name, session) in enumerate(sessions.items()):
        PEERS[number] = {"worker": Requests({name: session}), **(options or {}).get(name, {})}
        peers[name] = PeerAddress(device=name, open=f"{HERE}:open_thread", details={"number": number})
    allowed = {name: () for name, how in zip(sessions, missing, strict=False) if how == "zeros"}
    parts = [GraphPart(name=name, inputs=("image",), output=SPEC) for name in sessions]
    parts.append(GraphPart(name="sum", inputs=tuple(sessions), output=SPEC, stand_ins=allowed))
    return Collaboration(Graph(parts=tuple(parts), **graph), {"sum": own or Times()}, peers)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, HERE, sys.modules[HERE])


@pytest.fixture
def held():
    """A part that waits for this is late, however long the rest takes."""
    event = threading.Event()
    yield event
    event.set()


def test_parts_elsewhere_run_at_the_same_time_and_every_part_is_timed():
    both = threading.Barrier(2, timeout=60)

    def meet():
        both.wait()  # in vain, unless the other part runs now
        time.sleep(0.05)

    together = fleet({"left": Times(2, meet), "right": Times(3, meet)})
    np.testing.assert_array_equal(together(IMAGES), 5 * IMAGES)
    assert together.timeline["compute:left"][0] >= 50e6
    assert set(together.timeline) == {
        *(
            f"{kind}:{part}"
            for kind in ("encode", "transport", "queue", "compute")
            for part in ("left", "right")
        ),
        "compute:sum",
    }


def test_what_is_late_is_stood_in_for_and_counted(held):
    sessions = {"left": Times(2), "right": Times(3, held.wait)}
    together = fleet(sessions, options={"left": {"at_once": True}})
    together.follow(Workload(fleet=FleetLoad(deadline_s=0.1, on_missing="substitute")))
    took = []
    for _ in range(3):
        start = time.perf_counter()
        np.testing.assert_array_equal(together(IMAGES), 2 * IMAGES)
        took.append(time.perf_counter() - start)
    assert took[0] > 0.09
    assert min(took) < 0.4  # a busy machine only makes a query longer
    assert list(together.outcomes) == [1, 1, 1]
    assert together.missed == {"right": 3}
    assert together.timeline["compute:right"][0] == -1
    held.set()  # the late answers come while the next query waits for its own, and are not taken for that
    together.follow(Workload(fleet=FleetLoad(deadline_s=60, on_missing="substitute")))
    np.testing.assert_array_equal(together(10 * IMAGES), 50 * IMAGES)


def test_a_stored_mean_stands_in():
    together = fleet({"left": Times(2), "right": Times(3, fail_from=1)})
    sums = together.graph.parts[-1]
    mean = GraphPart(name="sum", inputs=sums.inputs, output=SPEC, stand_ins={"right": (7.0, 8.0)})
    peers = {
        name: PeerAddress(device=name, open=f"{HERE}:open_thread", details={"number": number})
        for number, name in enumerate(("left", "right"))
    }
    together = Collaboration(Graph(parts=(*together.graph.parts[:-1], mean)), {"sum": Times()}, peers)
    together.follow(Workload(fleet=FleetLoad(on_missing="substitute")))
    np.testing.assert_array_equal(together(IMAGES), 2 * IMAGES + np.float32([7, 8]))


def test_a_late_part_ends_the_measurement_where_nothing_may_stand_in(held):
    sessions = {"left": Times(2), "right": Times(3, held.wait)}
    together = fleet(sessions, options={"left": {"at_once": True}})
    together.follow(Workload(fleet=FleetLoad(deadline_s=0.1)))
    with pytest.raises(BoardLost, match=r"part right on right: no answer within 0\.1 s"):
        together(IMAGES)


def test_a_part_without_stand_in_leaves_the_query_unanswered(held):
    together = fleet({"left": Times(2), "right": Times(3, held.wait)}, missing=("zeros", "none"))
    together.follow(Workload(fleet=FleetLoad(deadline_s=0.1, on_missing="substitute")))
    assert together(IMAGES) is None
    assert list(together.outcomes) == [2]


def test_an_error_of_a_part_is_reported_or_stood_in_for():
    together = fleet({"left": Times(2), "right": Times(3, fail_from=2)})
    together(IMAGES)
    with pytest.raises(HarnessError, match="part right on right: fails on demand"):
        together(IMAGES)
    together.follow(Workload(fleet=FleetLoad(on_missing="substitute")))
    np.testing.assert_array_equal(together(IMAGES), 2 * IMAGES)


def test_a_pulled_cable_is_one_error_or_stood_in_for_at_once():
    together = fleet({"left": Times(2), "right": Times(3)}, options={"right": {"cut": 1}})
    together(IMAGES)
    with pytest.raises(BoardLost, match="part right on right: cable pulled") as caught:
        together(IMAGES)
    assert caught.value.board == "right"
    options = {"left": {"at_once": True}, "right": {"cut": 0}}
    together = fleet({"left": Times(2), "right": Times(3)}, options=options)
    together.follow(Workload(fleet=FleetLoad(on_missing="substitute", deadline_s=5)))
    for _ in range(5):
        frame = together.submit(IMAGES)
        together.step()  # one thing: the sum, so nothing is waited for
        np.testing.assert_array_equal(frame.output, 2 * IMAGES)
    assert together.missed == {"right": 5}


def test_a_board_that_is_back_answers_again():
    together = fleet({"left": Times(2), "right": Times(3)}, options={"right": {"cut": 0}})
    together.follow(Workload(fleet=FleetLoad(on_missing="substitute")))
    together(IMAGES)
    PEERS[1]["cut"] = None  # plugged in again
    end = time.monotonic() + 60
    while time.monotonic() < end and not np.array_equal(together(IMAGES), 5 * IMAGES):
        time.sleep(0.1)
    np.testing.assert_array_equal(together(IMAGES), 5 * IMAGES)


class Cable:
    """A peer that answers at once until it is pulled, which it tells, as a connection's reader does."""

    plugged = ()

    def __init__(self, details, answers):
        self.device, self.answers, self.pulled, self.closed = details["device"], answers, False, False
        self.plugged.append(self)

    def send(self, frame):
        if self.pulled:
            raise OSError("cable pulled")
        request, (images,) = read_request(b"".join(frame))
        part = request.part if isinstance(request, Run) else ""
        frame_back = pack_done(Done(request.number, part, [2 * images]), queue_ns=0)
        self.answers(answer_of(self.device, b"".join(frame_back)))

    def pull(self):
        self.pulled = True
        self.answers(Answer(peer=self.device, query=-1, part="", error="cable pulled", lost=True))

    def close(self):
        self.closed = True


@pytest.mark.parametrize("between", [lambda together: None, lambda together: together.probe(IMAGES)])
def test_the_loss_of_a_connection_is_not_that_of_the_next(monkeypatch, between):
    """The loss may be reported between two queries, and be read only after the board is back."""
    monkeypatch.setattr(Cable, "plugged", plugged := [])
    address = PeerAddress(device="far", open=f"{HERE}:Cable")
    far = GraphPart(name="far", inputs=("image",), output=SPEC)
    together = Collaboration(Graph(parts=(far,)), {}, {"far": address}, reopen_s=0.01)
    together.follow(Workload(fleet=FleetLoad(on_missing="substitute")))
    np.testing.assert_array_equal(together(IMAGES), 2 * IMAGES)
    plugged[0].pull()
    assert together(IMAGES) is None
    end = time.monotonic() + 60
    while together.links.lost:
        assert time.monotonic() < end
        time.sleep(0.01)
    between(together)
    np.testing.assert_array_equal(together(3 * IMAGES), 6 * IMAGES)
    assert [one.closed for one in plugged] == [True, False]


def test_asked_for_without_a_part():
    together = fleet({"left": Times(2), "right": Times(3)}, missing=("zeros", "none"))
    np.testing.assert_array_equal(together(IMAGES, absent=["left"]), 3 * IMAGES)
    with pytest.raises(HarnessError, match="part right has no stand-in"):
        together(IMAGES, absent=["right"])


def test_frames_in_flight_raise_the_throughput_not_the_order_of_answers():
    lone, both = threading.Lock(), threading.Barrier(2, timeout=60)

    def alone():
        assert lone.acquire(blocking=False)
        time.sleep(0.02)
        lone.release()

    def together(meet):
        if meet:
            both.wait()  # in vain, unless the other stage is at work on another frame
        time.sleep(0.02)

    def run(in_flight, left, own):
        load = Workload(stop=Stop(min_time_s=0, min_queries=10), fleet=FleetLoad(in_flight=in_flight))
        return generate_pipelined(fleet({"left": left}, own=own, missing=("none",)), [IMAGES], load)

    run(1, Times(2, alone), Times(1, alone))
    left = Times(2, lambda: together(left.calls > 1))
    own = Times(1, lambda: together(own.calls < 12))  # ten are asked for, and two are in flight then
    three = run(3, left, own)
    assert own.calls == 12
    assert three.latency_ns[2:].min() >= 60e6  # not 40: each waits for the answers of two others
    ahead = fleet({"left": Times(2)}, options={"left": {"at_once": True}})
    for n, frame in enumerate([ahead.submit(n * IMAGES) for n in range(3)]):
        ahead.step()
        np.testing.assert_array_equal(frame.output, 2 * n * IMAGES)


def test_a_part_that_writes_its_answers_into_one_buffer_serves_several_frames_in_flight(held):
    class Reuses(Times):
        buffer = np.zeros_like(IMAGES)

        def run(self, inputs):
            self.buffer[:] = super().run(inputs)
            return self.buffer

    PEERS[0] = {"worker": Requests({"left": Times(2, held.wait)})}
    peers = {"left": PeerAddress(device="left", open=f"{HERE}:open_thread", details={"number": 0})}
    parts = (
        GraphPart(name="left", inputs=("image",), output=SPEC),
        GraphPart(name="here", inputs=("image",), output=SPEC),
        GraphPart(name="sum", inputs=("left", "here"), output=SPEC),
    )
    together = Collaboration(Graph(parts=parts), {"here": Reuses(), "sum": Times()}, peers)
    together.follow(Workload(fleet=FleetLoad(in_flight=2)))
    frames = [together.submit(n * IMAGES) for n in (1, 2)]
    for _ in frames:
        together.step()  # the part here, for each frame
    held.set()
    while not all(frame.done for frame in frames):
        together.step()
    for n, frame in enumerate(frames, start=1):
        np.testing.assert_array_equal(frame.output, 3 * n * IMAGES)


def test_frames_that_come_on_time_wait_from_when_they_were_due():
    together = fleet({"left": Times(2, partial(time.sleep, 0.05))}, own=Times(1), missing=("none",))
    load = Workload(
        scenario="server",
        target_qps=40,
        stop=Stop(min_time_s=0.5, min_queries=1, max_time_s=3),
        fleet=FleetLoad(in_flight=2),
    )
    timed = generate_pipelined(together, [IMAGES], load)
    assert timed.queue_ns is not None
    assert (timed.queue_ns >= 0).all()
    assert (timed.latency_ns >= timed.queue_ns).all()
    assert timed.queue_ns.max() > 0  # 40 frames a second, of 50 ms each


def test_images_that_peers_keep_are_not_sent_again():
    together = fleet({"left": Times(2), "right": Times(3)})
    together(IMAGES)
    sent = together.traffic["sent_bytes:left"]
    together.keep([IMAGES, 2 * IMAGES])
    frame = together.submit(2 * IMAGES, slot=1)
    while not frame.done:
        together.step()
    np.testing.assert_array_equal(frame.output, 10 * IMAGES)
    assert together.traffic["sent_bytes:left"] < sent + 30


def test_what_was_rehearsed_is_not_computed_again_here_or_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lock"))
    computed = {"left": Times(2), "right": Times(3)}, Times()
    replays = {name: replayed(session) for name, session in computed[0].items()}, replayed(computed[1])
    together = fleet(*replays)
    together.rehearse([IMAGES, 2 * IMAGES])
    every = [*computed[0].values(), computed[1]]
    calls = [session.calls for session in every]
    assert min(calls) > 0
    for images in (IMAGES, 2 * IMAGES):
        np.testing.assert_array_equal(together(images), 5 * images)
    assert [session.calls for session in every] == calls
    np.testing.assert_array_equal(together(3 * IMAGES), 15 * IMAGES)
    assert [session.calls for session in every] == [n + 1 for n in calls]


def test_raw_pixels_are_preprocessed_where_they_arrive():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = normalise(pixels, mean, std)
    np.testing.assert_array_equal(to_pixels(images, mean, std), pixels)
    together = fleet({"left": Times(2)}, missing=("none",), input_wire="uint8", mean=mean, std=std)
    np.testing.assert_allclose(together(images), 2 * images, rtol=1e-6)
    assert together.traffic["sent_bytes:left"] < 0.75 * images.nbytes


def test_a_probe_tells_each_link_s_times():
    options = {"left": {"at_once": True}, "right": {"lag": 0.02}}
    together = fleet({"left": Times(2), "right": Times(3)}, options=options)
    together(IMAGES)
    links = together.probe(IMAGES)
    assert set(links) == {f"{way}:{part}" for way in ("rtt", "up", "down") for part in ("left", "right")}
    assert links["rtt:right"] >= 20e6 > links["rtt:left"]


class Counted(Requests):
    """A worker that counts the bytes of the tensors in its requests and answers."""

    def __init__(self, sessions):
        super().__init__(sessions)
        self.tensor_bytes = 0

    def answer(self, request, tensors):
        done = super().answer(request, tensors)
        self.tensor_bytes += sum(tensor.nbytes for tensor in (*tensors, *done.outputs))
        return done


def all_gather(size, wire):
    """Return a collaboration of two peers in two rounds, and the peers' workers.

    Each part of the second round reads both of the first. ``head`` on this device reads both of the second. Every
    output has ``size`` values.
    """
    PEERS.clear()
    output, rounds = TensorSpec(shape=(size,)), {"a1": ("image",), "b1": ("image",)}
    rounds |= {"a2": ("a1", "b1"), "b2": ("a1", "b1")}
    peers, workers = {}, []
    for number, device in enumerate("ab"):
        own = {f"{device}{n}": Times() for n in (1, 2)}
        workers.append(Counted(own))
        PEERS[number] = {"worker": workers[-1]}
        address = PeerAddress(device=device, open=f"{HERE}:open_thread", details={"number": number})
        peers |= dict.fromkeys(own, address)
    parts = [GraphPart(name=n, inputs=i, output=output, wire_dtype=wire) for n, i in rounds.items()]
    parts.append(GraphPart(name="head", inputs=("a2", "b2"), output=output))
    return Collaboration(Graph(parts=tuple(parts)), {"head": Times()}, peers), workers


@pytest.mark.parametrize(("wire", "width"), [("float32", 4), ("float16", 2)])
def test_the_bytes_of_a_query_are_those_on_the_links(wire, width):
    """Each image and output is counted as often as it crosses a link. The frames have a header besides."""
    n, size = 3, 100
    together, workers = all_gather(size, wire)
    sent = together.sent_bytes(np.ones((n, size), np.float32))
    # images to a1 and b1; a1 and b1 to the central device and on to both of the second round; a2 and b2
    assert sent == {"input_bytes": 2 * n * size * 4, "feature_bytes": 8 * n * size * width}
    assert sum(worker.tensor_bytes for worker in workers) == sum(sent.values())
    assert len(together.traffic) == 8
    headers = sum(together.traffic.values()) - sum(sent.values())
    assert 0 < headers < 8 * 300


# --- frames ---

HEADERS = st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8), max_size=4)
TENSORS = st.lists(
    arrays.arrays(
        st.sampled_from(DTYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    ),
    max_size=3,
)


@given(HEADERS, TENSORS)
def test_a_frame_comes_back_as_it_was(header, tensors):
    header.pop("tensors", None)
    frame = pack(header, tensors)
    reply, got = unpack(b"".join(frame))
    assert reply == header
    assert size_of(frame) == len(b"".join(frame))
    for one, other in zip(tensors, got, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@given(st.binary(max_size=64), st.integers(0, 60), st.integers(0, 255))
def test_bytes_that_are_no_frame_are_refused(noise, place, byte):
    frame = bytearray(b"".join(pack({"op": "run", "id": 1}, [IMAGES])))
    frame[place % len(frame)] = byte
    for one in (noise, bytes(frame), bytes(frame[:place])):
        try:
            header, tensors = unpack(one)
        except FrameError:
            continue
        assert isinstance(header, dict)
        assert sum(tensor.nbytes for tensor in tensors) <= len(one)


def test_an_answer_that_cannot_be_read_ends_the_peer():
    assert answer_of("pi", b"nonsense") == Answer(
        peer="pi", query=-1, part="", error="answers with not a frame", lost=True
    )

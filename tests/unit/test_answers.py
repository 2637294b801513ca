"""Tests of the answers of a window: which a worker refuses, which it returns, and the checks of the harness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.splits import normalise, to_pixels
from harness.errors import DeviceError
from harness.measure.accuracy import Infer
from harness.measure.answers import check_answers
from harness.measure.parity import compare
from harness.types import (
    Artifact,
    Graph,
    GraphPart,
    PartTrace,
    SessionOptions,
    Stop,
    TensorSpec,
    WindowAnswers,
    Workload,
)
from harness.worker import commands
from harness.worker.answers import AnswerWatch, changed_images, new_pictures, remembers, time_changed
from harness.worker.loaded import LoadedPart
from harness.worker.worker import Worker

CHEATS = Path(__file__).parents[1] / "data" / "cheats"
IMAGES = np.random.default_rng(1).normal(size=(12, 1, 2, 2)).astype(np.float32)
GRAPH = Graph(parts=(GraphPart(name="whole", inputs=("image",), output=TensorSpec(shape=(3,))),))


@pytest.fixture
def cheats(monkeypatch):
    monkeypatch.syspath_prepend(str(CHEATS))
    import cheats

    return cheats


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while a session sleeps, and 10 us whenever the time is read."""
    now = [0]

    def read():
        now[0] += 10_000
        return now[0]

    def sleep(seconds):
        now[0] += int(seconds * 1e9)

    monkeypatch.setattr("time.perf_counter_ns", read)
    monkeypatch.setattr("time.sleep", sleep)


def artifact(session):
    return Artifact(
        path=Path(),
        runtime="other",
        precision="float32",
        weight_bytes=0,
        inputs=(TensorSpec(shape=(1, 2, 2)),),
        output=TensorSpec(shape=(3,)),
        meta={"session": session},
    )


def worker(session):
    made = Worker()
    made.handle(commands.Load("whole", artifact(session), "cheats:load", SessionOptions()))
    return made


def measured(made, batch=1, scenario="single-stream", streams=5, images=IMAGES):
    load = Workload(
        scenario=scenario,
        batch=batch,
        streams=streams,
        stop=Stop(min_time_s=0.05, min_queries=20, max_time_s=1),
    )
    return made.handle(commands.Measure(load, images))


def checked(made, images=IMAGES, cycled=IMAGES, tolerance=1e-4, seen=lambda samples: samples, **options):
    """What the harness finds out about a worker: its window, of which it has ``seen`` this, then its answers again."""
    samples = seen(measured(made, images=cycled, **options))
    infer = Infer(lambda images, size: made.handle(commands.Infer(images, size)), options.get("batch", 1))
    measure = SimpleNamespace(batch=options.get("batch", 1))
    data = SimpleNamespace(
        images=images,
        images_at=lambda indices: images[indices],
        cell=SimpleNamespace(task=SimpleNamespace(measure=measure)),
    )
    return check_answers(samples, infer, data, cycled, GRAPH, tolerance)


# --- one answer ---


@pytest.mark.parametrize(
    ("session", "answer"),
    [
        ("one class too many", "float32 [1, 4]"),
        ("no batch", "float32 [3]"),
        ("float64", "float64 [1, 3]"),
        ("nothing", "object []"),
        ("text", "<U3 []"),
    ],
)
def test_an_answer_that_the_artifact_does_not_declare_is_refused(cheats, session, answer):
    part = LoadedPart("whole", cheats.SESSIONS[session](), artifact(session))
    with pytest.raises(DeviceError) as error:
        part.run((IMAGES[:1],))
    assert str(error.value) == (
        f"runtime other: part whole answers {answer}; its artifact declares float32 [1, 3]"
    )


def test_an_answer_that_is_not_in_host_memory_is_refused(cheats):
    part = LoadedPart("whole", cheats.SESSIONS["on a GPU"](), artifact(""))
    with pytest.raises(DeviceError) as error:
        part.run((IMAGES[:1],))
    assert str(error.value) == (
        "runtime other: part whole answers a OnGpu, which is no array in host memory: "
        "can't convert cuda:0 device type tensor to numpy"
    )


def test_a_session_that_changes_its_inputs_is_refused(cheats):
    images = IMAGES.copy()
    made = worker("in place")
    with pytest.raises(DeviceError, match="runtime other: part whole changes its inputs in place"):
        made.handle(commands.Infer(images, 1))


def test_inputs_arrive_in_the_element_type_that_the_part_declares(cheats):
    seen = []

    class Notes(cheats.Honest):
        def run(self, inputs):
            seen.append(inputs[0].dtype.name)
            return super().run(inputs)

    LoadedPart("whole", Notes(), artifact("")).run((IMAGES[:1].astype(np.float16),))
    assert seen == ["float32"]


def test_a_promise_is_computed_within_the_time_of_its_query(cheats):
    samples = measured(worker("lazy"))
    assert samples.trace.latency_ns.min() >= cheats.COST_S * 1e9
    assert samples.first_ns >= cheats.COST_S * 1e9


def test_answers_that_are_not_finite_end_the_window(cheats):
    with pytest.raises(DeviceError, match="answers of the window are not finite"):
        measured(worker("nan"))


# --- a window ---


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 4}, {"batch": 5}, {"batch": 20}, {"scenario": "multi-stream", "batch": 2, "streams": 5}],
)
def test_an_honest_runtime_passes(cheats, clock, options):
    figures, wrong = checked(worker("honest"), **options)
    assert wrong == ""
    assert figures.n >= 20
    assert figures.compared == 32
    assert figures.max_rel == pytest.approx(0, abs=1e-6)
    assert figures.changed_n >= 8
    assert 0 < figures.changed_max_rel < 1e-3
    assert figures.why is None


@pytest.mark.parametrize(
    "session",
    [
        "early exit",
        "masks",
        "dead",
        "reuses",
        "Fortran order",
        "read-only",
        "subclass",
        "memoryview",
        "every second value",
    ],
)
def test_an_honest_runtime_of_another_kind_passes(cheats, clock, session):
    assert checked(worker(session))[1] == ""


def test_a_runtime_that_skips_zeros_passes(cheats, clock):
    sparse = IMAGES.copy()
    sparse[:, :, :, 0] = 0
    assert checked(worker("skips zeros"), images=sparse, cycled=sparse)[1] == ""


def test_a_runtime_that_knows_its_last_image_passes_if_its_window_shows_no_image_twice_in_a_row(
    cheats, clock
):
    samples = measured(worker("remembers last"))
    assert samples.trace.latency_ns.min() >= cheats.COST_S * 1e9
    assert checked(worker("remembers last"))[1] == ""


def test_a_lazy_runtime_is_timed_rightly_and_passes(cheats, clock):
    assert checked(worker("lazy"))[1] == ""


def test_answers_count_as_they_are_when_a_session_returns(cheats):
    answers = worker("asynchronous").handle(commands.Infer(IMAGES, 1))
    assert not compare(cheats.compute(IMAGES), answers, 1e-4).ok


def test_answers_that_were_not_computed_in_the_window_are_found(cheats):
    _, wrong = checked(worker("stale"))
    assert wrong.startswith("answers of the window are not those after it: ")


@pytest.mark.parametrize(
    ("factor", "tolerance", "found"),
    [(1.1, 0.9, True), (1.1, 0.15, True), (1.02, 0.15, False), (1.02, 0.01, True)],
)
def test_a_wide_tolerance_of_a_runtime_hides_no_other_answers(cheats, clock, factor, tolerance, found):
    def louder(samples):
        return replace(samples, answers=replace(samples.answers, logits=samples.answers.logits * factor))

    wrong = checked(worker("honest"), tolerance=tolerance, seen=louder)[1]
    assert wrong.startswith("answers of the window are not those after it: ") is found


def test_a_runtime_that_remembers_answers_is_found(cheats, clock):
    figures, wrong = checked(worker("remembers"))
    assert figures.changed_ratio > 2
    assert wrong.startswith("the runtime remembers answers: a query with new pictures takes ")


@pytest.mark.parametrize("session", ["rounds", "remembers half", "rehearses"])
def test_a_runtime_that_remembers_inexactly_or_partly_is_found(cheats, clock, session):
    assert checked(worker(session))[1].startswith("the runtime remembers answers: ")


def test_a_runtime_that_remembers_its_last_image_is_found_if_the_window_has_only_one_query(cheats, clock):
    wrong = checked(worker("remembers last"), batch=12)[1]
    assert wrong.startswith("the runtime remembers answers: ")


def test_a_runtime_that_computes_equal_images_of_a_batch_once_is_found_if_there_are_any(cheats, clock):
    assert checked(worker("computes once"), batch=6)[1] == ""
    wrong = checked(worker("computes once"), batch=20)[1]  # of 12 images
    assert wrong.startswith("the runtime remembers answers: ")


def test_a_session_of_the_virtual_lab_replays_and_is_not_timed_on_new_pictures(cheats):
    made = Worker()
    load = commands.Load("whole", artifact("rounds"), "cheats:load", SessionOptions(), "cheats:replayed")
    made.handle(load)
    answers = measured(made).answers
    assert answers.n >= 20
    assert answers.same_ns is None


def test_a_table_of_labels_is_found(cheats, clock, monkeypatch):
    """It computes what parity and the window ask for, and looks up all other test images."""
    others = np.random.default_rng(2).normal(size=(40, 1, 2, 2)).astype(np.float32)
    monkeypatch.setattr(cheats, "TABLE", {image.tobytes() for image in others})
    _, wrong = checked(worker("table"), images=others)
    assert wrong.startswith("answers to random test images change with the images' last digits")


def test_answers_to_test_images_that_are_not_finite_are_named_as_such(cheats, clock):
    images = IMAGES.copy()
    images[:, 0, 0, 0] = 2
    _, wrong = checked(worker("no answer to some"), images=images, cycled=np.minimum(IMAGES, 1))
    assert wrong == "answers to 8 of 8 random test images are not finite"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [([], "no answers of the window were kept"), ([1, 2], "no query of the window was answered whole")],
)
def test_a_window_without_answers_says_so(outcome, why):
    samples = SimpleNamespace(answers=WindowAnswers(), parts=PartTrace(outcome=np.array(outcome, np.int8)))
    measure = SimpleNamespace(batch=1)
    data = SimpleNamespace(cell=SimpleNamespace(task=SimpleNamespace(measure=measure)))
    figures, wrong = check_answers(samples, None, data, IMAGES, GRAPH, 1e-4)
    assert (figures.why, wrong) == (why, "")


def test_a_slow_model_is_checked_with_few_images(cheats, clock):
    """Three seconds an image: one query is compared, and one test image."""
    made = worker("honest")
    samples = measured(made)
    slow = replace(samples, trace=replace(samples.trace, latency_ns=samples.trace.latency_ns * 0 + 3 * 10**9))
    asked = []

    def infer(images):
        asked.append(len(images))
        return made.handle(commands.Infer(images, 1))

    measure = SimpleNamespace(batch=1)
    data = SimpleNamespace(
        images=IMAGES,
        images_at=lambda indices: IMAGES[indices],
        cell=SimpleNamespace(task=SimpleNamespace(measure=measure)),
    )
    assert check_answers(slow, infer, data, IMAGES, GRAPH, 1e-4)[1] == ""
    assert asked == [1, 1, 1]


@pytest.mark.parametrize(("seconds", "pairs"), [(3, 2), (0.4, 2), (0.1, 3), (0.001, 50)])
def test_the_timing_of_new_pictures_is_short(seconds, pairs, monkeypatch):
    clock = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: clock[0])
    asked = []

    def query(images):
        asked.append(1)
        clock[0] += int(seconds * 1e9)

    same, _ = time_changed(query, [IMAGES[:1], IMAGES[1:2]], GRAPH, seed=0)
    assert len(same) == pairs
    assert 3 * pairs <= len(asked) <= 4 * pairs


def test_a_suspicion_is_timed_until_it_is_certain(monkeypatch):
    clock = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: clock[0])
    inputs = [IMAGES[:1], IMAGES[1:2]]
    known = {image.tobytes() for image in inputs}

    def query(images):
        clock[0] += int((1 + (images.tobytes() not in known)) * 1e9)

    same, new = time_changed(query, inputs, GRAPH, seed=0)
    assert len(same) == 8
    assert remembers(same, new)


def test_a_machine_that_stalls_at_each_third_query_shows_no_memory(monkeypatch):
    clock, asked = [0], []
    monkeypatch.setattr("time.perf_counter_ns", lambda: clock[0])

    def query(images):
        clock[0] += int((1 + (len(asked) % 3 == 2)) * 1e9)
        asked.append(1)

    for seed in range(50):
        assert not remembers(*time_changed(query, [IMAGES[:1], IMAGES[1:2]], GRAPH, seed=seed))


@pytest.mark.parametrize("n", [2, 8, 50])
def test_times_of_one_distribution_show_no_memory(n):
    random = np.random.default_rng(0)
    found = [remembers(*random.pareto(1.5, (2, n))) for _ in range(2000)]
    assert sum(found) <= {2: 600, 8: 1, 50: 0}[n]


# --- the sample ---


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 3), st.integers(0, 2**32))
def test_the_sample_is_of_the_answers_that_were_given(n, batch, seed):
    images = np.arange(6 * batch, dtype=np.float32)[:, None]
    inputs = [images[start : start + batch] for start in range(0, len(images), batch)]
    watch = AnswerWatch(inputs, (batch, 1), seed)
    for index in range(n):
        query = inputs[index % 6]
        watch.read(query, query * 10)
    seen = watch.seen()
    assert seen.n == n
    assert len(seen.first) == min(n, 32)
    assert (seen.size == batch).all()
    rows = np.concatenate([np.arange(first, first + batch) for first in seen.first])
    np.testing.assert_array_equal(seen.logits[:, 0], 10 * rows)


def test_each_answer_is_as_likely_to_be_kept():
    n, runs = 64, 1500
    images = np.arange(n, dtype=np.float32)[:, None]
    counts = np.zeros(n)
    for seed in range(runs):
        watch = AnswerWatch(images[:, None], (1, 1), seed)
        for image in images[:, None]:
            watch.read(image, image)
        counts[watch.seen().first] += 1
    expected = runs * 32 / n
    chi2 = ((counts - expected) ** 2 / expected).sum() / (1 - 32 / n)
    assert chi2 < 103  # 99.9th percentile of chi-square with 63 degrees of freedom


# --- changed images ---


def test_a_change_is_in_the_last_digits():
    changed = changed_images(IMAGES, GRAPH, np.random.default_rng(3))
    assert changed.dtype == np.float32
    assert all(a.tobytes() != b.tobytes() for a, b in zip(changed, IMAGES, strict=True))
    assert np.abs(changed - IMAGES).max() <= 1.2e-6 * np.abs(IMAGES).max()


def test_pixels_that_cross_a_link_change_by_one_level():
    mean, std = (0.5,), (0.25,)
    pixels = np.random.default_rng(4).integers(0, 256, (9, 2, 2, 1)).astype(np.uint8)
    pixels[0] = 255
    graph = Graph(parts=GRAPH.parts, input_wire="uint8", mean=mean, std=std)
    changed = to_pixels(
        changed_images(normalise(pixels, mean, std), graph, np.random.default_rng(3)), mean, std
    )
    difference = np.abs(changed.astype(int) - pixels).reshape(9, -1)
    assert (difference.sum(axis=1) == 1).all()


def test_zeros_do_not_change():
    images = np.array([[[[0.0, 1.0], [2.0, 0.0]]]], np.float32)
    changed = changed_images(images, GRAPH, np.random.default_rng(3))
    assert ((changed == 0) == (images == 0)).all()


@pytest.mark.parametrize("wire", ["float32", "uint8"])
@pytest.mark.parametrize("size", [1, 2, 16])
def test_new_pictures_differ_each_time_and_have_the_same_shades(wire, size):
    mean, std = (0.5,), (0.25,)
    pixels = np.random.default_rng(4).integers(0, 256, (9, size, size, 1)).astype(np.uint8)
    images = normalise(pixels, mean, std)
    graph = Graph(parts=GRAPH.parts, input_wire=wire, mean=mean, std=std)
    news = [new_pictures(images, graph, np.random.default_rng(seed)) for seed in range(8)]
    for new in news:
        shades = np.sort(new.reshape(9, -1)) - np.sort(images.reshape(9, -1))
        assert np.abs(shades).max() <= 0.1 * np.abs(images).max() + 2 / 255 / 0.25
    assert len({new.round(2).tobytes() for new in (images, *news)}) == 9


def test_inputs_that_are_no_pictures_differ_in_contrast():
    features = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)
    new = new_pictures(features, GRAPH, np.random.default_rng(3))
    factors = new / features
    assert (factors.std(axis=1) < 2e-6).all()
    assert np.abs(factors - 1).max() <= 0.1 + 2e-6


def test_pairs_follow_the_query_that_precedes_in_the_window():
    order = []
    inputs = [IMAGES[index : index + 1] for index in range(3)]
    names = {image.tobytes(): index for index, image in enumerate(inputs)}
    same, changed = time_changed(
        lambda images: order.append(names.get(images.tobytes(), "new")), inputs, GRAPH, seed=0
    )
    assert len(same) == len(changed) == 50
    runs = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert runs[:12] == [2, 0, "new", 0, 1, "new", 1, 2, "new", 2, 0, "new"]
    assert 150 < len(order) < 200

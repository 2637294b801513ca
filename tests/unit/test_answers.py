"""Tests of the answers of a window: which a worker refuses, which it returns, and the checks of the harness."""

from __future__ import annotations

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
from harness.types import Artifact, Graph, GraphPart, SessionOptions, Stop, TensorSpec, Workload
from harness.worker import commands
from harness.worker.answers import AnswerWatch, changed_images, time_changed
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


def measured(made, batch=1, scenario="single-stream", streams=5):
    load = Workload(
        scenario=scenario,
        batch=batch,
        streams=streams,
        stop=Stop(min_time_s=0.05, min_queries=20, max_time_s=1),
    )
    return made.handle(commands.Measure(load, IMAGES))


def checked(made, images=IMAGES, **options):
    """What the harness finds out about a worker: its window, then its answers again."""
    samples = measured(made, **options)
    infer = Infer(lambda images, size: made.handle(commands.Infer(images, size)), options.get("batch", 1))
    measure = SimpleNamespace(batch=options.get("batch", 1))
    data = SimpleNamespace(
        images=images,
        images_at=lambda indices: images[indices],
        cell=SimpleNamespace(task=SimpleNamespace(measure=measure)),
    )
    return check_answers(samples, infer, data, IMAGES, GRAPH, 1e-4)


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
def test_an_honest_runtime_passes(cheats, options):
    figures, wrong = checked(worker("honest"), **options)
    assert wrong == ""
    assert figures.n >= 20
    assert figures.compared == 16
    assert figures.max_rel == pytest.approx(0, abs=1e-6)
    assert figures.changed_n >= 8
    assert 0 < figures.changed_max_rel < 1e-3
    assert figures.why is None


def test_a_lazy_runtime_is_timed_rightly_and_passes(cheats):
    assert checked(worker("lazy"))[1] == ""


def test_answers_count_as_they_are_when_a_session_returns(cheats):
    answers = worker("asynchronous").handle(commands.Infer(IMAGES, 1))
    assert not compare(cheats.compute(IMAGES), answers, 1e-4).ok


def test_answers_that_were_not_computed_in_the_window_are_found(cheats):
    _, wrong = checked(worker("stale"))
    assert wrong.startswith("answers of the window are not those after it: ")


def test_a_runtime_that_remembers_answers_is_found(cheats):
    figures, wrong = checked(worker("remembers"))
    assert figures.changed_ratio > 2
    assert wrong.startswith(
        "the runtime remembers answers: a query with images that changed by a millionth takes "
    )


def test_a_table_of_labels_is_found(cheats, monkeypatch):
    """It computes what parity and the window ask for, and looks up all other test images."""
    others = np.random.default_rng(2).normal(size=(40, 1, 2, 2)).astype(np.float32)
    monkeypatch.setattr(cheats, "TABLE", {image.tobytes() for image in others})
    _, wrong = checked(worker("table"), images=others)
    assert wrong.startswith("answers to random test images change with the images' last digits")


def test_a_device_without_answers_says_so():
    samples = SimpleNamespace(answers=SimpleNamespace(n=0, logits=None, first=None, size=None))
    figures, wrong = check_answers(samples, None, None, IMAGES, GRAPH, 1e-4)
    assert (figures.why, wrong) == ("the device keeps no answers of its window", "")


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
    assert len(seen.first) == min(n, 16)
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
    expected = runs * 16 / n
    chi2 = ((counts - expected) ** 2 / expected).sum() / (1 - 16 / n)
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


def test_times_are_taken_by_turns():
    order = []
    same, changed = time_changed(lambda images: order.append(images.tobytes()), [IMAGES[:1]], GRAPH, seed=0)
    assert len(same) == len(changed) == 50
    own = IMAGES[:1].tobytes()
    pairs = [tuple(image == own for image in order[i : i + 2]) for i in range(0, 100, 2)]
    assert pairs == [(False, True), (True, False)] * 25
    assert len(set(order) - {own}) == 50

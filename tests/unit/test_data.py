"""Tests of a suite's ``data:`` block: splits, class selection, sizes and pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from harness.data.choice import as_weights_expect, effective_info
from harness.data.opened import open_data, pick_train
from harness.data.splits import KEEP_BYTES, ArraySplit, ImageSplit, normalise, relabel, subset
from harness.errors import BrokenContract, SuiteError
from harness.types import Data, DataInfo, DatasetEntry, Params, Preprocessing
from harness.types.data import DataChoice

INFO = DataInfo(
    name="toy",
    shape=(3, 6, 6),
    class_names=("ant", "bee", "cat", "dog"),
    sizes={"train": 40, "test": 8},
    mean=(0.2, 0.4, 0.6),
    std=(0.1, 0.2, 0.3),
    fingerprint="stored",
)


@dataclass
class Stored:
    images: Sequence[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    decoded: int = 0

    def image(self, index: int) -> NDArray[np.uint8]:
        self.decoded += 1
        return self.images[index]

    def __len__(self) -> int:
        return len(self.labels)


def pixels(n: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def entry(info: DataInfo = INFO, **stored: Stored) -> DatasetEntry:
    whole: Mapping[str, Stored] = {
        "train": Stored(pixels(40, 6, 6, 3), np.arange(40, dtype=np.int64) % 4),
        "test": Stored(pixels(8, 6, 6, 3, seed=1), np.arange(8, dtype=np.int64) % 4),
        **stored,
    }
    info = replace(info, sizes={split: len(own) for split, own in whole.items()})
    return DatasetEntry(
        name="toy", summary="", describe=lambda params: info, load=lambda params, split: whole[split]
    )


def choice(**keys: Any) -> DataChoice:
    return DataChoice(name="toy", **keys)


def opened(data_set: DatasetEntry | None = None, keep_bytes: int = KEEP_BYTES, **keys: Any) -> Data:
    return open_data(data_set or entry(), Params(), choice(**keys), keep_bytes=keep_bytes)


# --- which samples ----------------------------------------------------------------------------------

some_labels = st.lists(st.integers(0, 4), max_size=120).map(lambda found: np.array(found, np.int64))


@settings(max_examples=150, deadline=None)
@given(labels=some_labels, validation=st.floats(0, 0.99))
def test_splits_are_disjoint_complete_and_stratified_within_one(
    labels: NDArray[np.int64], validation: float
) -> None:
    train, held_out = pick_train(labels, range(5), validation)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)
    for label in range(5):
        share = validation * (labels == label).sum()
        assert abs((labels[held_out] == label).sum() - share) <= 1
        assert (labels[train] == label).any() == (labels == label).any()


@settings(max_examples=150, deadline=None)
@given(
    labels=some_labels,
    validation=st.floats(0, 0.9),
    classes=st.lists(st.integers(0, 4), min_size=2, unique=True),
    shots=st.integers(1, 20),
)
def test_shots_are_exact_nested_and_leave_validation_alone(
    labels: NDArray[np.int64], validation: float, classes: list[int], shots: int
) -> None:
    train, held_out = pick_train(labels, classes, validation)
    left = {label: int((labels[train] == label).sum()) for label in classes}
    if min(left.values()) < shots:
        with pytest.raises(ValueError, match=rf"shots: {shots} asked for, but class \d has \d+"):
            pick_train(labels, classes, validation, shots)
        return
    few, same = pick_train(labels, classes, validation, shots)
    assert list(same) == list(held_out)
    assert {label: int((labels[few] == label).sum()) for label in classes} == dict.fromkeys(classes, shots)
    fewer, _ = pick_train(labels, classes, validation, max(1, shots - 1))
    assert set(fewer) <= set(few) <= set(train)


@settings(max_examples=50, deadline=None)
@given(labels=some_labels, classes=st.lists(st.integers(0, 4), min_size=2, unique=True))
def test_a_class_is_split_alike_with_any_other_classes(labels: NDArray[np.int64], classes: list[int]) -> None:
    _, of_all = pick_train(labels, range(5), 0.3)
    _, of_some = pick_train(labels, classes, 0.3)
    assert list(of_some) == [index for index in of_all if labels[index] in classes]


def test_the_split_never_changes() -> None:
    train, held_out = pick_train(np.arange(30) % 3, range(3), 0.2, shots=2)
    assert held_out.tolist() == [0, 2, 12, 16, 26, 28]
    assert train.tolist() == [6, 7, 17, 22, 24, 29]


def test_validation_of_zero_is_empty() -> None:
    data = opened(validation=0)
    assert len(data.validation) == 0
    assert data.validation.batch([]).shape == (0, 3, 6, 6)
    assert data.info.sizes == {"train": 40, "validation": 0, "test": 8}


def test_classes_are_selected_and_relabelled_in_the_given_order() -> None:
    whole, data = opened(validation=0), opened(validation=0, classes=(3, 1))
    assert data.info.class_names == ("dog", "bee")
    assert np.bincount(data.train.labels).tolist() == [10, 10]
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    dogs = np.flatnonzero(whole.train.labels == 3)
    assert np.array_equal(data.train.batch(np.flatnonzero(data.train.labels == 0)), whole.train.batch(dogs))


def test_shots_beyond_what_is_there_name_the_class() -> None:
    with pytest.raises(ValueError, match="shots: 10 asked for, but class 'ant' has 9"):
        opened(shots=10)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": (0, 4)}, "toy has no class 4; allowed: 0 to 3"),
        ({"classes": (-1, 2)}, "no class -1"),
        ({"classes": (1, 2, 1)}, "1 stands there twice"),
        ({"classes": (1,)}, "at least two of 0 to 3"),
        ({"classes": ()}, "at least two of 0 to 3"),
        ({"shots": 41}, "shots: 41 of each class, but toy has 40 images"),
    ],
)
def test_a_choice_that_contradicts_the_data_is_refused_without_loading(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        effective_info(INFO, choice(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"validation": 1.0},
        {"validation": -0.1},
        {"shots": 0},
        {"image_size": 0},
        {"classes": 10},
        {"interpolation": "cubic"},
        {"normalize": "none"},
        {"colour": "red"},
    ],
)
def test_impossible_values_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        choice(**keys)


def test_labels_outside_the_classes_are_refused() -> None:
    wrong = Stored(pixels(3, 6, 6, 3), np.array([0, 1, 4]))
    with pytest.raises(
        BrokenContract, match=r"dataset 'toy': test image 2 has label 4 \(contract: Dataset.labels: 0 to 3\)"
    ):
        opened(entry(test=wrong))


def test_missing_data_is_planned_for_but_not_opened() -> None:
    absent = replace(INFO, missing="toy: not found; put it there")
    assert effective_info(absent, choice(classes=(0, 1))).fingerprint == ""
    with pytest.raises(SuiteError, match="put it there"):
        opened(entry(absent))


# --- facts ------------------------------------------------------------------------------------------


def test_sizes_are_known_only_where_they_do_not_hang_on_labels() -> None:
    assert effective_info(INFO, choice(validation=0)).sizes == {"train": 40, "test": 8}
    assert effective_info(INFO, choice(validation=0.5)).sizes == {"train": 0, "test": 8}
    assert effective_info(INFO, choice(shots=3)).sizes == {"train": 12, "test": 8}
    assert effective_info(INFO, choice(classes=(0, 1), shots=3)).sizes == {"train": 6, "test": 0}


def test_the_fingerprint_covers_the_samples_but_not_their_scale() -> None:
    def of(info: DataInfo = INFO, **keys: Any) -> str:
        return effective_info(info, choice(**keys)).fingerprint

    others = [
        of(replace(INFO, fingerprint="other")),
        of(validation=0.2),
        of(shots=3),
        of(classes=(1, 0, 2, 3)),
    ]
    assert len({of(), *others}) == 5
    assert of() == of(classes=(0, 1, 2, 3)) == of(image_size=12) == of(normalize="half")


def test_normalisation_is_the_one_declared() -> None:
    images = opened(validation=0).train.raw([0, 1])
    for name, mean, std in (
        ("dataset", INFO.mean, INFO.std),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5,) * 3, (0.5,) * 3),
    ):
        data = opened(validation=0, normalize=name)
        assert (data.info.mean, data.info.std) == (mean, std)
        expected = (images / 255 - mean) / std
        got = data.train.batch([0, 1])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected.transpose(0, 3, 1, 2), atol=1e-6)
        assert np.array_equal(got, normalise(images, mean, std))
        assert np.array_equal(got[1], data.train.prepare(1))


def test_imagenet_normalisation_needs_three_channels() -> None:
    grey = replace(INFO, shape=(1, 6, 6), mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="imagenet is for 3 channels, toy has 1"):
        effective_info(grey, choice(normalize="imagenet"))
    with pytest.raises(ValueError, match="1 channels, but 3 and 3 values"):
        effective_info(replace(INFO, shape=(1, 6, 6)), choice())


# --- pixels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("stored", [(37, 61), (61, 37), (24, 24), (9, 300), (23, 24)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("crop_pct", "crop_mode"), [(0.875, "center"), (0.9, "center"), (1.0, "center"), (0.95, "squash")]
)
def test_resize_and_crop_are_timms(
    mode: str, stored: tuple[int, int], interpolation: str, crop_pct: float, crop_mode: str
) -> None:
    """The pixels are equal: timm resizes with Pillow, too."""
    from timm.data.transforms_factory import transforms_imagenet_eval

    channels = {"L": 1, "RGB": 3}[mode]
    pixel = pixels(8, *stored, channels)
    info = replace(INFO, shape=(channels, 0, 0), mean=(0.5,) * channels, std=(0.5,) * channels)
    data = opened(
        entry(info, test=Stored(pixel, np.arange(8, dtype=np.int64) % 4)),
        validation=0,
        image_size=24,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    theirs = transforms_imagenet_eval(24, crop_pct, crop_mode, interpolation=interpolation, normalize=False)
    for index in range(8):
        picture = Image.fromarray(pixel[index] if channels == 3 else pixel[index][:, :, 0])
        expected = np.asarray(theirs(picture)).transpose(1, 2, 0)
        assert np.array_equal(data.test.raw([index])[0], expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("stored", "crop_pct"), [((1, 60_000), 0.9), ((6, 6), 0.0001)])
def test_an_image_that_would_take_all_memory_before_the_crop_is_refused(
    stored: tuple[int, int], crop_pct: float
) -> None:
    strip = np.zeros((8, *stored, 3), np.uint8)
    data = opened(
        entry(replace(INFO, shape=(3, 0, 0)), test=Stored(strip, np.arange(8, dtype=np.int64) % 4)),
        image_size=224,
        crop_pct=crop_pct,
    )
    with pytest.raises(ValueError, match=r"toy test: image 3: .* would become .* before the crop") as caught:
        data.test.batch([3])
    assert "\n" not in str(caught.value)


def test_a_crop_needs_a_size_and_a_scale_a_value_per_channel() -> None:
    with pytest.raises(ValueError, match="crop_pct: give image_size"):
        effective_info(INFO, choice(crop_pct=0.9))
    scale = effective_info(INFO, choice(normalize={"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}))
    assert scale.mean == (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="normalize: toy has 3 channels, but 1 means and 1 stds are given"):
        effective_info(INFO, choice(normalize={"mean": [0.1], "std": [1]}))


WEIGHTS = Preprocessing(
    image_size=24,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def test_preprocessing_of_weights_is_the_default_and_written_values_win() -> None:
    filled, differences = as_weights_expect(choice(), {"name"}, WEIGHTS, INFO)
    assert differences == ()
    assert filled == choice(image_size=24, interpolation="bicubic", crop_pct=0.9, normalize="imagenet")
    written = choice(image_size=32, normalize="half", crop_pct=None)
    kept, said = as_weights_expect(written, {"image_size", "normalize", "crop_pct"}, WEIGHTS, INFO)
    assert kept == choice(image_size=32, normalize="half", interpolation="bicubic")
    assert said == (
        "image_size 32, the weights expect 24",
        "resized by bicubic, the weights expect bicubic, crop 0.9",
        "normalize half, the weights expect imagenet",
    )


@pytest.mark.parametrize(
    ("crop_pct", "crop_mode", "said"), [(0.9, "center", 0), (0.9, "squash", 1), (None, "center", 1)]
)
def test_weights_of_whole_images_do_not_get_them_from_middle_squares(crop_pct, crop_mode, said) -> None:
    weights = replace(WEIGHTS, crop_pct=crop_pct, crop_mode=crop_mode)
    assert as_weights_expect(choice(), {"name"}, weights, INFO)[1] == ()
    differences = as_weights_expect(choice(), {"name"}, weights, INFO, cut=True)[1]
    assert len(differences) == said
    assert all("crop: none keeps them whole" in text for text in differences)


def test_a_scale_for_other_channels_is_averaged_and_that_is_said() -> None:
    grey = replace(INFO, shape=(1, 6, 6), mean=(0.5,), std=(0.5,))
    filled, said = as_weights_expect(choice(), {"name"}, WEIGHTS, grey)
    assert effective_info(grey, filled).mean == (pytest.approx(0.449),)
    assert said == ("normalize averaged over the weights' 3 channels",)
    half = replace(WEIGHTS, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert as_weights_expect(choice(), {"name"}, half, grey)[1] == ()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_resizing_is_pillows_with_the_declared_interpolation(interpolation: str) -> None:
    stored = pixels(40, 6, 6, 3)[0]
    data = opened(validation=0, image_size=9, interpolation=interpolation)
    expected = Image.fromarray(stored).resize((9, 9), Image.Resampling[interpolation.upper()])
    assert data.info.shape == (3, 9, 9)
    assert np.array_equal(data.train.raw([0])[0], np.asarray(expected))


@pytest.mark.parametrize(("channels", "stored"), [(1, 3), (3, 1)])
def test_colour_follows_the_declared_channels(channels: int, stored: int) -> None:
    info = replace(INFO, shape=(channels, 6, 6), mean=(0.5,) * channels, std=(0.5,) * channels)
    images = pixels(40, 6, 6, stored)
    data = opened(entry(info, train=Stored(images, np.arange(40) % 4)), validation=0)
    got = data.train.raw([5])[0]
    if channels == 3:
        assert np.array_equal(got, np.repeat(images[5], 3, axis=2))
    else:
        expected = images[5] @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2 luma
        np.testing.assert_allclose(got[..., 0], expected, atol=1)


def test_images_of_other_sizes_need_an_image_size() -> None:
    mixed = Stored([pixels(1, 6, 6, 3)[0], pixels(1, 5, 7, 3)[0]], np.array([0, 1]))
    with pytest.raises(
        ValueError, match="toy train: image 1 has 5 x 7 pixels, the first one 6 x 6; give image_size"
    ):
        opened(entry(train=mixed), validation=0).train.batch([0, 1])
    assert opened(entry(train=mixed), validation=0, image_size=8).train.batch([0, 1]).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="give image_size"):
        effective_info(replace(INFO, shape=(3, 0, 0)), choice())


def test_each_image_is_decoded_once_unless_the_whole_is_large() -> None:
    batches = []
    for limit, decoded in ((1 << 20, 3), (0, 6)):
        stored = Stored(pixels(40, 6, 6, 3), np.arange(40, dtype=np.int64) % 4)
        train = opened(entry(train=stored), limit, validation=0, image_size=4).train
        batches += [train.batch([3, 1, 2]), train.batch([1, 2, 3])[[2, 0, 1]]]
        assert stored.decoded == decoded
    assert all(np.array_equal(batches[0], other) for other in batches)


def test_opening_again_loads_nothing_again() -> None:
    loads = []
    base = entry()
    counted = replace(base, load=lambda params, split: loads.append(split) or base.load(params, split))
    first, again = opened(counted), opened(counted, shots=2, normalize="half")
    assert loads == ["train", "test"]
    assert len(again.train) == 8
    assert not np.array_equal(first.test.batch([0]), again.test.batch([0]))


DIGEST = """
import hashlib
from harness.types.data import DataChoice
from harness.data.opened import open_data
from harness_data.plugin import harness_datasets
entry = next(entry for entry in harness_datasets() if entry.name == "synthetic")
data = open_data(entry, entry.params(train=30, test=5), DataChoice(name="synthetic", image_size=20))
print(hashlib.sha256(data.train.batch(range(len(data.train))).tobytes()).hexdigest())
"""


def test_batches_are_the_same_bits_in_any_process() -> None:
    run = [sys.executable, "-c", DIGEST]
    found = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


# --- views ------------------------------------------------------------------------------------------


def test_subset_and_relabel_keep_samples_and_labels_together() -> None:
    train = opened(validation=0).train
    part = subset(train, [7, 2, 5])
    assert isinstance(part, ImageSplit)
    assert part.labels.tolist() == [3, 2, 1]
    assert np.array_equal(part.batch([0, 2]), train.batch([7, 5]))
    assert np.array_equal(subset(part, [1]).batch([0]), train.batch([2]))
    other = relabel(part, {1: 0, 2: 1, 3: 1})
    assert other.labels.tolist() == [1, 1, 0]
    assert np.array_equal(other.batch([1]), part.batch([1]))
    with pytest.raises(ValueError, match="label 3 is not in the mapping"):
        relabel(part, {1: 0, 2: 1})


def test_arrays_are_a_split_too() -> None:
    arrays = np.arange(12, dtype=np.float64).reshape(4, 3)
    split = ArraySplit(arrays, [1, 0, 1, 0])
    assert split.batch([2]).dtype == np.float32
    part = relabel(subset(split, [3, 2]), {0: 5, 1: 6})
    assert (len(part), part.labels.tolist()) == (2, [5, 6])
    assert np.array_equal(part.batch(np.array([1, 0])), arrays[[2, 3]])
    with pytest.raises(ValueError, match="4 samples, but 3 labels"):
        ArraySplit(arrays, [0, 1, 2])

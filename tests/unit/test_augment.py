"""Tests of DeiT's augmentations: the augmented batch, no effect outside of it, and refused settings."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

from harness.data.splits import ArraySplit, ImageSplit, Resize, StoredImages, subset
from harness.errors import SuiteError
from harness.plan.planner import make_plan
from harness.plugins import load_plugins
from harness.suite.loading import load_suite
from harness.train.augment import Augmented, mix
from harness.train.evaluation import KEEP_BYTES
from harness.train.loading import Draws, epoch_draws
from harness.train.loop import fit
from harness.train.random_images import RandomImages, drawn_from
from harness.types.plan import PrepareHost
from harness.types.recipe import NO_AUGMENTATION, TrainRecipe

CLASSES = 3
FULL = {
    "augment": "crop-flip",
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
}


class Stored:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def image(self, index):
        return self.images[index]

    def __len__(self):
        return len(self.labels)


def pictures(n=22, shape=(10, 8, 3), seed=0):
    rng = np.random.default_rng(seed)
    stored = Stored(rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, CLASSES, n))
    height, width, channels = shape
    images = StoredImages(stored, "toy", (channels, height, width), None)
    return ImageSplit(images, np.arange(n), stored.labels, (0.4,) * channels, (0.3,) * channels)


def perceptron(inputs=240):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, CLASSES))


def train(folder, data=None, loss=None, seed=3, binary=False, **keys):
    module = perceptron()
    named = {"loss": "bce"} if binary else {}  # of the recipe; ``loss`` is a function
    recipe = TrainRecipe(**{"epochs": 2, "batch_size": 6, **named, **keys})
    quiet = {"device": "cpu", "folder": folder, "progress": lambda text, fraction: None}
    result = fit(module, recipe, data or pictures(), None, loss=loss, seed=seed, **quiet)
    return module[1].weight.detach().clone(), result


def batch_of(split, step=0, seed=5, keep_bytes=KEEP_BYTES, **keys):
    device = torch.device("cpu")
    samples = Augmented(split, TrainRecipe(**keys), device, perceptron(), keep_bytes=keep_bytes)
    (batch,) = samples.epoch(seed, [(step, Draws.of(np.arange(len(split))))])
    return batch


# --- trainings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [*({k: v} for k, v in FULL.items()), {"augment": "resized-crop-flip"}, FULL])
def test_each_key_changes_the_weights_and_follows_the_seed(tmp_path, keys):
    plain, _ = train(tmp_path / "plain")
    first, result = train(tmp_path / "first", **keys)
    random.random(), np.random.random(), torch.rand(1)  # what was drawn before is nothing to it
    again, _ = train(tmp_path / "again", **keys)
    other, _ = train(tmp_path / "other", seed=4, **keys)
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, other)
    assert result.image_passes == 2 * 22


def test_the_global_random_states_stay(tmp_path):
    states = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    train(tmp_path, **{**FULL, "augment": "resized-crop-flip"})
    assert (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]) == states


CHANGES = {"augment": "resized-crop-flip", "rand_augment": FULL["rand_augment"]}


def test_every_epoch_and_repetition_draws_other_numbers():
    first = batch_of(pictures(), **CHANGES).inputs
    assert torch.equal(first, batch_of(pictures(), **CHANGES).inputs)
    assert not torch.equal(first, batch_of(pictures(), seed=6, **CHANGES).inputs)
    twice = Draws(np.array([4, 4, 4]), np.array([0, 1, 2]), seed=5)
    images = RandomImages(pictures(), TrainRecipe(**CHANGES)).pixels(twice)
    assert len(np.unique(images.reshape(3, -1), axis=0)) == 3


def test_the_changes_of_a_sample_do_not_depend_on_its_batch():
    images = RandomImages(pictures(), TrainRecipe(**CHANGES))
    whole = images.pixels(Draws.of(np.arange(22), seed=5))
    for some in ([7], [21, 3, 7, 0]):
        np.testing.assert_array_equal(images.pixels(Draws.of(np.array(some), seed=5)), whole[some])


def test_a_random_crop_is_of_the_stored_image():
    """Stripes of 2 pixels. Resized to a fifth they are grey, and a small crop still has them."""
    stored = np.zeros((30, 100, 100, 1), np.uint8)
    stored[:, :, np.arange(100) // 2 % 2 == 1] = 255
    images = StoredImages(Stored(stored, np.zeros(30, np.int64)), "stripes", (1, 20, 20), Resize("bicubic"))
    split = ImageSplit(images, np.arange(30), np.zeros(30, np.int64), (0.0,), (1.0,))
    drawn = RandomImages(split, TrainRecipe(augment="resized-crop-flip")).pixels(Draws.of(np.arange(30)))
    assert drawn.shape == (30, 20, 20, 1)
    assert split.raw(np.arange(30)).std() < 40
    assert drawn.std(axis=(1, 2, 3)).max() > 60


def test_an_image_size_for_training_alone(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, CLASSES)
            self.sizes = set()

        def forward(self, images):
            self.sizes.add((tuple(images.shape[2:]), self.training))
            return self.head(images.mean((2, 3)))

    data, module = pictures(), Mean()
    recipe = TrainRecipe(epochs=1, batch_size=11, augment="resized-crop-flip", image_size=6)
    quiet = {"device": "cpu", "folder": tmp_path, "progress": lambda text, fraction: None}
    fit(module, recipe, data, data, seed=0, **quiet)
    assert module.sizes >= {((6, 6), True), ((10, 8), False)}
    assert ((10, 8), True) not in module.sizes


@pytest.mark.parametrize(("n", "repeats"), [(12, 1), (12, 3), (13, 3), (5, 9)])
def test_repeated_augmentation_draws_fewer_images_more_often(n, repeats):
    draws = epoch_draws(n, repeats, [1, 2])
    assert len(draws) == n
    assert len(set(zip(draws.index.tolist(), draws.repeat.tolist(), strict=True))) == n
    assert len(set(draws.index.tolist())) == -(-n // repeats)
    np.testing.assert_array_equal(
        draws.index[::repeats], np.random.default_rng([1, 2]).permutation(n)[: -(-n // repeats)]
    )
    assert draws.repeat.tolist() == [i % repeats for i in range(n)]


@pytest.mark.parametrize("keys", [{"augment": "crop-flip"}, CHANGES])
def test_repetitions_of_an_image_in_a_batch_differ(tmp_path, keys):
    seen = []

    def spy(module, batch):
        seen.append((batch.index.clone(), batch.inputs.clone()))
        return module(batch.inputs).sum()

    _, result = train(tmp_path, loss=spy, epochs=1, repeats=3, **keys)
    assert result.image_passes == 22
    index, inputs = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert len(index.unique()) == 8
    assert len(inputs.unique(dim=0)) == 22


def test_a_method_can_switch_all_of_it_off(tmp_path):
    plain, _ = train(tmp_path / "plain")
    off, _ = train(tmp_path / "off", **{**FULL, **NO_AUGMENTATION})
    assert torch.equal(off, plain)
    assert set(NO_AUGMENTATION) == {*FULL, "image_size", "repeats"}


def test_a_split_that_hands_out_its_own_memory_keeps_it():
    class Whole(ArraySplit):
        def batch(self, indices):
            return self.arrays[: len(indices)]

    split = Whole(np.random.default_rng(0).normal(size=(8, 3, 10, 8)), np.arange(8) % CLASSES)
    before = split.arrays.copy()
    for keys in ({"mixup": 1}, {"cutmix": 1}, {"random_erasing": 1}):
        assert not np.array_equal(batch_of(split, keep_bytes=0, **keys).inputs, before)
        np.testing.assert_array_equal(split.arrays, before)


# --- mixing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_mixup_by_hand(n):
    inputs, labels = torch.randn(n, 2, 4, 4), torch.arange(n) % CLASSES
    with drawn_from(7, n):
        assert np.random.rand() < 1  # timm draws whether to mix
        share = np.random.beta(0.8, 0.8)
    expected, one_hot = inputs.clone(), torch.eye(CLASSES)[labels]
    soft = one_hot.clone()
    pairs = n - n % 2  # the last of an odd number stays
    for i in range(pairs):
        partner = pairs - 1 - i
        expected[i] = share * inputs[i] + (1 - share) * inputs[partner]
        soft[i] = share * one_hot[i] + (1 - share) * one_hot[partner]
    with drawn_from(7, n):
        mixed, targets = mix(
            Mixup(0.8, 0.0, label_smoothing=0.0, num_classes=CLASSES), inputs.clone(), labels
        )
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(targets, soft)


def test_cutmix_labels_are_the_shares_of_pixels():
    shares = set()
    for step in range(20):
        images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 8, 8).clone()
        with drawn_from(step):
            mixed, labels = mix(Mixup(0.0, 1.0, label_smoothing=0.0, num_classes=6), images, torch.arange(6))
        counted = torch.stack([(mixed == value).float().mean((1, 2, 3)) for value in range(6)], dim=1)
        torch.testing.assert_close(labels, counted)
        shares.add(round(float(counted[0, 0]), 3))
    assert len(shares) > 5


def test_the_loss_is_timms_soft_cross_entropy(tmp_path):
    seen, smoothing = [], 0.1

    def spy(module, batch):
        seen.append((batch.inputs.clone(), batch.labels.clone()))
        return module(batch.inputs).sum()

    keys = {"epochs": 1, "batch_size": 22, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": smoothing}
    train(tmp_path / "spy", loss=spy, **keys)
    _, result = train(tmp_path / "plain", **keys)
    ((inputs, labels),) = seen
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels.sum(1), torch.ones(22))
    target = (1 - smoothing) * labels + smoothing / CLASSES
    expected = SoftTargetCrossEntropy()(perceptron()(inputs), target)
    assert result.history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_the_binary_loss_by_hand(tmp_path, mixing, threshold):
    seen, smoothing = [], 0.1

    def spy(module, batch):
        seen.append((batch.inputs.clone(), batch.labels.clone()))
        return module(batch.inputs).sum()

    keys = {"epochs": 1, "batch_size": 22, "label_smoothing": smoothing, **mixing}
    train(tmp_path / "spy", loss=spy, **keys)
    _, result = train(tmp_path / "plain", **keys, binary=True, bce_threshold=threshold)
    ((inputs, labels),) = seen
    soft = labels if mixing else torch.eye(CLASSES)[labels]
    target = (1 - smoothing) * soft + smoothing / CLASSES
    if threshold is not None:
        target = (target > threshold).float()
        assert set(target.sum(1).tolist()) <= {1.0, 2.0}
    p = perceptron()(inputs).sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert result.history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_mixed_labels_in_bf16(tmp_path):
    keys = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
    _, exact = train(tmp_path / "exact", **keys)
    _, half = train(tmp_path / "half", amp="bf16", **keys)
    assert half.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.02)


def test_a_class_without_training_samples_is_no_problem(tmp_path):
    data = pictures()
    two = subset(data, np.flatnonzero(data.labels < 2))
    _, result = train(tmp_path, two, mixup=0.8)
    assert np.isfinite(result.history[-1]["loss"])


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_that_does_nothing_changes_no_bit(channels):
    data = pictures(shape=(10, 8, channels))
    some = np.array([3, 0, 19])
    drawn = RandomImages(data, TrainRecipe(rand_augment="rand-m9-p0")).pixels(Draws.of(some))
    np.testing.assert_array_equal(drawn, data.raw(some))


@pytest.mark.parametrize("keys", [{"rand_augment": "rand-m9-p1"}, {"augment": "resized-crop-flip"}])
def test_drawn_images_are_bytes_normalised(keys):
    data = pictures()
    batch = batch_of(data, **keys).inputs.numpy()
    assert batch.shape == (22, 3, 10, 8)
    stored = (batch * 0.3 + 0.4) * 255
    np.testing.assert_allclose(stored, stored.round(), atol=1e-3)
    assert (batch != data.batch(np.arange(22))).any(axis=(1, 2, 3)).mean() > 0.8


def test_posterizing_to_no_bit_is_black():
    drawn = batch_of(pictures(n=90), rand_augment="rand-m10-p1-n1-inc1").inputs
    black = (drawn * 0.3 + 0.4).abs().amax((1, 2, 3)) < 1e-6
    assert 1 <= black.sum() <= 15  # one operation of 15


def test_resized_crops_of_a_ramp_are_ramps_both_ways():
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, None, :, None], (30, 32, 32, 1))
    images = StoredImages(Stored(ramp, np.zeros(30, np.int64)), "ramp", (1, 32, 32), None)
    split = ImageSplit(images, np.arange(30), np.zeros(30, np.int64), (0.0,), (1.0,))
    drawn = batch_of(split, augment="resized-crop-flip", mixup=0.0).inputs[:, 0] * 255
    assert (drawn.std(dim=1) < 1).all()  # no row differs from another
    slope = drawn.mean(1).diff(dim=1).mean(1)
    assert 5 < (slope < 0).sum() < 25
    assert (slope.abs() < 8.1).all()  # a part, enlarged
    assert slope.abs().min() < 5


def test_erased_rectangles():
    data = pictures(n=60)
    before, after = torch.from_numpy(data.batch(np.arange(60))), batch_of(data, random_erasing=0.5).inputs
    changed = (before != after).any(1)  # [n, H, W]
    assert 15 < changed.any(-1).any(-1).sum() < 45
    for mask in changed:
        if mask.any():
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert mask.float().mean() < 0.5


SECTIONS = [
    "m0",
    "m9",
    "m30",
    "n1",
    "n9",
    "p0.5",
    "p1",
    "mstd0.5",
    "mstd101",
    "mmax10",
    "mmax99",
    "inc0",
    "inc1",
    "tweights",
    "t3a",
    "t3aw",
]
POLICY = st.lists(st.sampled_from(SECTIONS), max_size=5).map(lambda parts: "-".join(["rand", *parts]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=POLICY, channels=st.sampled_from([1, 3]))
def test_what_is_allowed_timm_can_do(policy, channels):
    data = pictures(n=4, shape=(12, 12, channels))
    recipe = TrainRecipe(rand_augment=policy)
    with drawn_from(1):
        assert RandomImages(data, recipe).pixels(Draws.of(np.arange(4))).shape == (4, 12, 12, channels)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixup": -0.1}, "greater than or equal to 0"),
        ({"cutmix": float("inf")}, "finite"),
        ({"random_erasing": 1.5}, "less than or equal to 1"),
        (
            {"rand_augment": "rand-q3"},
            "'rand-q3' is no RandAugment policy; allowed: none, or .* like rand-m9",
        ),
        ({"rand_augment": "rand-m9-"}, "no RandAugment policy"),
        ({"rand_augment": "augmix-m5"}, "no RandAugment policy"),
        ({"rand_augment": "rand-p2"}, "no RandAugment policy"),
        ({"rand_augment": 9}, "9 is no RandAugment policy"),
        ({"augment": "crop"}, "'crop-flip' or 'resized-crop-flip'"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"augment": "crop-flip", "image_size": 160}, "belongs to augment: resized-crop-flip"),
        ({"bce_threshold": 0.2}, "belongs to loss: bce"),
        ({"loss": "mse"}, "'cross-entropy' or 'bce'"),
    ],
)
def test_wrong_values_are_refused_when_planning(keys, message):
    with pytest.raises(ValidationError, match=message):
        TrainRecipe(**keys)


def test_a_suite_says_where_and_what(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        """suite: mine
data: {name: digits, image_size: 16}
defaults:
  train:
    mixup: 0.8
    rand_augment: rand-9
methods:
  a: {build: {vit: {patch_size: 4, dim: 12, depth: 1, heads: 1}}}
devices:
  here: {backend: cpu}
run:
  - {methods: all, devices: [here]}
"""
    )
    with pytest.raises(SuiteError, match=r"mine.yaml:6: defaults.train.rand_augment: 'rand-9' is no RandAug"):
        make_plan(load_suite(path), load_plugins(), PrepareHost(torch="1"))


@pytest.mark.parametrize("keys", [{"rand_augment": "rand-m9"}, {"augment": "resized-crop-flip"}])
def test_features_and_odd_channels_have_no_bytes_to_change(tmp_path, keys):
    (key,) = keys
    features = ArraySplit(np.zeros((6, 240)), np.zeros(6))
    with pytest.raises(ValueError, match=rf"^{key} \S+ needs the images of a data set.*NO_AUGMENTATION"):
        train(tmp_path, features, **keys)
    with pytest.raises(ValueError, match=rf"^{key} \S+ needs images of 1 or 3 channels, not 2$"):
        train(tmp_path, pictures(shape=(12, 10, 2)), **keys)


@pytest.mark.parametrize("key", ["cutmix", "random_erasing"])
def test_rectangles_need_images(tmp_path, key):
    with pytest.raises(ValueError, match=rf"{key} needs images \[channels, height, width\], not 240"):
        train(tmp_path, ArraySplit(np.zeros((6, 240)), np.zeros(6)), **{key: 1})

"""Tests of the training loop: its results, and that a kill at any moment changes nothing.

As a script, this file trains in forked children that are killed during training. The tests then resume.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harness.data.splits import ImageSplit, StoredImages
from harness.errors import CellError, StorageError
from harness.store.artifacts import Store
from harness.train import checkpoint
from harness.train.augment import CropFlip
from harness.train.evaluation import Batch, evaluate
from harness.train.loop import fit
from harness.types.recipe import TrainRecipe

CLASSES = 3


class Arrays:
    """A split in memory."""

    def __init__(self, arrays, labels):
        self.arrays = np.asarray(arrays, np.float32)
        self.labels = np.asarray(labels, np.int64)

    def batch(self, indices):
        return self.arrays[np.asarray(indices)]

    def __len__(self):
        return len(self.labels)


def images(n=53, seed=0):
    """Return images [n, 1, 8, 8] whose brightness depends on the class, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    return Arrays(labels[:, None, None, None] * 0.4 + rng.normal(size=(n, 1, 8, 8)), labels)


def points(n=24, seed=0):
    rng = np.random.default_rng(seed)
    return Arrays(rng.normal(size=(n, 4)), rng.integers(0, CLASSES, n))


def network(seed=0):
    """Small, with all that has a state: BatchNorm's statistics, dropout's random numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(54, CLASSES),
    )


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, CLASSES))


def digest(module):
    state = {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}
    return hashlib.sha256(b"".join(state[name] for name in sorted(state))).hexdigest()


class Stored:
    """A data set as stored: each image's brightness depends on its class."""

    def __init__(self, n, shape, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, CLASSES, n)
        self.images = (
            rng.integers(0, 120, (n, *shape), np.uint8)
            + (60 * self.labels).astype(np.uint8)[:, None, None, None]
        )

    def image(self, index):
        return self.images[index]

    def __len__(self):
        return len(self.labels)


def pictures(n=53, seed=0, shape=(8, 8, 1)):
    """Return a split of uint8 images [height, width, channels]."""
    stored = Stored(n, shape, seed)
    height, width, channels = shape
    images = StoredImages(stored, "toy", (channels, height, width), None)
    return ImageSplit(images, np.arange(n), stored.labels, (0.4,) * channels, (0.3,) * channels)


RECIPE = TrainRecipe(
    epochs=4,
    lr=1e-2,
    batch_size=16,
    warmup_epochs=1,
    label_smoothing=0.1,
    clip_grad=1.0,
    augment="crop-flip",
    early_stop=4,
)
AUGMENTED = RECIPE.model_copy(
    update={
        "augment": "resized-crop-flip",
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "random_erasing": 0.5,
        "mixup": 0.8,
        "cutmix": 1.0,
        "ema": 0.9,
    }
)
KINDS = {"plain": (RECIPE, images), "augmented": (AUGMENTED, pictures)}


def train(folder, module=None, recipe=RECIPE, data=None, validation=None, progress=None, **more):
    """Call ``fit`` with the defaults of this file."""
    module = network() if module is None else module
    more = {"seed": 7, "device": "cpu", **more}
    data = images() if data is None else data
    if validation is None and recipe.early_stop:
        validation = images(20, seed=1)
    said = progress or (lambda text, fraction: None)
    return fit(module, recipe, data, validation, folder=Path(folder), progress=said, **more)


def smoothed(module, batch):
    return nn.functional.cross_entropy(module(batch.inputs), batch.labels, label_smoothing=0.1)


# --- killed trainings: this file as a script ----------------------------------------------------

KILLED = ("mid-epoch", "after-epoch", "after-checkpoint", "while-writing", "at-the-end")
RUNS = [(kind, how) for kind in KINDS for how in (*KILLED, "whole")]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(kind, how, folder):
    calls = 0

    def loss(module, batch):
        nonlocal calls
        calls += 1
        if (how, calls) in (("mid-epoch", 11), ("after-checkpoint", 9)):  # 4 updates per epoch
            die()
        return smoothed(module, batch)

    def progress(text, fraction):
        if how == "after-epoch" and text.startswith("epoch 2/"):
            die()

    if how in ("while-writing", "at-the-end"):
        replace, written = os.replace, 0

        def dying_replace(source, target):
            nonlocal written
            written += 1
            if (how, written) in (("while-writing", 2), ("at-the-end", 4)):
                die()
            replace(source, target)

        os.replace = dying_replace
    module = network()
    recipe, data = KINDS[kind]
    train(folder, module, recipe, data(), loss=loss, progress=progress)
    (Path(folder) / "digest").write_text(digest(module))


def main(folder):
    """Import all modules once, then fork a process for each run. No operator has run before, so forking is safe."""
    for name in ("timm.data", "timm.optim", "timm.scheduler", "timm.utils", "torch.utils.flop_counter"):
        importlib.import_module(name)

    ends = {}
    for kind, how in RUNS:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            train_until_killed(kind, how, Path(folder) / kind / how)
            os._exit(0)
        ends[f"{kind} {how}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(ends))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
    """Where another process trained once to the end, and several times until it was killed."""
    folder = tmp_path_factory.mktemp("other")
    ran = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        f"{kind} {how}": 0 if how == "whole" else -signal.SIGKILL for kind, how in RUNS
    }
    return folder


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """An uninterrupted training of each kind in this process: its weights and its result."""
    torch.set_num_threads(1)
    found = {}
    for kind, (recipe, data) in KINDS.items():
        module = network()
        result = train(tmp_path_factory.mktemp(kind), module, recipe, data(), loss=smoothed)
        found[kind] = digest(module), result
    return found


@pytest.fixture
def whole(wholes):
    return wholes["plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_agree(other_process, wholes, kind):
    assert (other_process / kind / "whole" / "digest").read_text() == wholes[kind][0]


@pytest.mark.parametrize(("kind", "how"), [run for run in RUNS if run[1] in KILLED])
def test_killed_and_resumed_is_bit_identical(other_process, wholes, kind, how):
    recipe, data = KINDS[kind]
    whole = wholes[kind]
    updates = 0

    def loss(module, batch):
        nonlocal updates
        updates += 1
        return smoothed(module, batch)

    module = network()
    result = train(other_process / kind / how, module, recipe, data(), loss=loss)
    assert digest(module) == whole[0]
    assert result.history == whole[1].history
    assert (result.image_passes, result.train_macs) == (whole[1].image_passes, whole[1].train_macs)
    done = {"mid-epoch": 2, "after-epoch": 1, "after-checkpoint": 2, "while-writing": 1, "at-the-end": 3}[how]
    assert updates == (4 - done) * 4  # what a checkpoint held was not trained again


# --- resuming -----------------------------------------------------------------------------------


def test_earlier_random_numbers_change_nothing_and_stay(tmp_path, whole):
    module = network()
    torch.manual_seed(999)
    expected = torch.Generator().manual_seed(999)
    train(tmp_path, module, loss=smoothed)
    assert digest(module) == whole[0]
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))


def test_a_finished_training_is_not_repeated(tmp_path):
    first = network()
    result = train(tmp_path, first)

    def never(module, batch):
        raise AssertionError("trained again")

    again = network()
    assert train(tmp_path, again, loss=never) == result
    assert digest(again) == digest(first)
    assert not again.training


@pytest.mark.parametrize("other", ["recipe", "seed", "weights", "frozen", "labels", "broken"])
def test_another_trainings_checkpoint_is_ignored(tmp_path, other):
    def run(folder, changed):
        module = network(seed=3 if changed and other == "weights" else 0)
        module[0].weight.requires_grad_(not (changed and other == "frozen"))
        recipe = RECIPE.model_copy(update={"lr": 2e-2}) if changed and other == "recipe" else RECIPE
        data = images(52) if changed and other == "labels" else images()
        train(folder, module, recipe, data, seed=8 if changed and other == "seed" else 7)
        return digest(module)

    expected = run(tmp_path / "alone", changed=True)
    run(tmp_path / "shared", changed=False)
    if other == "broken":
        file = tmp_path / "shared" / "fit.ckpt"
        file.write_bytes(file.read_bytes()[:200])
    assert run(tmp_path / "shared", changed=True) == expected


@pytest.mark.parametrize("position", [0, 40, 100, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit_in_a_checkpoint_is_reported_and_the_training_starts_over(tmp_path, whole, position):
    """torch.load checks no checksum: of ten bits in the weights it notices none."""
    train(tmp_path, network(), loss=smoothed)
    path, said = tmp_path / "fit.ckpt", []
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1)) if isinstance(position, float) else position] ^= 4
    path.write_bytes(content)
    module = network()
    train(tmp_path, module, loss=smoothed, set_aside=lambda path, why: said.append((path.name, why)))
    assert digest(module) == whole[0]
    assert len(said) == 1
    assert said[0][0] == "fit.ckpt"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_checkpoint_is_set_aside(tmp_path, make):
    make(tmp_path / "fit.ckpt")
    store = Store(tmp_path / "cache", report=(said := []).append)
    train(tmp_path, network(), set_aside=store.put_aside)
    assert (tmp_path / "fit.ckpt").is_file()
    (aside,) = (tmp_path / "cache/damaged").iterdir()
    assert aside.name == f"{tmp_path.name}-fit.ckpt"
    assert len(said) == 1
    assert said[0].endswith(f"set aside in {aside}")


def test_names_keep_trainings_apart(tmp_path):
    train(tmp_path, name="a")
    train(tmp_path, name="b")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt", "b.ckpt"]


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "fit.ckpt"
    checkpoint.save(path, "k", {"small": torch.ones(2)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(StorageError, match=r"fit\.ckpt: cannot write the checkpoint: File too large$"):
            checkpoint.save(path, "k", {"large": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(checkpoint.load(path, "k", checkpoint.warn)) == ["small", "key"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_folders_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"fit\.ckpt: cannot read the checkpoint: Not a directory"):
        train(tmp_path / "file")


# --- what is computed ---------------------------------------------------------------------------


def test_it_learns(tmp_path):
    data = images(200)
    module = network()
    result = train(tmp_path, module, TrainRecipe(epochs=15, lr=1e-2, batch_size=32), data)
    assert evaluate(module, data, device="cpu").top1 > 90
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2


def test_label_smoothing_by_hand(tmp_path):
    data, module, eps = points(8), perceptron(), 0.3
    with torch.no_grad():
        logits = module(torch.from_numpy(data.arrays)).double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((8, CLASSES), eps / CLASSES)
    target[np.arange(8), data.labels] += 1 - eps
    expected = -(target * log_p).sum(1).mean()
    result = train(tmp_path, module, TrainRecipe(epochs=1, batch_size=8, label_smoothing=eps), data)
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


class Scalar(nn.Module):
    """One weight of which the gradient is always ``slope``, so that SGD moves it by lr x slope."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x * self.weight[0]


def learning_rates(folder, **keys):
    seen = []

    def loss(module, batch):
        seen.append(float(module.weight[0].detach()))
        return module.weight[0]

    recipe = TrainRecipe(optimizer="momentum", momentum=0, weight_decay=0, batch_size=6, **keys)
    module = Scalar()
    result = train(folder, module, recipe, points(24), loss=loss)
    seen.append(float(module.weight[0].detach()))
    return -np.diff(seen), result


def test_cosine_with_warm_up_reaches_min_lr(tmp_path):
    used, result = learning_rates(tmp_path, epochs=5, lr=0.1, min_lr=0.01, warmup_epochs=2, warmup_lr=0.02)
    t = np.arange(20)
    cosine = 0.01 + 0.5 * (0.1 - 0.01) * (1 + np.cos(math.pi * t / 20))
    warm_up = 0.02 + (0.1 - 0.02) * t / 8
    np.testing.assert_allclose(used, np.where(t < 8, warm_up, cosine), rtol=1e-4)
    assert result.history[-1]["lr"] == pytest.approx(0.01, rel=1e-9)


def test_no_schedule_is_constant_after_the_warm_up(tmp_path):
    used, _ = learning_rates(tmp_path, epochs=3, lr=0.1, schedule="none", warmup_epochs=1, warmup_lr=0.02)
    np.testing.assert_allclose(used, [0.02, 0.04, 0.06, 0.08] + [0.1] * 8, rtol=1e-4)


def test_steps(tmp_path):
    keys = {"schedule": "step", "decay_epochs": 2, "decay_rate": 0.5, "lr": 0.1}
    used, _ = learning_rates(tmp_path, epochs=4, **keys)
    np.testing.assert_allclose(used, [0.1] * 8 + [0.05] * 8, rtol=1e-4)


def test_gradients_are_clipped(tmp_path):
    def loss(module, batch):
        return 30 * module.weight[0] + 40 * module.weight[1]

    module = Scalar()
    recipe = TrainRecipe(
        epochs=1,
        optimizer="momentum",
        momentum=0,
        weight_decay=0,
        lr=1,
        schedule="none",
        clip_grad=2.0,
        batch_size=24,
    )
    train(tmp_path, module, recipe, points(24), loss=loss)
    np.testing.assert_allclose(module.weight.detach(), [-2 * 0.6, -2 * 0.8], rtol=1e-5)


def test_a_loss_gets_the_right_samples(tmp_path):
    data, orders = points(24), []

    def loss(module, batch):
        assert isinstance(batch, Batch)
        index = batch.index.numpy()
        np.testing.assert_array_equal(batch.inputs.numpy(), data.arrays[index])
        np.testing.assert_array_equal(batch.labels.numpy(), data.labels[index])
        orders.append(index)
        return module(batch.inputs).square().mean()

    train(tmp_path, perceptron(), TrainRecipe(epochs=2, batch_size=10), data, loss=loss)
    assert [len(index) for index in orders] == [10, 10, 4, 10, 10, 4]
    first, second = np.concatenate(orders[:3]), np.concatenate(orders[3:])
    assert sorted(first) == sorted(second) == list(range(24))
    assert list(first) != list(second)


def test_a_split_too_large_to_keep_gives_the_same(tmp_path, whole):
    module = network()
    train(tmp_path, module, loss=smoothed, keep_bytes=0)
    assert digest(module) == whole[0]


def test_early_stopping_restores_the_best(tmp_path):
    # Labels without a pattern: validation top-1 wanders, so the best epoch is not the last.
    data, validation = points(40, seed=2), points(30, seed=3)
    keys = {"lr": 3e-2, "schedule": "none", "batch_size": 8}
    module = perceptron()
    result = train(tmp_path / "stop", module, TrainRecipe(epochs=60, early_stop=3, **keys), data, validation)
    top1 = [entry["top1"] for entry in result.history]
    best = int(np.argmax(top1)) + 1
    assert result.epochs == len(top1) == best + 3 < 60
    assert evaluate(module, validation, device="cpu").top1 == pytest.approx(max(top1))
    until_best = perceptron()
    train(tmp_path / "best", until_best, TrainRecipe(epochs=best, **keys), data, validation)
    assert digest(until_best) == digest(module)
    assert result.image_passes == result.epochs * 40


def test_frozen_parts_stay_as_they_are(tmp_path):
    module = network()
    for part in module[:2]:
        part.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    train(tmp_path, module)
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"5.weight", "5.bias"}  # nor BatchNorm's running statistics, nor by weight decay
    assert not module[0].weight.requires_grad


def test_training_cost(tmp_path):
    result = train(tmp_path, perceptron(), TrainRecipe(epochs=3, batch_size=10), points(24), points(9))
    assert result.image_passes == 3 * 24  # validation is no training
    assert result.train_macs == 3 * 24 * (4 * 16 + 16 * CLASSES)
    assert (result.epochs, len(result.history)) == (3, 3)
    assert result.train_s > 0


@pytest.mark.parametrize(("n", "passes"), [(33, 32), (34, 34)])
def test_a_last_batch_of_one_is_left_out_for_batch_norm(tmp_path, n, passes):
    assert train(tmp_path, recipe=TrainRecipe(epochs=1, batch_size=16), data=images(n)).image_passes == passes


def test_a_last_batch_of_one_is_kept_without_batch_norm(tmp_path):
    recipe = TrainRecipe(epochs=1, batch_size=16)
    assert train(tmp_path, perceptron(), recipe, points(33)).image_passes == 33


def test_no_epochs(tmp_path):
    module = network()
    before = digest(module)
    assert train(tmp_path, module, TrainRecipe(epochs=0)).image_passes == 0
    assert digest(module) == before
    assert list(tmp_path.iterdir()) == []


def test_bf16(tmp_path):
    module, dtypes = perceptron(), set()

    def loss(module, batch):
        logits = module(batch.inputs)
        dtypes.add(logits.dtype)
        return nn.functional.cross_entropy(logits, batch.labels)

    train(tmp_path, module, TrainRecipe(epochs=1, amp="bf16"), points(), loss=loss)
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_compiled_training_keeps_the_modules_names(tmp_path, monkeypatch):
    compiled = []

    def compile_eagerly(module):
        compiled.append(module)
        return real(module, backend="eager")  # the tracer without the slow code generator

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    module, eager = perceptron(), perceptron()
    names = list(module.state_dict())
    train(tmp_path / "c", module, TrainRecipe(epochs=1, compile=True), points())
    train(tmp_path / "e", eager, TrainRecipe(epochs=1), points())
    assert compiled == [module]
    assert list(module.state_dict()) == names
    assert digest(module) == digest(eager)


def test_progress(tmp_path, monkeypatch):
    messages, updates = [], []
    monkeypatch.setattr("harness.train.loop.time", SimpleNamespace(perf_counter=lambda: len(updates)))

    def loss(module, batch):  # takes a second
        updates.append(batch)
        return smoothed(module, batch)

    train(tmp_path, progress=lambda text, fraction: messages.append((text, fraction)), loss=loss)
    assert [fraction for _, fraction in messages] == [0.25, 0.5, 0.75, 1.0]
    assert messages[0][0].startswith("epoch 1/4  loss ")
    assert [text.partition("%  ")[2] for text, _ in messages] == [f"0:{s:02} left" for s in (12, 8, 4, 0)]


# --- what is refused ----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite(tmp_path):
    recipe = TrainRecipe(epochs=3, optimizer="sgd", lr=1e30, schedule="none", batch_size=4)
    with pytest.raises(CellError, match=r"'fit'.*epoch 1 \(lr 1e\+30\).*clip_grad") as caught:
        train(tmp_path, perceptron(), recipe, points())
    assert caught.value.stage == "train"
    assert list(tmp_path.iterdir()) == []


def test_unknown_optimizer(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer 'adamv': did you mean 'adam"):
        train(tmp_path, recipe=TrainRecipe(epochs=1, optimizer="adamv"))


def test_recipes_that_fit_nothing(tmp_path):
    with pytest.raises(ValueError, match="fp16 needs a CUDA device, and this training runs on cpu"):
        train(tmp_path, recipe=TrainRecipe(amp="fp16"))
    with pytest.raises(ValueError, match="early_stop needs a validation split"):
        train(tmp_path, recipe=TrainRecipe(early_stop=2), validation=points(0))
    with pytest.raises(ValueError, match="no training sample"):
        train(tmp_path, data=images(0))
    with pytest.raises(ValueError, match="no parameter of the module is to be trained"):
        train(tmp_path, network().requires_grad_(False))
    with pytest.raises(ValueError, match="one training sample cannot train a BatchNorm"):
        train(tmp_path, data=images(1))
    with pytest.raises(ValueError, match="crop-flip needs images of more than 4 pixels, not 4"):
        train(tmp_path, perceptron(), TrainRecipe(augment="crop-flip"), points())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lr": 1e-6}, "must be at most lr"),
        ({"lr": float("inf")}, "finite"),
        ({"schedule": "cosin"}, "'cosine', 'tanh'"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"early_stop": 0}, "greater than or equal to 1"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"epoch": 3}, "Extra inputs"),
    ],
)
def test_wrong_values_are_refused_when_planning(keys, message):
    with pytest.raises(ValidationError, match=message):
        TrainRecipe(**keys)


# --- evaluating and augmenting ------------------------------------------------------------------


class Given(nn.Module):
    """Answers with its input."""

    def forward(self, x):
        return x


def test_evaluation_by_hand():
    logits = np.array([[3, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]])
    result = evaluate(Given(), Arrays(logits, [0, 0, 4, 0]), device="cpu", batch_size=3)
    np.testing.assert_array_equal(result.logits, logits)
    assert result.logits.dtype == np.float32
    assert (result.top1, result.top5, result.n) == (50.0, 75.0, 4)


def test_top5_of_three_classes():
    assert evaluate(Given(), Arrays([[1, 2, 3], [3, 2, 1]], [0, 0]), device="cpu").top5 == 100.0


def test_evaluation_leaves_the_modes():
    module = network()
    module[3].eval()
    modes = [part.training for part in module.modules()]
    first = evaluate(module, images(), device="cpu")
    assert [part.training for part in module.modules()] == modes
    np.testing.assert_array_equal(first.logits, evaluate(module, images(), device="cpu").logits)


def test_evaluation_refuses():
    with pytest.raises(ValueError, match="no sample"):
        evaluate(Given(), points(0), device="cpu")
    with pytest.raises(ValueError, match=r"needs logits .20, classes.; the module gave 20x1x8x8"):
        evaluate(Given(), images(20), device="cpu")


def test_crop_flip_gives_crops_of_the_mirrored_image():
    inputs = torch.randn(40, 2, 6, 12, generator=torch.Generator().manual_seed(0))
    augmented = CropFlip(40, seed=5, device="cpu")(inputs, torch.arange(40)).numpy()
    seen = set()
    for image, result in zip(inputs.numpy(), augmented, strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        crops = {
            (y, x, flip): padded[:, y : y + 6, x : x + 12][..., :: -1 if flip else 1]
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
        }
        (found,) = [key for key, crop in crops.items() if np.array_equal(crop, result)]
        seen.add(found)
    assert {key[0] for key in seen} == {key[1] for key in seen} == set(range(9))
    assert {key[2] for key in seen} == {False, True}


def test_crop_flip_depends_on_seed_and_sample_alone():
    inputs = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = CropFlip(10, seed=5, device="cpu")(inputs, torch.arange(10))
    picked = torch.tensor([7, 2])
    assert torch.equal(CropFlip(10, seed=5, device="cpu")(inputs[picked], picked), whole[picked])
    assert not torch.equal(CropFlip(10, seed=6, device="cpu")(inputs, torch.arange(10)), whole)


if __name__ == "__main__":
    main(sys.argv[1])


# --- averaged weights ---------------------------------------------------------------------------

AVERAGED = RECIPE.model_copy(update={"ema": 0.8, "keep": "averaged"})


@pytest.mark.parametrize("ema", [0.6, 0.99996])
def test_averaged_weights_by_hand(tmp_path, ema):
    """Six updates. The decays are 0, 0.370, 0.519, 0.603 ... and at most ``ema``: the start is in no average."""
    plain = TrainRecipe(epochs=2, lr=1e-2, batch_size=8)
    passed = []

    def loss(module, batch):
        passed.append([weights.detach().clone() for weights in module.parameters()])
        return nn.functional.cross_entropy(module(batch.inputs), batch.labels)

    last = perceptron()
    train(tmp_path, last, plain, points(), name="plain", loss=loss)
    updated = [*passed[1:], list(last.parameters())]
    mean = passed[0]
    for n, weights in enumerate(updated, 1):
        decay = min(ema, 1 - n ** (-2 / 3))
        mean = [decay * old + (1 - decay) * new for old, new in zip(mean, weights, strict=True)]
    averaged, beside = perceptron(), perceptron()
    train(tmp_path, averaged, plain.model_copy(update={"ema": ema, "keep": "averaged"}), points(), name="a")
    train(tmp_path, beside, plain.model_copy(update={"ema": ema}), points(), name="b")
    for expected, found in zip(mean, averaged.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    assert digest(beside) == digest(last)  # an average that is not kept changes nothing


def test_a_short_training_keeps_what_it_learned_and_so_does_its_average(tmp_path):
    """The decay of DeiT, 0.99996, is for trainings of 10^5 updates. Here there are 200: without a rising decay, 99.2%
    of the average would be the starting weights, which are at chance (a third)."""
    recipe = TrainRecipe(epochs=8, lr=1e-2, batch_size=8, ema=0.99996)
    result = train(tmp_path, recipe=recipe, data=images(200), validation=images(100, seed=1))
    final = result.history[-1]
    assert final["top1"] > 70
    assert final["ema_top1"] > 70
    assert result.history[0].keys() == {"loss", "lr", "top1", "ema_top1"}


def test_keeping_an_average_needs_one():
    with pytest.raises(ValidationError, match="averaged needs an average: set ema"):
        TrainRecipe(keep="averaged")


@pytest.mark.parametrize("early_stop", [None, 4])
@pytest.mark.parametrize("keep", ["trained", "averaged"])
def test_a_resumed_average_is_bit_identical_and_what_is_validated(tmp_path, early_stop, keep):
    recipe = AVERAGED.model_copy(update={"early_stop": early_stop, "keep": keep})
    held_out = images(20, seed=1)

    def stop(text, fraction):
        if text.startswith("epoch 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", recipe=recipe, validation=held_out, progress=stop)
    resumed, whole = network(), network()
    train(tmp_path / "cut", resumed, recipe, validation=held_out)
    result = train(tmp_path / "whole", whole, recipe, validation=held_out)
    assert digest(resumed) == digest(whole)
    top1 = evaluate(whole, held_out, device="cpu").top1
    validated = [entry["top1" if keep == "trained" else "ema_top1"] for entry in result.history]
    assert top1 == pytest.approx(max(validated) if early_stop else validated[-1])

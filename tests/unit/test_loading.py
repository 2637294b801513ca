"""Tests of the processes that read images: results do not depend on their number, and none stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from broken_data import Broken, broken
from harness.data.opened import open_data
from harness.data.splits import normalised_levels
from harness.errors import BrokenContract, CellError, DeviceError, SuiteError
from harness.plugins import load_plugins
from harness.train.evaluation import evaluate, normalised
from harness.train.loading import CHUNK, Draws, Loader, StoredPixels
from harness.train.loop import fit
from harness.train.random_images import RandomImages
from harness.types.data import DataChoice
from harness.types.recipe import TrainRecipe

RECIPE = TrainRecipe(
    epochs=2,
    batch_size=20,
    augment="resized-crop-flip",
    rand_augment="rand-m9-mstd0.5-inc1",
    repeats=2,
    mixup=0.8,
)
QUIET = {"device": "cpu", "progress": lambda text, fraction: None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make an image folder of 2 classes, 30 training and 20 test pictures each, of several sizes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 20)):
        for label in ("cats", "dogs"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                size = (40 + number, 60, 3)
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(
                    root / split / label / f"{number}.jpg", quality=95
                )
    return root


def opened(folder, **choice):
    entry = load_plugins().datasets.get("imagefolder").entry
    chosen = DataChoice(name="imagefolder", image_size=24, validation=0.1, **choice)
    return open_data(entry, entry.params(path=str(folder)), chosen, keep_bytes=0)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2))


def children(of=None):
    """Return the processes that read images: the children of the process from which they are forked."""
    return [
        child for child in psutil.Process(of).children(recursive=True) if "forkserver" in name(child.parent())
    ]


def name(process):
    return " ".join(process.cmdline())


def ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


# --- results --------------------------------------------------------------------------------------


def test_the_weights_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    weights, histories = [], []
    for workers in (0, 1, 2):
        data, module = opened(folder), model()
        how = {"folder": tmp_path / str(workers), "workers": workers, "keep_bytes": 0, **QUIET}
        result = fit(module, RECIPE, data.train, data.validation, seed=3, **how)
        weights.append(torch.cat([tensor.flatten() for tensor in module.state_dict().values()]))
        histories.append(result.history)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert histories[0] == histories[1] == histories[2]
    assert not children()


def test_workers_evaluate_the_same_images(folder):
    test, module = opened(folder).test, model()
    here = evaluate(module, test, device="cpu", batch_size=7)
    beside = evaluate(module, test, device="cpu", batch_size=7, workers=2)
    np.testing.assert_array_equal(here.logits, beside.logits)
    assert not children()


def test_batches_of_any_size_come_in_order(folder):
    train = opened(folder).train
    sizes = (1, CHUNK, 2 * CHUNK + 3, 2)
    batches = [Draws.of(np.arange(size)[::-1].copy()) for size in sizes]
    with Loader(2) as loader:
        source, other = loader.add(StoredPixels(train)), loader.add(RandomImages(train, RECIPE))
        for _ in range(2):  # the processes stay for a second pass
            for draws, images in zip(batches, loader.read(source, batches), strict=True):
                np.testing.assert_array_equal(images, train.raw(draws.index))
        assert next(loader.read(other, batches)).shape == (1, 24, 24, 3)  # a pass that is not finished
        assert [len(images) for images in loader.read(source, batches)] == list(sizes)
    assert ended(children())


def test_reading_draws_nothing_from_the_global_generators(folder):
    train = opened(folder).train
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    with Loader(1) as loader:
        list(loader.read(loader.add(RandomImages(train, RECIPE)), [Draws.of(np.arange(3))]))
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_gpu_normalises_bytes_to_the_same_bits(folder):
    train = opened(folder, normalize="imagenet").train
    images = train.raw(np.arange(20))
    levels = torch.from_numpy(normalised_levels(train.mean, train.std))
    np.testing.assert_array_equal(
        normalised(torch.from_numpy(images), levels).numpy(), train.batch(np.arange(20))
    )


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("suite", SuiteError, "data/5.jpg: not an image that can be decoded"),
        ("plugin", DeviceError, "KeyError: 'five'"),
        ("contract", BrokenContract, r"dataset 'broken': test image 5 is uint8 \[8, 8\], not uint8"),
        ("killed", CellError, r"a process that reads images was ended by SIGKILL \(out of memory\?\)"),
    ],
)
def test_a_failure_in_a_worker_is_one_line_and_ends_the_others(how, kind, message):
    with Loader(2) as loader:
        source = loader.add(StoredPixels(broken(how)))
        with pytest.raises(kind, match=message) as caught:
            list(loader.read(source, [Draws.of(np.arange(20))] * 9))
    assert len(str(caught.value).splitlines()) == 1
    if how == "plugin":
        assert Path(caught.value.files[-1]).name == "broken_data.py"
    del caught
    assert ended(children())


def test_a_data_set_that_another_process_cannot_load_is_refused_in_time():
    split = broken("suite", load=lambda params, split: Broken("suite"))
    with (
        Loader(2) as loader,
        pytest.raises(ValueError, match=r"cannot be read in another process .*workers: 0"),
    ):
        loader.add(StoredPixels(split))
    assert len(list(Loader(0).read(0, []))) == 0


TRAINER = """
import sys, time
sys.path[:0] = {paths!r}
import test_loading as tests
from harness.train.loading import Draws, Loader, StoredPixels
import numpy as np

if __name__ == "__main__":
    loader = Loader(2)
    batches = [Draws.of(np.arange(40))] * 10**5
    for images in loader.read(loader.add(StoredPixels(tests.opened({folder!r}).train)), batches):
        print("read", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_stays_when_the_trainer_ends(folder, tmp_path, number):
    script, here = tmp_path / "trainer.py", Path(__file__).parent
    paths = [str(here), str(here.parent / "support")]
    script.write_text(TRAINER.format(paths=paths, folder=str(folder)))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout.readline() == "read\n"
        processes = children(trainer.pid)
        assert len(processes) == 2
        if number == signal.SIGINT:  # a terminal sends it to every process
            for process in processes:
                process.send_signal(number)
            time.sleep(0.2)
        trainer.send_signal(number)
        trainer.stdout.close()
        errors = trainer.stderr.read()
        assert trainer.wait(20) != 0
    assert ended(processes)
    assert errors.count("Traceback") <= (number == signal.SIGINT)


# --- a run ------------------------------------------------------------------------------------------

SUITE = """
suite: pictures
data: {{name: imagefolder, path: {folder}, image_size: 16, crop: none, crop_pct: 0.9}}
defaults:
  train: {{epochs: 2, batch_size: 8, augment: resized-crop-flip, rand_augment: rand-m9-mstd0.5-inc1, repeats: 2}}
methods: {{vit: {{build: {{vit: {{patch_size: 8, dim: 16, depth: 1, heads: 2}}}}}}}}
devices: {{here: {{backend: cpu}}}}
run: [{{methods: all, devices: [here]}}]
"""


@pytest.mark.e2e
def test_a_run_with_workers_makes_the_same_artifacts_under_the_same_keys(
    harness, folder, tmp_path, monkeypatch
):
    (tmp_path / "pictures.yaml").write_text(SUITE.format(folder=folder))
    made = []
    for workers in (0, 2):
        cache = tmp_path / f"cache{workers}"
        monkeypatch.setenv("HARNESS_CACHE", str(cache))
        code, _, err = harness(
            "run", "pictures.yaml", "--prepare-only", "--set", f"prepare.workers={workers}"
        )
        assert code == 0, err
        weights = {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.safetensors")}
        made.append(weights)
    assert made[0]
    assert made[0] == made[1]

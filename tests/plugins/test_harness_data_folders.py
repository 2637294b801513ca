"""Tests of the digits, of synthetic images, and of image files in folders."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.choice import effective_info
from harness.data.opened import open_data
from harness.errors import SuiteError
from harness.testing import check_dataset
from harness.types import DataInfo, DatasetEntry
from harness.types.data import DataChoice
from harness_data import plugin

ENTRIES: dict[str, DatasetEntry] = {entry.name: entry for entry in plugin.harness_datasets()}


def describe(name: str, **params: Any) -> DataInfo:
    return ENTRIES[name].describe(ENTRIES[name].params(**params))


def load(name: str, split: str, **params: Any) -> Any:
    return ENTRIES[name].load(ENTRIES[name].params(**params), split)


def fill(path: Path, value: int, height: int = 6, width: int = 6) -> None:
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


# --- digits -----------------------------------------------------------------------------------------


def test_digits_keep_their_contract_and_their_facts() -> None:
    check_dataset(ENTRIES["digits"])
    info = describe("digits")
    train, test = load("digits", "train"), load("digits", "test")
    pixels = np.stack([train.image(index) for index in range(len(train))])
    assert info.mean == pytest.approx([(pixels / 255).mean()], abs=1e-4)
    assert info.std == pytest.approx([(pixels / 255).std()], abs=1e-4)
    assert (pixels.min(), pixels.max()) == (0, 255)
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.labels.astype("<i8").tobytes())
        digest.update(np.stack([split.image(index) for index in range(len(split))]).tobytes())
    assert info.fingerprint == digest.hexdigest()


def test_digits_are_split_by_class_into_all_that_there_is() -> None:
    from sklearn.datasets import load_digits

    counts = np.bincount(load_digits().target)
    train, test = (np.bincount(load("digits", split).labels) for split in ("train", "test"))
    assert (train + test).tolist() == counts.tolist()
    assert np.abs(test - counts / 5).max() <= 1
    assert (train.sum(), test.sum()) == (1437, 360)


def test_describing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness_data import plugin; entries = {e.name: e for e in plugin.harness_datasets()}; "
        "[entries[n].describe(entries[n].params()) for n in ('digits', 'synthetic')]; "
        "print(*({'sklearn', 'torch', 'pyarrow', 'datasets', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == ""


# --- synthetic --------------------------------------------------------------------------------------


def test_synthetic_images_are_what_was_asked_for_and_tell_classes_apart() -> None:
    params = {"num_classes": 7, "size": 24, "channels": 1, "train": 70, "test": 35, "seed": 3}
    check_dataset(ENTRIES["synthetic"], params)
    assert describe("synthetic", **params).shape == (1, 24, 24)
    train, test = (load("synthetic", split, **params) for split in ("train", "test"))
    images = {
        split: np.stack([s.image(i) for i in range(len(s))]).astype(float)
        for split, s in (("train", train), ("test", test))
    }
    centres = np.stack([images["train"][train.labels == label].mean(axis=0) for label in range(7)])
    nearest = ((images["test"][:, None] - centres) ** 2).sum(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == test.labels).all()
    assert not np.array_equal(images["train"][0], images["test"][0])
    other = load("synthetic", "train", **{**params, "seed": 4})
    assert not np.array_equal(other.image(0), train.image(0))


def test_synthetic_data_may_have_nothing_to_train_on() -> None:
    entry = ENTRIES["synthetic"]
    data = open_data(entry, entry.params(train=0, test=3), DataChoice(name="synthetic", validation=0))
    assert (len(data.train), len(data.test)) == (0, 3)


# --- imagefolder ------------------------------------------------------------------------------------


@pytest.fixture
def pictures_in_folders(tmp_path: Path) -> Path:
    for split, name, number, size in (
        ("train", "dog", 1, (6, 9)),
        ("train", "ant", 1, (8, 5)),
        ("train", "dog", 0, (7, 7)),
        ("val", "ant", 0, (6, 6)),
        ("val", "dog", 0, (6, 6)),
    ):
        path = tmp_path / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(path, len(name) * 10 + number, *size)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    return tmp_path


def test_image_folders_are_read(pictures_in_folders: Path) -> None:
    params = {"path": str(pictures_in_folders)}
    check_dataset(ENTRIES["imagefolder"], params)
    info = describe("imagefolder", **params)
    assert (info.class_names, info.sizes) == (("ant", "dog"), {"train": 3, "test": 2})
    entry = ENTRIES["imagefolder"]
    data = open_data(
        entry, entry.params(**params), DataChoice(name="imagefolder", image_size=4, validation=0)
    )
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.batch([0, 1, 2]).shape == (3, 3, 4, 4)
    assert data.train.raw([0, 1, 2])[:, 0, 0, 0].tolist() == [31, 30, 31]
    with pytest.raises(ValueError, match="give image_size"):
        effective_info(info, DataChoice(name="imagefolder"))


def test_a_changed_file_changes_the_fingerprint(pictures_in_folders: Path) -> None:
    params = {"path": str(pictures_in_folders)}
    before = describe("imagefolder", **params).fingerprint
    fill(pictures_in_folders / "val" / "ant" / "1.png", 0)
    assert describe("imagefolder", **params).fingerprint != before


def test_bad_folders_are_named(pictures_in_folders: Path) -> None:
    path = pictures_in_folders
    entry = ENTRIES["imagefolder"]
    data = open_data(entry, entry.params(path=str(path)), DataChoice(name="imagefolder", image_size=4))
    (path / "train" / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(SuiteError, match=r"dog/0\.png: not an image that can be decoded"):
        data.train.batch(range(len(data.train)))
    with pytest.raises(SuiteError, match=r"dog/0\.png: not an image that can be decoded"):
        describe("imagefolder", path=str(path))
    (path / "val" / "cow").mkdir()
    with pytest.raises(SuiteError, match="class 'cow' has a folder for test, but none for training"):
        describe("imagefolder", path=str(path))
    (path / "train" / "cow").mkdir()
    with pytest.raises(SuiteError, match=r"class 'cow' has no training images; allowed are \.apng"):
        describe("imagefolder", path=str(path))
    (path / "val").rename(path / "dev")
    with pytest.raises(SuiteError, match="no folder test or val there"):
        describe("imagefolder", path=str(path))
    assert describe("imagefolder", path=str(path / "no"), num_classes=3).missing is not None

"""Tests of Parquet files that are missing, damaged or more than are read, in a folder and in the hub's layout."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.errors import SuiteError
from harness_data import huggingface, parquet
from picture_tables import describe, labels, pair, png, refused, write

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- files --------------------------------------------------------------------------------------


def test_rows_that_training_has_too_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1, 0, 1])
    write(tmp_path / "test.parquet", [0, 1, 0], first=2)
    assert "2 of 3 test pictures have the bytes of a training picture" in describe(tmp_path).note


def test_one_shard_under_two_names_is_counted(tmp_path: Path) -> None:
    pair(tmp_path, [0, 1])
    (tmp_path / "train.parquet").rename(tmp_path / "train-0.parquet")
    shutil.copy(tmp_path / "train-0.parquet", tmp_path / "train-1.parquet")
    assert "2 of 4 training pictures have the bytes of an earlier one" in describe(tmp_path).note


def shards(folder: Path, numbers: list[int], count: int) -> None:
    for number in numbers:
        write(folder / f"train-{number:05}-of-{count:05}.parquet", [0, 1], first=10 * number)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [0, 1], first=200)
    shards(tmp_path, [0, 3], 4)
    missing = "train-00001-of-00004.parquet, train-00002-of-00004.parquet"
    refused(tmp_path, rf"missing shards: 2 \({missing}\)")
    chosen = describe(tmp_path, train_files="train-0000[03]*")
    assert f"missing shards: 2 ({missing})" in chosen.note
    assert chosen.sizes == {"train": 4, "test": 2}
    shards(tmp_path, [1, 2], 4)
    assert "missing" not in describe(tmp_path).note


def test_shards_of_two_divisions_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [0, 1], first=200)
    shards(tmp_path, [0], 1)
    shards(tmp_path, [0, 1], 2)
    refused(tmp_path, "train has files of 1 and 2 shards; keep one kind only")


def test_files_beside_those_that_are_read_are_named(tmp_path: Path) -> None:
    pair(tmp_path, [0, 1])
    write(tmp_path / "train-extra.parquet", [0, 1])
    assert "train.parquet is read, not train-extra.parquet" in describe(tmp_path).note


def test_an_empty_shard_among_others_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [0, 1], first=200)
    write(tmp_path / "train-0.parquet", pa.array([], pa.int64()))
    write(tmp_path / "train-1.parquet", [1, 0])
    assert (describe(tmp_path).sizes["train"], labels(tmp_path)) == (2, [1, 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(LFS, "it is a Git LFS pointer; fetch the file itself with: git lfs pull"), (b"", "it is empty")],
)
def test_a_pointer_in_place_of_a_file_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    pair(tmp_path, [0, 1])
    (tmp_path / "test.parquet").write_bytes(data)
    refused(tmp_path, rf"test\.parquet: cannot be read as Parquet: {reason}")


def test_a_folder_or_a_pipe_in_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    pair(tmp_path, [0, 1])
    (tmp_path / "train.parquet").unlink()
    os.mkfifo(tmp_path / "train.parquet")
    refused(tmp_path, r"no train\.parquet or train-\*\.parquet there")
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.parquet").mkdir()
    refused(tmp_path, r"no train\.parquet or .* \(there is: test\.parquet, train\.parquet/\); train_files:")


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [0, 1], ["a", "b"], first=9)
    draw = np.random.default_rng(0)
    refusals = []
    for source in (
        write(tmp_path / "train.parquet", ["a", "b", "a"]),
        write(tmp_path / "train.parquet", [0, 1]),
    ):
        data = source.read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            for at in draw.integers(max(0, len(data) - 1500), len(data), 2):
                damaged[at] = draw.integers(256)
            (tmp_path / "train.parquet").write_bytes(damaged)
            refusals += refusal(tmp_path)
    assert len(refusals) > 100
    assert not [message for message in refusals if "\n" in message]


def refusal(folder: Path) -> list[str]:
    """Return why a folder is refused, if it is. No other error passes."""
    try:
        describe(folder)
        labels(folder)
    except SuiteError as error:
        return [str(error)]
    return []


def test_a_set_is_the_same_however_its_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(tmp_path, [0, 1])
    time.sleep(2.1)  # what is remembered of one spelling is found for the other
    before = describe(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert describe(Path(tmp_path.name)) == before
    assert describe(tmp_path / ".." / tmp_path.name) == before


def test_images_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    params = parquet.ParquetParams(path=str(pair(tmp_path, [0, 1])))
    files = {split: [tmp_path / f"{split}.parquet"] for split in ("train", "test")}
    assert len(parquet.load_files(params, files, "train")) == 2
    with pytest.raises(
        SuiteError, match=r"the images of the train split take .* GB, but this machine has .* GB of memory"
    ):
        parquet.load_files(params, files, "train", memory_bytes=100)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    pair(tmp_path, [0, 1])
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "test.parquet").symlink_to("/nonexistent/there")
    refused(tmp_path, r"test\.parquet: a link to /nonexistent/there, which is not there")


@pytest.mark.parametrize("pattern", ["**x", "", "train\0"])
def test_a_pattern_that_is_none_is_one_line(tmp_path: Path, pattern: str) -> None:
    refused(pair(tmp_path, [0, 1]), "train", train_files=pattern)


# --- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "pets"


def test_names_in_another_order_are_mapped_in_the_hubs_layout_too(hub: Path) -> None:
    write(hub / "data" / "train-00000-of-00001.parquet", [0, 1, 1], ["cat", "dog"])
    write(hub / "data" / "test-00000-of-00001.parquet", [0, 1, 1], ["dog", "cat"], first=9)
    params = huggingface.HuggingFaceParams(repo=str(hub))
    info = huggingface.describe(params)
    assert huggingface.load(params, "test").labels.tolist() == [1, 0, 0]
    assert "labels mapped by class name" in info.note
    copy = Path(shutil.copytree(hub, hub.parent / "other" / "pets"))
    for path in copy.rglob("*.parquet"):
        os.utime(path, (1, 1))
    again = huggingface.describe(huggingface.HuggingFaceParams(repo=str(copy)))
    assert again.fingerprint == info.fingerprint


def test_a_part_of_a_split_needs_one_order_of_names(hub: Path) -> None:
    write(hub / "data" / "train-00000-of-00001.parquet", [0, 1, 1], ["cat", "dog"])
    write(hub / "data" / "test-00000-of-00001.parquet", [0, 1, 1], ["dog", "cat"], first=9)
    params = huggingface.HuggingFaceParams(repo=str(hub), train_split="train[:2]")
    with pytest.raises(SuiteError, match=r"declare different classes, or another order; name whole splits"):
        huggingface.describe(params)


def test_missing_shards_are_named_in_the_hubs_layout_too(hub: Path) -> None:
    write(hub / "data" / "train-00000-of-00002.parquet", [0, 1], ["cat", "dog"])
    write(hub / "data" / "test-00000-of-00001.parquet", [0, 1], ["cat", "dog"])
    with pytest.raises(SuiteError, match=r"missing shards: 1 \(train-00001-of-00002\.parquet\)"):
        huggingface.describe(huggingface.HuggingFaceParams(repo=str(hub)))


CARD = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - {name: label, dtype: {class_label: {names: {'0': cat, '1': dog, '2': cow}}}}
---
"""


def test_class_names_of_the_sets_card_are_used_if_the_files_declare_none(hub: Path) -> None:
    write(hub / "data" / "train-00000-of-00001.parquet", [0, 1, 1])
    write(hub / "data" / "test-00000-of-00001.parquet", [0, 1], first=9)
    (hub / "README.md").write_text(CARD)
    whole = huggingface.describe(huggingface.HuggingFaceParams(repo=str(hub)))
    assert whole.class_names == ("cat", "dog", "cow")
    assert "1 of 3 classes have no training pictures: 'cow'" in whole.note
    part = huggingface.HuggingFaceParams(repo=str(hub), train_split="train[:2]")
    info = huggingface.describe(part)
    assert (info.class_names, info.sizes) == (whole.class_names, {"train": 2, "test": 2})
    assert huggingface.load(part, "train").labels.tolist() == [0, 1]


def test_a_set_of_other_files_is_read_by_the_library(hub: Path) -> None:
    for split, name, value in (
        ("train", "ant", 1),
        ("train", "bee", 2),
        ("test", "ant", 3),
        ("test", "bee", 2),
    ):
        path = hub / split / name / f"{value}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    params = huggingface.HuggingFaceParams(repo=str(hub))
    info = huggingface.describe(params)
    assert (info.class_names, info.sizes) == (("ant", "bee"), {"train": 2, "test": 2})
    assert "1 of 2 test pictures have the bytes of a training picture" in info.note
    train = huggingface.load(params, "train")
    assert (train.labels.tolist(), [int(train.image(i)[0, 0, 0]) for i in range(2)]) == ([0, 1], [1, 2])

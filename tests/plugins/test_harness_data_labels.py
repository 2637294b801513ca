"""Labels of Parquet files as tools and people write them: each is read right and noted, or refused in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data import huggingface, parquet

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path, labels: Any, names: list[str] | None = None, first: int = 0, label: str = "label", **more: Any
) -> Path:
    """A Parquet file whose pictures have the values ``first``, ``first`` + 1 ... ``names``: as the hub declares them."""
    column = labels if isinstance(labels, pa.Array) else pa.array(labels)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(first + index), "path": None} for index in range(len(column))], kind)
    table = pa.table({"image": images, label: column, **more})
    if names is not None:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def pair(folder: Path, train: Any, test: Any = None, names: list[str] | None = None) -> Path:
    write(folder / "train.parquet", train, names)
    write(folder / "test.parquet", train if test is None else test, names, first=100)
    return folder


def describe(folder: Path, **params: Any) -> DataInfo:
    return parquet.describe(parquet.ParquetParams(path=str(folder), **params))


def labels(folder: Path, split: str = "train", **params: Any) -> list[int]:
    images = parquet.load(parquet.ParquetParams(path=str(folder), **params), split)
    numbers: list[int] = images.labels.tolist()
    return numbers


def refused(folder: Path, message: str, **params: Any) -> None:
    with pytest.raises(SuiteError, match=message) as caught:
        describe(folder, **params)
    assert "\n" not in str(caught.value)


# --- names of classes ---------------------------------------------------------------------------


def test_names_in_another_order_in_the_test_split_are_mapped(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1, 1], ["cat", "dog"])
    write(tmp_path / "test.parquet", [0, 1, 1], ["dog", "cat"], first=9)
    info = describe(tmp_path)
    assert info.class_names == ("cat", "dog")
    assert (labels(tmp_path), labels(tmp_path, "test")) == ([0, 1, 1], [1, 0, 0])
    assert "labels mapped by class name, as the order of names differs in test.parquet" in info.note


def test_names_in_another_order_in_a_later_shard_are_mapped(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", [0, 1], ["cat", "dog"])
    write(tmp_path / "train-00001-of-00002.parquet", [0, 1], ["dog", "cat"], first=9)
    write(tmp_path / "test.parquet", [0, 1], ["cat", "dog"], first=99)
    assert labels(tmp_path) == [0, 1, 1, 0]
    assert "differs in train-00001-of-00002.parquet" in describe(tmp_path).note


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (["cat", "cow"], "'cow' only in .*test.parquet"),
        (["cat"], "'dog' only in .*train.parquet"),
        (["cat", "dog", "cow"], "'cow' only in .*test.parquet"),
        (["cat", "cat"], "'dog' only in .*train.parquet"),
    ],
)
def test_other_names_in_the_test_split_are_refused(tmp_path: Path, names: list[str], difference: str) -> None:
    write(tmp_path / "train.parquet", [0, 1], ["cat", "dog"])
    write(tmp_path / "test.parquet", [0, 0], names)
    refused(tmp_path, f"test.parquet and .*train.parquet declare different classes: {difference}")


def test_names_that_occur_twice_are_noted_and_their_order_must_be_one(tmp_path: Path) -> None:
    names = ["crane", "crane", "maillot"]
    pair(tmp_path, [0, 1, 2], names=names)
    info = describe(tmp_path)
    assert (info.class_names, labels(tmp_path)) == (tuple(names), [0, 1, 2])
    assert "classes of one name are kept apart by their numbers: 2 are called 'crane'" in info.note
    write(tmp_path / "test.parquet", [0, 1, 2], ["crane", "maillot", "crane"])
    refused(tmp_path, "declare different classes: names that occur twice, in another order")


def test_classes_without_pictures_are_counted(tmp_path: Path) -> None:
    pair(tmp_path, [0, 2, 0], [0, 1], names=["a", "b", "c", "d"])
    note = describe(tmp_path).note
    assert "2 of 4 classes have no training pictures: 'b', 'd'" in note
    assert "2 of 4 classes have no test pictures: 'c', 'd'" in note


def test_a_class_of_the_test_split_alone_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, ["a", "c"], ["a", "b"])
    refused(tmp_path, r"test\.parquet: row 1 has label 'b', which is none of the 2 classes \(a, c\)")


@pytest.mark.parametrize("name", ["x\ny", "x\x1b[31m", "  "])
def test_names_that_cannot_be_printed_are_refused(tmp_path: Path, name: str) -> None:
    refused(pair(tmp_path / "names", [0, 1], names=["a", name]), r"train\.parquet: ")
    refused(pair(tmp_path / "texts", ["a", name]), r"train\.parquet: ")


@pytest.mark.parametrize("declared", [[], "cat", {"a": 1}, None, 3])
def test_what_is_no_list_of_names_declares_none(tmp_path: Path, declared: Any) -> None:
    pair(tmp_path, [3, 7], names=declared)
    assert describe(tmp_path).class_names == ("3", "7")


# --- values of labels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        pytest.param(
            pa.array([2**63, 2**63 + 1, 5], pa.uint64()),
            ["5", str(2**63), str(2**63 + 1)],
            [1, 2, 0],
            id="uint64",
        ),
        pytest.param(pa.array([-(2**63), 2**63 - 1]), [str(-(2**63)), str(2**63 - 1)], [0, 1], id="int64"),
        pytest.param(pa.array([127, -128, 0], pa.int8()), ["-128", "0", "127"], [2, 0, 1], id="int8"),
        pytest.param(pa.array([10, 9, 100], pa.uint16()), ["9", "10", "100"], [1, 0, 2], id="uint16"),
        pytest.param(
            pa.array(["dog", "cat", "dog"]).dictionary_encode(), ["cat", "dog"], [1, 0, 1], id="dictionary"
        ),
        pytest.param(
            pa.array([7, 3, 7]).dictionary_encode(), ["3", "7"], [1, 0, 1], id="dictionary of numbers"
        ),
        pytest.param(pa.array([True, False, True]), ["False", "True"], [1, 0, 1], id="bool"),
        pytest.param(pa.array(["b", "a"], pa.large_string()), ["a", "b"], [1, 0], id="large_string"),
        pytest.param(pa.array(["10", "9", "1"]), ["1", "9", "10"], [2, 1, 0], id="texts that are numbers"),
        pytest.param(
            pa.array(["e\u0301", "\u00e9", "a"]), ["a", "\u00e9"], [1, 1, 0], id="two Unicode forms"
        ),
    ],
)
def test_labels_are_read_exactly(
    tmp_path: Path, values: pa.Array, names: list[str], numbers: list[int]
) -> None:
    pair(tmp_path, values)
    assert list(describe(tmp_path).class_names) == names
    assert labels(tmp_path) == labels(tmp_path, "test") == numbers


def test_numbers_of_different_widths_are_one_kind(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", pa.array([0, 2**63], pa.uint64()))
    write(tmp_path / "train-1.parquet", pa.array([1, 0], pa.int8()), first=9)
    write(tmp_path / "test.parquet", pa.array([1, 0], pa.int32()), first=99)
    assert describe(tmp_path).class_names == ("0", "1", str(2**63))
    assert (labels(tmp_path), labels(tmp_path, "test")) == ([0, 2, 1, 0], [1, 0])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        pytest.param(
            [0, -1, 1], None, r"train.parquet: row 1 has label -1, which stands for no label", id="-1"
        ),
        pytest.param(
            [0, 1], [0, -1], r"test.parquet: row 1 has label -1, .*; -1 stands for no label", id="-1, test"
        ),
        pytest.param(
            [0.0, 1.0], None, "column 'label' is double; labels are whole numbers or text", id="float"
        ),
        pytest.param([[0], [1]], None, "column 'label' is list<.*>; labels are", id="list"),
        pytest.param([None, None], None, "column 'label' is null; labels are", id="null"),
        pytest.param([0, None], None, "train.parquet: row 1 has no label", id="one null"),
        pytest.param(
            pa.array(["a", None, "b"]).dictionary_encode(),
            None,
            "row 1 has no label",
            id="null in dictionary",
        ),
        pytest.param(["a", ""], None, "train.parquet: row 1 has an empty label", id="empty text"),
        pytest.param(
            [True, False], [1, 0], "test.parquet: row 0 has label 1, which is none of", id="bool, then int"
        ),
        pytest.param(
            [1, 0], [True, False], "test.parquet: row 0 has label True, which is none of", id="int, then bool"
        ),
        pytest.param(
            [1, 0], ["1", "0"], "test.parquet: row 0 has label '1', which is none of", id="int, then text"
        ),
        pytest.param(["é", "e\u0301"], None, "labels have 1 different values", id="one text in two forms"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, train: Any, test: Any, message: str) -> None:
    refused(pair(tmp_path, train, test), message)


def test_labels_beyond_the_names_are_refused(tmp_path: Path) -> None:
    refused(
        pair(tmp_path, [0, 1, 2], names=["a", "b"]),
        r"train\.parquet: row 2 has label 2, which is none of the 2 classes \(a, b\)",
    )


# --- columns ------------------------------------------------------------------------------------


def test_of_several_label_columns_the_note_says_which_is_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(
            tmp_path / f"{split}.parquet", [0, 1], fine_label=pa.array([5, 6]), coarse_label=pa.array([1, 1])
        )
    note = "column 'label' read, not 'fine_label' or 'coarse_label'"
    assert note in describe(tmp_path).note
    asked = describe(tmp_path, label_column="fine_label")
    assert (asked.class_names, note in asked.note) == (("5", "6"), False)


def test_labels_in_different_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1], label="label")
    write(tmp_path / "test.parquet", [0, 1], label="fine_label")
    refused(tmp_path, r"train\.parquet: labels are in column 'label', but in .*test\.parquet in 'fine_label'")


@pytest.mark.parametrize("name", ["label", "image"])
def test_a_column_named_twice_is_one_line(tmp_path: Path, name: str) -> None:
    pair(tmp_path, [0, 1])
    table = pq.read_table(tmp_path / "train.parquet")
    pq.write_table(table.append_column(name, table.column(name)), tmp_path / "train.parquet")
    refused(tmp_path, rf"train\.parquet: 2 columns are called '{name}'")


def test_another_column_named_twice_does_not_matter(tmp_path: Path) -> None:
    pair(tmp_path, [0, 1])
    table = pq.read_table(tmp_path / "train.parquet")
    for _ in range(2):
        table = table.append_column("id", table.column("label"))
    pq.write_table(table, tmp_path / "train.parquet")
    assert labels(tmp_path) == [0, 1]


@pytest.mark.parametrize(
    "images",
    [
        pa.array([True, False]),
        pa.array(["a", "b"]),
        pa.array([[b"a"], [b"b"]]),
        pa.array([[{"bytes": b"a", "path": ""}]] * 2),
        pa.array([{"path": "a"}] * 2),
        pa.array([{"bytes": "a"}] * 2),
        pa.array([None, None]),
    ],
)
def test_images_of_another_type_are_refused(tmp_path: Path, images: pa.Array) -> None:
    pair(tmp_path, [0, 1])
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 1])}), tmp_path / "test.parquet")
    refused(tmp_path, r"test\.parquet: column 'image' is .*, not image bytes or a struct with 'bytes'")


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
    refused(tmp_path, "train is there in 1 and 2 shards; remove all but one kind")


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

"""Labels of Parquet files as tools and people write them: each is read right and noted, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from picture_tables import describe, labels, pair, refused, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


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


def test_a_text_in_another_unicode_form_in_the_test_split_is_the_same_class(tmp_path: Path) -> None:
    composed, parts = "\u00e9", "e\u0301"
    write(tmp_path / "train.parquet", [parts, "b"])
    write(tmp_path / "test.parquet", [composed, parts], first=9)
    assert describe(tmp_path).class_names == ("b", composed)
    assert (labels(tmp_path), labels(tmp_path, "test")) == ([1, 0], [1, 1])


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


def test_labels_of_two_kinds_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [0, 1], first=99)
    write(tmp_path / "train-0.parquet", [0, 1])
    for labels_of_another_kind in (["0", "1"], [False, True]):
        write(tmp_path / "train-1.parquet", labels_of_another_kind, first=9)
        refused(tmp_path, r"labels are whole numbers in .*train-0\.parquet and .* in .*train-1\.parquet")


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

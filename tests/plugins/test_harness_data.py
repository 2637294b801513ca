"""Tests of encoded images in tables: Parquet files, the hub's layout, and the messages for bad data."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from harness.data.choice import effective_info
from harness.data.opened import open_data
from harness.errors import SuiteError
from harness.extras import install_command
from harness.testing import check_dataset
from harness.types import DataInfo, DatasetEntry
from harness.types.data import DataChoice
from harness_data import pictures, plugin

ENTRIES: dict[str, DatasetEntry] = {entry.name: entry for entry in plugin.harness_datasets()}
HUB_METADATA = {
    "huggingface": '{"info": {"features": {"img": {"_type": "Image"}, '
    '"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
}


def describe(name: str, **params: Any) -> DataInfo:
    return ENTRIES[name].describe(ENTRIES[name].params(**params))


def load(name: str, split: str, **params: Any) -> Any:
    return ENTRIES[name].load(ENTRIES[name].params(**params), split)


def picture(value: int, height: int = 6, width: int = 6, channels: int = 3) -> NDArray[np.uint8]:
    return np.full((height, width, channels), value, np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, labels: list[Any], images: list[Any] | None = None, **keys: Any) -> Path:
    """Write a Parquet file in the hub's format. ``metadata``, ``image`` and ``label`` change the format."""
    images = [png(picture(10 * index)) for index in range(len(labels))] if images is None else images
    structs = [{"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            keys.get("image", "img"): pa.array(structs, kind)
            if keys.get("struct", True)
            else pa.array(images),
            keys.get("label", "label"): pa.array(labels),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(keys.get("metadata")), path, row_group_size=2)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.parquet", [0, 1, 0, 1, 1], metadata=HUB_METADATA)
    write(tmp_path / "test.parquet", [1, 0], metadata=HUB_METADATA)
    return tmp_path


# --- parquet: real data -----------------------------------------------------------------------------


def test_cifar10_is_what_it_is(real_data: Path) -> None:
    params = {"path": str(real_data / "cifar10"), "note": "JPEG re-encoding, quality 75"}
    check_dataset(ENTRIES["parquet"], params)
    info = describe("parquet", **params)
    assert (info.name, info.shape) == ("cifar10", (3, 32, 32))
    assert info.sizes == {"train": 50_000, "test": 10_000}
    assert info.class_names == (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    assert "JPEG re-encoding, quality 75; images stored as JPEG" in info.note


def test_cifar10_splits_are_balanced_and_its_batches_repeatable(real_data: Path) -> None:
    entry = ENTRIES["parquet"]
    params = entry.params(path=str(real_data / "cifar10"))
    choice = DataChoice(name="parquet", validation=0.1, shots=100, classes=(3, 5, 9))
    data = open_data(entry, params, choice)
    assert data.info.sizes == {"train": 300, "validation": 1500, "test": 3000}
    assert data.info.class_names == ("cat", "dog", "truck")
    batch = data.train.batch(range(64))
    again = open_data(entry, params, choice.model_copy(update={"image_size": 32})).train.batch(range(64))
    assert batch.shape == (64, 3, 32, 32)
    assert np.array_equal(batch, again)
    assert 0.2 < batch.std() < 1.2


# --- parquet: layouts -------------------------------------------------------------------------------


def test_the_hubs_layout_is_read(folder: Path) -> None:
    check_dataset(ENTRIES["parquet"], {"path": str(folder)})
    info = describe("parquet", path=str(folder))
    assert (info.class_names, info.shape, info.sizes) == (("cat", "dog"), (3, 6, 6), {"train": 5, "test": 2})
    train = load("parquet", "train", path=str(folder))
    assert train.labels.tolist() == [0, 1, 0, 1, 1]
    assert [train.image(index)[0, 0, 0] for index in range(5)] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [(["dog", "ant", "dog"], ("ant", "dog"), [1, 0, 1]), ([7, 3, 7], ("3", "7"), [1, 0, 1])],
)
def test_without_declared_names_classes_are_the_label_values(
    tmp_path: Path, values: list[Any], names: tuple[str, ...], numbers: list[int]
) -> None:
    grey = [png(picture(index, channels=1)) for index in range(3)]
    keys = {"image": "scan", "label": "kind", "struct": False}
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", values, grey, **keys)
    params = {"path": str(tmp_path), "image_column": "scan", "label_column": "kind"}
    info = describe("parquet", **params)
    assert (info.class_names, info.shape) == (names, (1, 6, 6))
    assert load("parquet", "test", **params).labels.tolist() == numbers


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for shard, value in ((1, 60), (0, 30)):
        images = [png(picture(value + index)) for index in range(3)]
        write(tmp_path / f"train-{shard}.parquet", [0, 1, shard], images)
    write(tmp_path / "held.parquet", [0, 1])
    train = load("parquet", "train", path=str(tmp_path), test_files="held*")
    assert train.labels.tolist() == [0, 1, 0, 0, 1, 1]
    assert [train.image(index)[0, 0, 0] for index in range(6)] == [30, 31, 32, 60, 61, 62]


def test_the_fingerprint_follows_the_bytes_and_the_columns(folder: Path) -> None:
    path = str(folder)
    before = describe("parquet", path=path).fingerprint
    assert describe("parquet", path=path, note="x", crop="none").fingerprint == before
    os.utime(folder / "test.parquet", (1, 1))
    assert describe("parquet", path=path).fingerprint == before
    write(folder / "test.parquet", [1, 1], metadata=HUB_METADATA)
    assert describe("parquet", path=path).fingerprint != before


def test_crop_takes_the_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [0, 1], [png(wide)] * 2)
    assert describe("parquet", path=str(tmp_path)).shape == (3, 4, 4)
    assert (load("parquet", "train", path=str(tmp_path)).image(0) == 200).all()
    whole = describe("parquet", path=str(tmp_path), crop="none")
    assert whole.shape == (3, 4, 8)
    assert "pictures resized whole, not cut to their middle square" in whole.note
    assert "resized whole" not in describe("parquet", path=str(tmp_path)).note


def test_absent_data_is_planned_with_what_the_suite_says(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    info = describe("parquet", path=path, num_classes=10, shape=(3, 32, 32))
    assert info.missing == f"{path}: not found; put train.parquet and test.parquet there, or change path"
    assert (info.classes, info.shape, info.fingerprint) == (10, (3, 32, 32), "")
    sized = effective_info(
        describe("parquet", path=path, num_classes=10), DataChoice(name="x", image_size=64)
    )
    assert sized.shape == (3, 64, 64)
    with pytest.raises(SuiteError, match=r"nowhere: not found.*to plan without it, give num_classes"):
        describe("parquet", path=path)
    with pytest.raises(SuiteError, match="nowhere: not found"):
        load("parquet", "train", path=path, num_classes=10)


def test_a_missing_library_is_said_to_be_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pictures.importlib.util.find_spec
    monkeypatch.setattr(
        pictures.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )
    missing = describe("parquet", path=str(folder), num_classes=2).missing
    assert missing == f"needs pyarrow: {install_command('bench')}"


# --- parquet: bad data ------------------------------------------------------------------------------


def junk(folder: Path) -> str:
    (folder / "test.parquet").write_bytes(b"junk" * 100)
    return r"test\.parquet: cannot be read as Parquet"


def truncated(folder: Path) -> str:
    data = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(data[: len(data) // 2])
    return r"train\.parquet: cannot be read as Parquet"


def damaged_inside(folder: Path) -> str:
    path = folder / "train.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    return r"train\.parquet: "


def empty_file(folder: Path) -> str:
    (folder / "test.parquet").write_bytes(b"")
    return r"test\.parquet: cannot be read as Parquet"


def no_rows(folder: Path) -> str:
    path = folder / "test.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    return r"test\.parquet: no rows"


def not_there(folder: Path) -> str:
    (folder / "test.parquet").rename(folder / "eval.parquet")
    return (
        r"no test\.parquet or test-\*\.parquet there \(there is: eval\.parquet, train\.parquet\); test_files:"
    )


def no_image_column(folder: Path) -> str:
    write(folder / "train.parquet", [0, 1], image="photo")
    return r"train\.parquet: no column img or image \(columns: photo, label\); image_column:"


def no_label_column(folder: Path) -> str:
    write(folder / "test.parquet", [0, 1], label="target")
    return r"test\.parquet: no column label or .* \(columns: img, target\); label_column:"


def label_missing(folder: Path) -> str:
    write(folder / "train.parquet", [0, 1, None], metadata=HUB_METADATA)
    return r"train\.parquet: row 2 has no label \(column 'label'\)"


def label_outside(folder: Path) -> str:
    write(folder / "test.parquet", [0, 1, -1], metadata=HUB_METADATA)
    return r"test\.parquet: row 2 has label -1, which is none of the 2 classes \(cat, dog\)"


def label_of_another_kind(folder: Path) -> str:
    write(folder / "test.parquet", ["cat", "dog"])
    return r"test\.parquet: row 0 has label 'cat', which is none of the 2 classes"


def label_no_class(folder: Path) -> str:
    write(folder / "train.parquet", [0.5, 1.5])
    return r"train\.parquet: column 'label' is double; labels are whole numbers or text"


def one_class(folder: Path) -> str:
    write(folder / "train.parquet", [4, 4])
    return r"train\.parquet: labels have 1 different values"


def image_no_bytes(folder: Path) -> str:
    write(folder / "train.parquet", [0, 1], ["a", "b"], struct=False)
    return r"train\.parquet: column 'img' is string, not image bytes"


def image_missing(folder: Path) -> str:
    write(folder / "test.parquet", [0, 1], [png(picture(0)), None], metadata=HUB_METADATA)
    return r"test\.parquet: row 1 has no image bytes"


def image_undecodable(folder: Path) -> str:
    write(folder / "train.parquet", [0, 1], [png(picture(0)), b"no image"], metadata=HUB_METADATA)
    return r"train\.parquet: row 1: not an image that can be decoded"


def image_cut_short(folder: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write(folder / "train.parquet", [0, 1], [png(noise)[:700]] * 2, metadata=HUB_METADATA)
    return r"train\.parquet: row 0: not an image that can be decoded"


def image_too_deep(folder: Path) -> str:
    write(folder / "train.parquet", [0, 1], [_deep()] * 2, metadata=HUB_METADATA)
    return r"train\.parquet: row 0: more than 8 bits per channel"


def _deep() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def read_all(folder: Path) -> None:
    entry = ENTRIES["parquet"]
    data = open_data(entry, entry.params(path=str(folder)), DataChoice(name="parquet", validation=0))
    data.train.batch(range(len(data.train)))


@pytest.mark.parametrize(
    "spoil",
    [
        junk,
        truncated,
        damaged_inside,
        empty_file,
        no_rows,
        not_there,
        no_image_column,
        no_label_column,
        label_missing,
        label_outside,
        label_of_another_kind,
        label_no_class,
        one_class,
        image_no_bytes,
        image_missing,
        image_undecodable,
        image_cut_short,
        image_too_deep,
    ],
)
def test_bad_files_give_one_line_that_names_them(folder: Path, spoil: Any) -> None:
    message = spoil(folder)
    with pytest.raises(SuiteError, match=message) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_column": "imgg"}, "image_column: .*train.parquet has no column 'imgg'; did you mean 'img'"),
        ({"label_column": "kind"}, "label_column: .* has no column 'kind'; allowed: img, label"),
        ({"num_classes": 10}, "num_classes: 10, but .* has 2 classes"),
        ({"shape": (3, 32, 32)}, r"shape: \[3, 32, 32\], but the images of .* are \[3, 6, 6\]"),
        ({"train_files": "nothing-*"}, r"no nothing-\* there"),
        ({"train_files": "/etc/*"}, "train_files: '/etc/\\*' must be a pattern inside"),
    ],
)
def test_params_that_contradict_the_files_are_refused(
    folder: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(SuiteError, match=message):
        describe("parquet", path=str(folder), **params)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(SuiteError, match=r"train\.parquet: not a folder"):
        describe("parquet", path=str(folder / "train.parquet"))


@pytest.mark.parametrize("name", ["parquet", "imagefolder", "huggingface"])
@pytest.mark.parametrize(
    ("path", "message"), [("x" * 5000, "File name too long"), ("~nobody-of-this-name", "home directory")]
)
def test_a_path_that_cannot_be_looked_at_is_refused(name: str, path: str, message: str) -> None:
    params = {"path": path, "num_classes": 2} | ({"repo": "a/b"} if name == "huggingface" else {})
    with pytest.raises(SuiteError, match=message):
        describe(name, **params)


@pytest.mark.parametrize(
    "params",
    [
        {"path": ""},
        {"mean": (0.5,)},
        {"mean": (5.0,), "std": (1.0,)},
        {"mean": (0.5,), "std": (0.0,)},
        {"num_classes": 1},
        {"shape": (4, 8, 8)},
        {"shape": (3, 0, 8)},
        {"crop": "left"},
        {"folder": "x"},
    ],
)
def test_impossible_params_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENTRIES["parquet"].params(**{"path": "somewhere", **params})


# --- huggingface ------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as a data set of the hub; the libraries' caches are empty and apart."""
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub"))
    for split, labels in (("train", [0, 1, 0, 1, 1]), ("test", [1, 0])):
        write(tmp_path / "pets" / "data" / f"{split}-00000-of-00001.parquet", labels, metadata=HUB_METADATA)
    return tmp_path / "pets"


def test_a_folder_laid_out_as_the_hubs_is_read(hub: Path) -> None:
    params = {"repo": str(hub)}
    check_dataset(ENTRIES["huggingface"], params)
    info = describe("huggingface", **params)
    assert (info.name, info.class_names, info.shape) == ("pets", ("cat", "dog"), (3, 6, 6))
    assert (info.sizes, info.missing) == ({"train": 5, "test": 2}, None)
    assert "images stored as PNG" in info.note
    train = load("huggingface", "train", **params)
    assert train.labels.tolist() == [0, 1, 0, 1, 1]
    assert [train.image(index)[0, 0, 0] for index in range(5)] == [0, 10, 20, 30, 40]


def test_files_that_change_are_read_again(hub: Path) -> None:
    before = describe("huggingface", repo=str(hub))
    images = [png(picture(99))] * 4
    path = write(hub / "data" / "train-00000-of-00001.parquet", [1, 1, 0, 0], images, metadata=HUB_METADATA)
    os.utime(path, (1, 1))
    after = describe("huggingface", repo=str(hub))
    assert after.sizes["train"] == 4
    assert after.fingerprint != before.fingerprint
    assert load("huggingface", "train", repo=str(hub)).image(0)[0, 0, 0] == 99


def test_parquet_files_stand_in_for_the_hub(folder: Path) -> None:
    params = {"repo": "nobody/pets", "path": str(folder), "num_classes": 2}
    info = describe("huggingface", **params)
    assert (info.name, info.missing, info.sizes) == ("nobody/pets", None, {"train": 5, "test": 2})
    assert info.fingerprint == describe("parquet", path=str(folder)).fingerprint
    assert load("huggingface", "test", **params).labels.tolist() == [1, 0]
    swapped = {**params, "train_split": "test", "test_split": "train"}
    assert load("huggingface", "train", **swapped).labels.tolist() == [1, 0]


def test_what_is_not_in_the_cache_is_missing_and_never_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **keys: Any) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    info = describe("huggingface", repo="nobody/pets", revision="v1", num_classes=2)
    assert info.missing == (
        "nobody/pets: not in the Hugging Face cache; download it once with: "
        "hf download --repo-type dataset nobody/pets --revision v1"
    )
    with pytest.raises(SuiteError, match="not in the Hugging Face cache"):
        load("huggingface", "train", repo="nobody/pets")


def test_a_snapshot_in_the_cache_is_read(hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = hub.parent / "cache" / "hub" / "datasets--some--pets"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    hub.rename(repo / "snapshots" / commit)
    info = describe("huggingface", repo="some/pets")
    assert (info.name, info.missing, info.sizes) == ("some/pets", None, {"train": 5, "test": 2})
    os.utime(repo / "snapshots" / commit / "data" / "test-00000-of-00001.parquet", (1, 1))
    assert describe("huggingface", repo="some/pets").fingerprint == info.fingerprint


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"config": "large"}, "split 'train' cannot be read: BuilderConfig 'large' not found"),
        ({"test_split": "held"}, "split 'held' cannot be read: Unknown split"),
        ({"label_column": "kind"}, "has no column 'kind'; allowed: img, label"),
        ({"image_column": "label"}, "column 'label' is int64, not image bytes"),
        ({"label_column": "img"}, "column 'img' is struct.*; labels are whole numbers or text"),
        ({"num_classes": 3}, "num_classes: 3, but .* has 2 classes"),
        (
            {"repo": "no such/thing/here"},
            "repo: 'no such/thing/here' is no folder here and no name on the hub",
        ),
    ],
)
def test_wrong_words_for_the_hub_are_refused(hub: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=message) as caught:
        describe("huggingface", **{"repo": str(hub), **params})
    assert "\n" not in str(caught.value)

"""Folders of pictures as systems and people leave them: which files are read, and what is said of the others."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data import imagefolder, survey
from harness_data.names import ordered

NFC, NFD = "\u00e9", "e\u0301"  # é as one sign and as two


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with one picture in each split, all of other pixels."""
    for value, place in enumerate(("train/a/0", "train/b/0", "test/a/0", "test/b/0")):
        picture(tmp_path / "set" / f"{place}.png", value)
    return tmp_path / "set"


def picture(path: Path, value: int, form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path, form)
    return path


def describe(folder: Path, **params: Any) -> DataInfo:
    return imagefolder.describe(imagefolder.ImageFolderParams(path=str(folder), **params))


def load(folder: Path, split: str = "train") -> list[tuple[int, int]]:
    """Return the label of each picture and its first value."""
    images = imagefolder.load(imagefolder.ImageFolderParams(path=str(folder)), split)
    return [(int(label), int(images.image(index)[0, 0, 0])) for index, label in enumerate(images.labels)]


def refused(folder: Path, message: str) -> None:
    for read in (describe, load):
        with pytest.raises(SuiteError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


# --- classes ------------------------------------------------------------------------------------


def test_pictures_whose_names_are_written_in_two_forms_have_one_order(tmp_path: Path) -> None:
    fingerprints = set()
    for form in (NFC, NFD):
        for split in ("train", "test"):
            for number, place in enumerate((f"a/{form}.png", "a/f.png", "b/0.png")):
                picture(tmp_path / form / split / place, 10 * number + len(split))
        fingerprints.add(describe(tmp_path / form).fingerprint)
    assert len(fingerprints) == 1


def test_class_folders_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in range(12):
            picture(tmp_path / split / str(name) / "0.png", 20 * name)
    assert describe(tmp_path).class_names == tuple(str(name) for name in range(12))
    assert load(tmp_path) == [(name, 20 * name) for name in range(12)]
    assert load(tmp_path, "test") == load(tmp_path)


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (["10", "9", "1"], ["1", "9", "10"]),
        (["010", "9", "1"], ["1", "9", "010"]),
        (["1", "01"], ["01", "1"]),
        (["n10", "n9"], ["n10", "n9"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["²", "10", "9"], ["10", "9", "²"]),
    ],
)
def test_names_are_ordered_by_number_only_if_all_are_numbers(names: list[str], right: list[str]) -> None:
    assert ordered(names) == right


def test_classes_that_differ_in_capitals_are_noted(folder: Path) -> None:
    for split in ("train", "test"):
        for value, name in ((50, "Dog"), (60, "dog")):
            picture(folder / split / name / "0.png", value)
    info = describe(folder)
    assert info.class_names == ("Dog", "a", "b", "dog")
    assert "classes differ in capitals or spaces only: 'Dog' and 'dog'" in info.note


def test_a_class_of_two_unicode_forms_is_one_class(folder: Path) -> None:
    picture(folder / "train" / NFC / "0.png", 70)
    picture(folder / "test" / NFD / "0.png", 71)
    info = describe(folder)
    assert info.class_names == ("a", "b", NFC)
    assert (load(folder)[-1], load(folder, "test")[-1]) == ((2, 70), (2, 71))
    assert "Unicode" not in info.note
    picture(folder / "train" / NFD / "0.png", 72)
    assert load(folder)[-2:] == [(2, 72), (2, 70)]
    assert f"joined: '{NFC}'" in describe(folder).note


@pytest.mark.parametrize("name", ["x\ny", "x\x1b[31m", "x\u2028y", b"x\xff", " "])
def test_names_that_cannot_be_printed_are_refused(folder: Path, name: str | bytes) -> None:
    for split in ("train", "test"):
        inside = os.fsencode(folder / split) + b"/" + os.fsencode(name)
        os.mkdir(inside)
        shutil.copy(os.fsencode(folder / split / "a" / "0.png"), inside)
    refused(folder, "(name of class .* holds|is no name of a class)")


def test_names_that_are_only_unusual_are_accepted(folder: Path) -> None:
    names = ("a b", "c'{", "🐱", "<b>", "$x_1$")
    for split in ("train", "test"):
        for value, name in enumerate(names):
            picture(folder / split / name / "0.png", 80 + value)
    assert set(describe(folder).class_names) == {"a", "b", *names}


def test_a_class_of_one_split_is_refused(folder: Path) -> None:
    picture(folder / "test" / "c" / "0.png", 9)
    refused(folder, "class 'c' has a folder for test, but none for training$")
    picture(folder / "train" / "C" / "0.png", 8)
    refused(folder, "class 'C' has a folder for training, but none for test; there is 'c'")


def test_a_file_that_disappears_while_it_is_read_is_named(folder: Path) -> None:
    def pictures(split: str) -> Iterator[tuple[str, bytes]]:
        (folder / "train/a/0.png").unlink()
        yield "here", (folder / "train/a/0.png").read_bytes()

    with pytest.raises(SuiteError, match=r"train/a/0\.png: No such file or directory"):
        survey.survey_of([folder / "train/a/0.png"], "x", pictures)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a/0.png", ".git/0.png"]
)
def test_what_systems_leave_is_passed_over(folder: Path, name: str) -> None:
    before = describe(folder)
    for place in (f"test/a/{name}", f"train/{name}", f"train/b/{name}"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"Mac OS X resource")
    assert describe(folder) == before


@pytest.mark.parametrize(
    "ending", ["tiff", "TIF", "gif", "JPG", "Jpeg", "webp", "ppm", "bmp", "jp2", "tga", "pcx"]
)
def test_all_kinds_of_pictures_are_read(folder: Path, ending: str) -> None:
    for index in range(3):
        picture(folder / f"train/a/x{index}.{ending}", 100 + index)
    info = describe(folder)
    assert (info.sizes["train"], "skipped" in info.note) == (5, False)
    assert [value for _, value in load(folder)][1:4] == pytest.approx([100, 101, 102], abs=1)


def test_other_files_are_counted_and_named(folder: Path) -> None:
    for name in ("train/a/notes.txt", "train/a/b.TXT", "train/b/x.csv", "train/b/sums", "test/b/.hidden.png"):
        (folder / name).write_text("no picture")
    picture(folder / "train" / "lost.png", 3)
    note = describe(folder).note
    assert (
        "train: files skipped, no pictures or hidden: 4 (2 .txt, 1 no ending, 1 .csv; first train/a/b.TXT)"
        in note
    )
    assert "test: files skipped, no pictures or hidden: 1 (1 .png; first test/b/.hidden.png)" in note
    assert "train: pictures skipped, in no class folder: 1 (first train/lost.png)" in note
    assert describe(folder).sizes == {"train": 2, "test": 2}


def test_folders_inside_a_class_belong_to_it(folder: Path) -> None:
    picture(folder / "train/a/sub/deep/9.png", 9)
    picture(folder / "train/a/dir.png/8.png", 8)
    (folder / "test/b/empty.png").mkdir()
    info = describe(folder)
    assert (info.sizes["train"], info.sizes["test"]) == (4, 2)
    assert "train: pictures in folders inside class folders: 2" in info.note
    assert load(folder) == [(0, 0), (0, 8), (0, 9), (1, 1)]


@pytest.mark.parametrize("place", ["train/a/gone.png", "train/a/gone", "train/gone"])
def test_a_link_that_leads_nowhere_is_named(folder: Path, place: str) -> None:
    (folder / place).symlink_to("/nonexistent/there")
    refused(folder, f"{place}: a link to /nonexistent/there, which is not there")


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "5.png", 5)
    (folder / "train/a/more").symlink_to(tmp_path / "elsewhere")
    (folder / "train/a/1.png").symlink_to(tmp_path / "elsewhere" / "5.png")
    assert load(folder) == [(0, 0), (0, 5), (0, 5), (1, 1)]
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "train" / "a")
    refused(folder, "back: a link to a folder that holds it")
    (tmp_path / "elsewhere" / "back").unlink()
    (folder / "train/b/self.png").symlink_to("self.png")
    refused(folder, r"train/b/self\.png: Too many levels of symbolic links")


def test_what_is_no_regular_file_is_never_opened(folder: Path) -> None:
    os.mkfifo(folder / "train/a/pipe.txt")
    assert "no pictures or hidden: 1 (1 .txt" in describe(folder).note
    os.mkfifo(folder / "train/a/pipe.png")
    refused(folder, r"train/a/pipe\.png: not a regular file")
    (folder / "train/a/pipe.png").unlink()
    listening = socket.socket(socket.AF_UNIX)
    short = Path("/tmp") / f"harness-{os.getpid()}.png"
    listening.bind(str(short))
    try:
        (folder / "train/b/socket.png").symlink_to(short)
        refused(folder, r"train/b/socket\.png: not a regular file")
    finally:
        listening.close()
        short.unlink()


def test_a_file_with_a_control_character_in_its_name_is_shown_without_it(folder: Path) -> None:
    (folder / "train/a/x\x1b[31m.txt").write_text("no picture")
    assert "train/a/x\\x1b[31m.txt" in describe(folder).note
    path = picture(folder / "train/a/x\ny.png", 6)
    assert load(folder)[1] == (0, 6)
    path.write_bytes(b"no picture")
    refused(folder, r"train/a/x\\ny\.png'?: not an image that can be decoded")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all folders")
def test_a_folder_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "train/b").chmod(0)
    try:
        refused(folder, "train/b: Permission denied")
    finally:
        (folder / "train/b").chmod(0o755)


def test_a_folder_around_the_set_is_refused_with_a_hint(folder: Path) -> None:
    refused(folder.parent, "no folder train there; there is one in .*/set$")


def test_of_test_and_val_the_note_says_which_is_read(folder: Path) -> None:
    assert "val" not in describe(folder).note
    shutil.copytree(folder / "test", folder / "val")
    assert "tested on the folder test, not val" in describe(folder).note


def test_test_pictures_that_training_has_too_are_counted(folder: Path) -> None:
    shutil.copy(folder / "train/a/0.png", folder / "test/b/copy.png")
    shutil.copy(folder / "train/a/0.png", folder / "train/b/twice.png")
    note = describe(folder).note
    assert "1 of 3 test pictures have the bytes of a training picture" in note
    assert "1 of 3 training pictures have the bytes of an earlier one" in note


# --- fingerprints -------------------------------------------------------------------------------


def settled(folder: Path) -> DataInfo:
    """Describe a folder when it can be remembered: its files did not change just now."""
    time.sleep(2.1)
    return describe(folder)


def test_a_long_reading_is_announced(folder: Path) -> None:
    files = [folder / "train/a/0.png", folder / "train/b/0.png"]
    assert survey.announcement(files) is None
    assert survey.announcement(files, least=100) == (
        "reading 2 files of 0.0 GB once: their bytes identify the data set"
    )


def test_the_same_bytes_have_one_fingerprint_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    before = describe(folder).fingerprint
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    assert describe(copy).fingerprint == before
    (copy / "train/a/0.png").rename(copy / "train/a/renamed.png")
    assert describe(copy).fingerprint == before


def test_other_pixels_of_one_size_and_time_have_another_fingerprint(folder: Path) -> None:
    path = picture(folder / "train/a/1.bmp", 10)
    state = path.stat()
    before = settled(folder)
    assert describe(folder).fingerprint == before.fingerprint
    picture(path, 11)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert describe(folder).fingerprint != before.fingerprint


def test_the_fingerprint_follows_classes_splits_and_the_way_of_reading(folder: Path, tmp_path: Path) -> None:
    before = describe(folder).fingerprint
    assert describe(folder, note="x", crop="none").fingerprint == before
    swapped = Path(shutil.copytree(folder, tmp_path / "swapped"))
    (swapped / "train/a/0.png").rename(swapped / "train/a/x.png")
    (swapped / "train/b/0.png").rename(swapped / "train/a/0.png")
    (swapped / "train/a/x.png").rename(swapped / "train/b/0.png")
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    (moved / "test/a/0.png").rename(moved / "test/a/1.png")
    shutil.copy(moved / "train/a/0.png", moved / "test/a/0.png")
    named = Path(shutil.copytree(folder, tmp_path / "named"))
    for split in ("train", "test"):
        (named / split / "a").rename(named / split / "A")
    assert len({before, *(describe(path).fingerprint for path in (swapped, moved, named))}) == 4

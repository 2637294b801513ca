"""Image files in folders: PATH/{train,test or val}/CLASS/FILE."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data.pictures import (
    VARYING,
    PictureParams,
    absent,
    decode,
    facts,
    listing_hash,
    looking_at,
    planned,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FolderImages", "ImageFolderParams", "describe", "load"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
FOLDERS = {"train": ("train",), "test": ("test", "val")}


class ImageFolderParams(PictureParams):
    """The folder of the images."""

    path: str = Field(min_length=1, description="folder with the folders train and test, or val")


def describe(params: ImageFolderParams) -> DataInfo:
    """Return the facts of the folder. Images may differ in size, so the suite must give image_size.

    The fingerprint covers names, sizes and times of files, not their contents.

    Raises:
        SuiteError: a folder is missing, or the splits have different classes.
    """
    with looking_at(params.path) as folder:
        missing = absent("PIL")
        if missing is None and not folder.exists():
            missing = f"{folder}: not found; put train/CLASS/*.jpg and test/CLASS/*.jpg there, or change path"
        if missing is not None:
            return planned(params, name=folder.name, missing=missing)
        return _facts(params, folder)


def _facts(params: ImageFolderParams, folder: Path) -> DataInfo:
    train, test = (_files(_split(folder, split)) for split in ("train", "test"))
    names = _class_names(folder, train, test)
    paths = [path for files in (train, test) for members in files.values() for path in members]
    channels = params.shape[0] if params.shape else 3
    return facts(
        params,
        name=folder.resolve().name,
        where=str(folder),
        shape=(channels, *VARYING[1:]),
        class_names=names,
        sizes={"train": sum(map(len, train.values())), "test": sum(map(len, test.values()))},
        fingerprint=hashlib.sha256(f"{names} {listing_hash(folder, paths)}".encode()).hexdigest(),
    )


def load(params: ImageFolderParams, split: str) -> FolderImages:
    """Return one split, "train" or "test".

    Raises:
        SuiteError: a folder is missing, or the splits have different classes.
    """
    with looking_at(params.path) as folder:
        files = {name: _files(_split(folder, name)) for name in ("train", "test")}
        names = _class_names(folder, files["train"], files["test"])
    number = {name: index for index, name in enumerate(names)}
    listed = [(path, number[name]) for name, paths in files[split].items() for path in paths]
    return FolderImages(listed, params.shape[0] if params.shape else 3, params.crop)


def _split(folder: Path, split: str) -> Path:
    for name in FOLDERS[split]:
        if (folder / name).is_dir():
            return folder / name
    raise SuiteError(f"{folder}: no folder {' or '.join(FOLDERS[split])} there")


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return class name -> image files. Both are sorted by name."""
    return {
        child.name: sorted(path for path in child.iterdir() if path.suffix.lower() in SUFFIXES)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _class_names(folder: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> tuple[str, ...]:
    if len(train) < 2:
        raise SuiteError(f"{folder / 'train'}: {len(train)} class folders; at least two are needed")
    if set(train) != set(test):
        odd = min(set(train) ^ set(test))
        have, lack = ("training", "test") if odd in train else ("test", "training")
        raise SuiteError(f"{folder}: class {odd!r} has a folder for {have}, but none for {lack}")
    for split, files in (("training", train), ("test", test)):
        empty = next((name for name, paths in files.items() if not paths), None)
        if empty is not None:
            raise SuiteError(
                f"{folder}: class {empty!r} has no {split} images; allowed are {', '.join(sorted(SUFFIXES))}"
            )
    return tuple(train)


class FolderImages:
    """The images of one split: paths and labels. Each call reads one file."""

    def __init__(self, listed: list[tuple[Path, int]], channels: int, crop: str) -> None:
        import numpy as np

        self._paths = [path for path, _ in listed]
        self.labels: NDArray[np.int64] = np.array([label for _, label in listed], np.int64)
        self._channels = channels
        self._crop = crop

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read the file and return its image as uint8 [height, width, channels]. Raises ``SuiteError`` on failure."""
        path = self._paths[index]
        return decode(path, self._channels, self._crop, str(path))

    def __len__(self) -> int:
        return len(self.labels)

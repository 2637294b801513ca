"""Image files in folders: PATH/{train,test or val}/CLASS/FILE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from harness.errors import SuiteError
from harness.types import DataInfo
from harness_data.listing import Listing, listed
from harness_data.names import name_notes, ordered, shown
from harness_data.pictures import VARYING, PictureParams, absent, facts, looking_at, planned
from harness_data.pixels import SUFFIXES, decode, read_file
from harness_data.survey import content_of, notes_of, survey_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FolderImages", "ImageFolderParams", "describe", "load"]

FOLDERS = {"train": ("train",), "test": ("test", "val")}


class ImageFolderParams(PictureParams):
    """The folder of the images."""

    path: str = Field(min_length=1, description="folder with the folders train and test, or val")


def describe(params: ImageFolderParams) -> DataInfo:
    """Return the facts of the folder. Images may differ in size, so the suite must give image_size.

    The fingerprint covers the bytes of the pictures, their order and their classes, not names and times of files. All
    bytes are read once; while no file changes, the result is remembered.

    Raises:
        SuiteError: a folder is missing, the splits have different classes, or a picture cannot be read.
    """
    with looking_at(params.path) as folder:
        missing = absent("PIL")
        if missing is None and not folder.exists():
            missing = f"{folder}: not found; put train/CLASS/*.jpg and test/CLASS/*.jpg there, or change path"
        if missing is not None:
            return planned(params, name=folder.name, missing=missing)
        return _facts(params, folder)


def _facts(params: ImageFolderParams, folder: Path) -> DataInfo:
    splits = {split: listed(_split(folder, split)) for split in ("train", "test")}
    names = _class_names(folder, splits)
    for listing in splits.values():
        listing.classes = {name: listing.classes[name] for name in names}
    channels = params.shape[0] if params.shape else 3

    def pictures(split: str) -> Iterator[tuple[str, bytes]]:
        for path in splits[split].paths():
            yield shown(path), read_file(path)

    paths = [path for listing in splits.values() for path in listing.paths()]
    sizes = {split: {name: len(files) for name, files in of.classes.items()} for split, of in splits.items()}
    survey = survey_of(paths, ["imagefolder", sizes], pictures)
    content = [sizes, survey.content, content_of(survey, channels)]
    notes = [note for split, listing in splits.items() for note in listing.notes(_split(folder, split))]
    if all((folder / name).is_dir() for name in FOLDERS["test"]):
        notes.append("tested on the folder test, not val")
    return facts(
        params,
        name=folder.resolve().name,
        where=str(folder),
        shape=(channels, *VARYING[1:]),
        class_names=names,
        sizes={split: sum(counts.values()) for split, counts in sizes.items()},
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        notes=(*notes_of(survey, channels), *notes, *name_notes(names)),
    )


def load(params: ImageFolderParams, split: str) -> FolderImages:
    """Return one split, "train" or "test".

    Raises:
        SuiteError: a folder is missing, or the splits have different classes.
    """
    with looking_at(params.path) as folder:
        splits = {name: listed(_split(folder, name)) for name in FOLDERS}
        names = _class_names(folder, splits)
    pairs = [(path, number) for number, name in enumerate(names) for path in splits[split].classes[name]]
    return FolderImages(pairs, params.shape[0] if params.shape else 3, params.crop)


def _split(folder: Path, split: str) -> Path:
    for name in FOLDERS[split]:
        if (folder / name).is_dir():
            return folder / name
    inner = [child for child in sorted(folder.iterdir()) if (child / FOLDERS[split][0]).is_dir()]
    hint = f"; there is one in {shown(str(inner[0]))}" if inner else ""
    raise SuiteError(f"{folder}: no folder {' or '.join(FOLDERS[split])} there{hint}")


def _class_names(folder: Path, splits: dict[str, Listing]) -> tuple[str, ...]:
    """Return the classes in order: by number if all are numbers, else by name."""
    train, test = (splits[split].classes for split in ("train", "test"))
    if len(train) < 2:
        raise SuiteError(f"{folder / 'train'}: a data set needs at least two class folders, not {len(train)}")
    if set(train) != set(test):
        odd = min(set(train) ^ set(test))
        have, lack = ("training", "test") if odd in train else ("test", "training")
        alike = sorted(name for name in (set(train) ^ set(test)) - {odd} if name.casefold() == odd.casefold())
        hint = f"; there is {alike[0]!r}" if alike else ""
        raise SuiteError(f"{folder}: class {odd!r} has a folder for {have}, but none for {lack}{hint}")
    for split, files in (("training", train), ("test", test)):
        empty = next((name for name, paths in files.items() if not paths), None)
        if empty is not None:
            raise SuiteError(
                f"{folder}: class {empty!r} has no {split} images; allowed are {', '.join(sorted(SUFFIXES))}"
            )
    return tuple(ordered(train))


class FolderImages:
    """The images of one split: paths and labels. Each call reads one file."""

    def __init__(self, listed: list[tuple[str, int]], channels: int, crop: str) -> None:
        import numpy as np

        self._paths = [path for path, _ in listed]
        self.labels: NDArray[np.int64] = np.array([label for _, label in listed], np.int64)
        self._channels = channels
        self._crop = crop

    def image(self, index: int) -> NDArray[np.uint8]:
        """Read the file and return its image as uint8 [height, width, channels]. Raises ``SuiteError`` on failure."""
        path = self._paths[index]
        return decode(Path(path), self._channels, self._crop, shown(path))

    def __len__(self) -> int:
        return len(self.labels)

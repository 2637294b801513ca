"""Made data in the layouts of the data sets that the papers used: the hub's cache, and folders of pictures.

Columns, splits, classes and kinds of files are those of the real data sets, and were typed from their cards. Images are
few, and most are smaller.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness_timm.catalogue import imagenet_names

__all__ = ["FOLDERS", "HUB", "Folder", "Repo", "make_folder", "make_repo", "repo_folder"]

COMMIT = "0" * 40


@dataclass(frozen=True)
class Repo:
    """A data set of the hub: its columns, its labels with their numbers of classes, and its splits.

    ``splits`` has the number of images per class of each split. ``side`` is the height and width of all images, or None
    if they differ.
    """

    image: str
    labels: dict[str, int]
    splits: dict[str, int]
    side: int | None
    format: str = "PNG"


@dataclass(frozen=True)
class Folder:
    """A data set in folders train/CLASS and test/CLASS.

    ``size`` is (height, width) of all images, or None if they differ. ``per_class`` are the images of each class for
    training; there is one for testing. With ``wordnet`` the classes have ImageNet's names, n01440764 and so on.
    """

    classes: int
    size: tuple[int, int] | None = None
    grey: bool = False
    per_class: int = 1
    wordnet: bool = False

    @property
    def names(self) -> list[str]:
        """Return the names of the classes."""
        return list(imagenet_names(self.classes)[0]) if self.wordnet else _names(self.classes)


HUB = {
    "uoft-cs/cifar10": Repo("img", {"label": 10}, {"train": 6, "test": 2}, 32),
    "uoft-cs/cifar100": Repo("img", {"fine_label": 100, "coarse_label": 20}, {"train": 3, "test": 1}, 32),
    "ILSVRC/imagenet-1k": Repo(
        "image", {"label": 1000}, {"train": 2, "validation": 1, "test": 0}, None, "JPEG"
    ),
}
"""Repository -> its layout. The labels of ImageNet's test split are all -1, so no suite may read it."""

FOLDERS = {
    "data/cat-and-dog": Folder(37, per_class=2),
    "data/nature-scene": Folder(6, (150, 150), per_class=4),
    "data/animal": Folder(90),
    "data/stanford-cars": Folder(196),
    "data/oxford-102-flower": Folder(102),
    "data/imagenet-1k": Folder(1000, wordnet=True),
    "data/gtzan": Folder(10, (128, 1291), grey=True, per_class=4),
}
"""Path that the suites give -> the layout of the folder."""


def repo_folder(home: Path, repo: str) -> Path:
    """Return the folder of a data set in the hub's cache below ``home`` (``HF_HOME``)."""
    return home / "hub" / f"datasets--{repo.replace('/', '--')}"


def make_repo(home: Path, repo: str) -> None:
    """Write the data set ``repo`` into the hub's cache below ``home``."""
    layout, folder = HUB[repo], repo_folder(home, repo)
    data = folder / "snapshots" / COMMIT / "data"
    data.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    classes = next(iter(layout.labels.values()))
    for split, per_class in layout.splits.items():
        labels = [index % classes for index in range(classes * per_class)] or [-1] * 8
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = [
            {"bytes": _encoded(label, index, layout), "path": None} for index, label in enumerate(labels)
        ]
        columns = {name: [label % count for label in labels] for name, count in layout.labels.items()}
        if not per_class:
            columns = dict.fromkeys(layout.labels, labels)
        table = pa.table({layout.image: pa.array(images, kind), **columns})
        features = {
            layout.image: {"_type": "Image"},
            **{
                name: {"names": _names(count), "_type": "ClassLabel"} for name, count in layout.labels.items()
            },
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, data / f"{split}-00000-of-00001.parquet")


def make_folder(root: Path, path: str) -> None:
    """Write the folder ``path`` below ``root``."""
    layout = FOLDERS[path]
    for split, count in (("train", layout.per_class), ("test", 1)):
        for label, name in enumerate(layout.names):
            folder = root / path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = layout.size or (24 + index, 30 + label % 7)
                image = _picture(label, index, height, width, grey=layout.grey)
                image.save(folder / f"{index}.{'png' if layout.grey else 'jpg'}")


def _encoded(label: int, index: int, layout: Repo) -> bytes:
    height, width = (layout.side,) * 2 if layout.side else (40 + index % 9, 51)
    stream = io.BytesIO()
    _picture(label, index, height, width).save(stream, layout.format)
    return stream.getvalue()


def _picture(label: int, index: int, height: int, width: int, *, grey: bool = False) -> Image.Image:
    """Return a picture of the class's own colour; if ``grey``, a ramp from 0 at the left to 255 at the right.

    Some pixels differ from picture to picture.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = [label * 37 % 256, label * 91 % 256, label // 7 % 256]
    if grey:
        pixels[:] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    pixels[:2, :8] = (label * 11 + index) % 200
    return Image.fromarray(pixels).convert("L" if grey else "RGB")


def _names(count: int) -> list[str]:
    return [f"class{number:04d}" for number in range(count)]

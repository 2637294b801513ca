"""What all pictures of a data set have in common: each file is read once, and the result is remembered."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from harness.errors import SuiteError, first_line
from harness.methods import remembered
from harness_data.names import shown
from harness_data.pixels import BACKGROUND, header_of

__all__ = ["Survey", "announcement", "channels_of", "content_of", "notes_of", "survey_of"]

TRAITS = {
    "turned": "EXIF rotation applied to {}",
    "transparent": f"alpha channel of {{}} composed on {BACKGROUND}",
    "frames": "first of several frames read of {}",
    "profile": "colour profile of {} not applied (not sRGB)",
}
"""The traits of pictures that a reader of the figures should know, and the words for them. Each changes pixels, so it
is in the fingerprint."""

SPLITS = ("train", "test")
LONG_BYTES = 4 * 10**9
"""Reading data of this size takes so long that a line says so."""


@dataclass(frozen=True)
class Survey:
    """What reading all pictures of a data set has shown.

    ``counts`` and ``sizes``: of each split, the pictures and their encoded bytes. ``grey``: pictures without colours.
    ``codecs`` and ``traits``: how many pictures have each. ``content``: hash of the bytes of all pictures in their
    order. ``again``: test pictures whose bytes a training picture has too. ``twice``: training pictures whose bytes an
    earlier one has. ``files``: hashes of whole files in their order, where they hold more than pictures.
    """

    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    grey: int
    codecs: Mapping[str, int]
    traits: Mapping[str, int]
    content: str
    again: int
    twice: int
    files: Sequence[str]

    @property
    def pictures(self) -> int:
        """The number of pictures of both splits."""
        return sum(self.counts.values())


def survey_of(
    files: Sequence[str | Path],
    about: object,
    pictures: Callable[[str], Iterable[tuple[str, bytes]]],
    *,
    hashed: Sequence[Path] = (),
) -> Survey:
    """Read all pictures of a data set, or return what is remembered of an earlier reading of the same files.

    Args:
        files: all files of the data set.
        about: a JSON value with what else chooses the pictures.
        pictures: split -> where a picture is, and its bytes, for each picture in order.
        hashed: the files of which the hash of all bytes is asked for.

    Raises:
        SuiteError: a picture or a file cannot be read.
    """

    def read() -> dict[str, object]:
        if words := announcement(files):
            print(words, file=sys.stderr)
        return asdict(_read(pictures, [_file_hash(path) for path in hashed]))

    try:
        return Survey(**remembered(files, [about, _code()], read))
    except OSError as error:
        raise SuiteError(f"{shown(str(error.filename))}: {error.strerror or first_line(error)}") from None


def announcement(files: Sequence[str | Path], least: int = LONG_BYTES) -> str | None:
    """Return what to tell a person who waits while all files are read, or None if that is short."""
    size = sum(os.stat(path).st_size for path in files)
    if size < least:
        return None
    return f"reading {len(files):,} files of {size / 1e9:,.1f} GB once: their bytes identify the data set"


def _read(pictures: Callable[[str], Iterable[tuple[str, bytes]]], files: Sequence[str]) -> Survey:
    codecs, traits, grey = Counter[str](), Counter[str](), 0
    hashes: dict[str, list[bytes]] = {}
    sizes = Counter[str]()
    for split in SPLITS:
        hashes[split] = []
        for where, data in pictures(split):
            header = header_of(data, where)
            codecs[header.codec] += 1
            traits.update(header.traits)
            grey += header.grey
            sizes[split] += len(data)
            hashes[split].append(hashlib.sha256(data).digest())
    train = set(hashes["train"])
    return Survey(
        counts={split: len(members) for split, members in hashes.items()},
        sizes={split: sizes[split] for split in SPLITS},
        grey=grey,
        codecs=dict(codecs.most_common()),
        traits={name: traits[name] for name in TRAITS if traits[name]},
        content=hashlib.sha256(b"".join([*hashes["train"], b"test", *hashes["test"]])).hexdigest(),
        again=sum(picture in train for picture in hashes["test"]),
        twice=len(hashes["train"]) - len(train),
        files=files,
    )


def channels_of(survey: Survey) -> int:
    """Return the channels that hold all pictures: 1 if all are grey, else 3."""
    return 1 if survey.grey == survey.pictures else 3


def content_of(survey: Survey, channels: int) -> dict[str, object]:
    """Return what a fingerprint must hold beside the bytes: how they become pixels, where that is not plain.

    It is empty for upright, opaque pictures of one kind.
    """
    mixed = {"grey": survey.grey, "channels": channels} if 0 < survey.grey < survey.pictures else {}
    return {**survey.traits, **mixed}


def notes_of(survey: Survey, channels: int) -> Iterator[str]:
    """Yield what a reader of the figures should know about the pictures, with counts."""
    codecs = survey.codecs
    yield "images stored as " + (
        ", ".join(f"{name} ({count:,})" for name, count in codecs.items())
        if len(codecs) > 1
        else "".join(codecs)
    )
    if channels == 3 and survey.grey:
        yield f"{_of(survey.grey, survey.pictures)} are grey, read as RGB"
    if channels == 1 and survey.grey < survey.pictures:
        yield f"{_of(survey.pictures - survey.grey, survey.pictures)} are in colour, read as grey"
    for name, count in survey.traits.items():
        yield TRAITS[name].format(_of(count, survey.pictures))
    if survey.again:
        yield f"{_of(survey.again, survey.counts['test'], 'test ')} have the bytes of a training picture"
    if survey.twice:
        yield f"{_of(survey.twice, survey.counts['train'], 'training ')} have the bytes of an earlier one"


def _of(count: int, total: int, kind: str = "") -> str:
    return f"{count:,} of {total:,} {kind}pictures"


def _file_hash(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            whole.update(chunk)
    return whole.hexdigest()


@cache
def _code() -> list[str]:
    """Return what changes when the reading of pictures changes: this package's source, and Pillow's version."""
    import PIL

    sources = sorted(Path(__file__).parent.glob("*.py"))
    return [PIL.__version__, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in sources)]

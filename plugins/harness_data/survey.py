"""What all pictures of a data set have in common: each file is read once, and the result is remembered."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from harness.methods import remembered
from harness_data.pixels import BACKGROUND, header_of

__all__ = ["Survey", "channels_of", "content_of", "notes_of", "survey"]

TRAITS = {
    "turned": "EXIF rotation applied to {}",
    "transparent": f"alpha channel of {{}} composed on {BACKGROUND}",
    "frames": "first of several frames read of {}",
    "profile": "colour profile of {} not applied (not sRGB)",
}
"""The traits of pictures that a reader of the figures should know, and the words for them. Each changes pixels, so it
is in the fingerprint."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Survey:
    """What reading all pictures of a data set has shown.

    ``content``: hash of the bytes of all pictures in their order. ``files``: hashes of whole files, where they hold
    more than pictures. ``again``: test pictures whose bytes a training picture has too. ``twice``: training pictures
    whose bytes an earlier one has.
    """

    pictures: int
    test: int
    grey: int
    codecs: Mapping[str, int]
    traits: Mapping[str, int]
    content: str
    again: int
    twice: int
    files: Mapping[str, str]


def survey(
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
        SuiteError: a picture cannot be read.
        OSError: a file cannot be read.
    """

    def read() -> dict[str, object]:
        return asdict(_read(pictures, {str(path): _file_hash(path) for path in hashed}))

    return Survey(**remembered(files, [about, _code()], read))


def _read(pictures: Callable[[str], Iterable[tuple[str, bytes]]], files: Mapping[str, str]) -> Survey:
    codecs, traits, grey = Counter[str](), Counter[str](), 0
    hashes: dict[str, list[bytes]] = {}
    for split in SPLITS:
        hashes[split] = []
        for where, data in pictures(split):
            header = header_of(data, where)
            codecs[header.codec] += 1
            traits.update(header.traits)
            grey += header.grey
            hashes[split].append(hashlib.sha256(data).digest())
    train = set(hashes["train"])
    return Survey(
        pictures=sum(map(len, hashes.values())),
        test=len(hashes["test"]),
        grey=grey,
        codecs=dict(codecs.most_common()),
        traits={name: traits[name] for name in TRAITS if traits[name]},
        content=hashlib.sha256(b"".join([*hashes["train"], b"test", *hashes["test"]])).hexdigest(),
        again=sum(picture in train for picture in hashes["test"]),
        twice=len(hashes["train"]) - len(train),
        files=files,
    )


def channels_of(found: Survey) -> int:
    """Return the channels that hold all pictures: 1 if all are grey, else 3."""
    return 1 if found.grey == found.pictures else 3


def content_of(found: Survey, channels: int) -> dict[str, object]:
    """Return what a fingerprint must hold beside the bytes: how they become pixels, where that is not plain.

    It is empty for upright, opaque pictures of one kind.
    """
    mixed = {"grey": found.grey, "channels": channels} if 0 < found.grey < found.pictures else {}
    return {**found.traits, **mixed}


def notes_of(found: Survey, channels: int) -> Iterator[str]:
    """Yield what a reader of the figures should know about the pictures, with counts."""
    codecs = found.codecs
    yield "images stored as " + (
        ", ".join(f"{name} ({count:,})" for name, count in codecs.items())
        if len(codecs) > 1
        else "".join(codecs)
    )
    if channels == 3 and found.grey:
        yield f"{_of(found.grey, found.pictures)} are grey, read as RGB"
    if channels == 1 and found.grey < found.pictures:
        yield f"{_of(found.pictures - found.grey, found.pictures)} are in colour, read as grey"
    for name, count in found.traits.items():
        yield TRAITS[name].format(_of(count, found.pictures))
    if found.again:
        yield f"{_of(found.again, found.test, 'test ')} have the bytes of a training picture"
    if found.twice:
        train = found.pictures - found.test
        yield f"{_of(found.twice, train, 'training ')} have the bytes of an earlier one"


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

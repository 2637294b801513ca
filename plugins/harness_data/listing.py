"""The picture files of a folder with one folder per class: which are read, and which are passed over."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import SuiteError
from harness_data.names import check_name, same_name, shown, some
from harness_data.pixels import SUFFIXES

__all__ = ["Listing", "listed"]

JUNK = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "desktop.ini"})
"""What systems leave in folders. It is passed over without a word, as are hidden folders and AppleDouble files."""


@dataclass
class Listing:
    """The files of one split. ``classes``: class -> paths of its pictures, sorted.

    ``nested``: how many of them are in a folder inside their class's folder. ``skipped``: paths of other files.
    ``outside``: paths of pictures that are in no class's folder. ``joined``: classes of which two folders were joined,
    because their names are the same text.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)
    nested: int = 0
    skipped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)

    def paths(self) -> Iterator[str]:
        """Yield the paths of all pictures, class by class."""
        for paths in self.classes.values():
            yield from paths

    def notes(self, folder: Path) -> Iterator[str]:
        """Yield what was passed over or joined, with counts and the first names inside ``folder``."""
        name = folder.name

        def inside(path: str) -> str:
            return shown(f"{name}/{Path(path).relative_to(folder).as_posix()}")

        if self.nested:
            yield f"{name}: pictures in folders inside class folders: {self.nested:,}"
        if self.outside:
            first = inside(self.outside[0])
            yield f"{name}: pictures skipped, in no class folder: {len(self.outside):,} (first {first})"
        if self.skipped:
            kinds = Counter(os.path.splitext(path)[1].lower() or "no ending" for path in self.skipped)
            counts = some(f"{count:,} {shown(kind)}" for kind, count in kinds.most_common())
            first = inside(self.skipped[0])
            yield f"{name}: files skipped, no pictures or hidden: {len(self.skipped):,} ({counts}; first {first})"
        if self.joined:
            yield f"{name}: class folders whose names are one text in two Unicode forms are joined: {some(self.joined)}"


def listed(folder: Path) -> Listing:
    """Return the pictures below the folder of a split, which holds one folder per class.

    Folders inside a class's folder belong to the class. Links are followed.

    Raises:
        SuiteError: a link leads nowhere or back, a picture is no regular file, or a class has a name that cannot
            be used.
        OSError: a folder cannot be read.
    """
    listing = Listing()
    for entry in _entries(folder):
        status = _status(entry, wanted=True)
        if status is not None and stat.S_ISDIR(status.st_mode):
            check_name(entry.name, folder)
            name = same_name(entry.name)
            if name in listing.classes:
                listing.joined.append(repr(name))
            files = listing.classes.setdefault(name, [])
            _collect(entry.path, (status.st_dev, status.st_ino), files, listing)
            files.sort(key=lambda path: same_name(path).split(os.sep))  # the same order on every system
        elif _is_picture(entry.name):
            listing.outside.append(entry.path)
    listing.skipped.sort()
    return listing


def _collect(folder: str, identity: tuple[int, int], files: list[str], listing: Listing) -> None:
    """Add the pictures in the folder of a class and below it to ``files``. ``identity``: its device and inode."""
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, (identity,))]
    while waiting:
        path, above = waiting.pop()
        for entry in _entries(path):
            status = _status(entry, wanted=_is_picture(entry.name) or "." not in entry.name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                inner = (status.st_dev, status.st_ino)
                if inner in above:
                    raise SuiteError(f"{shown(entry.path)}: a link to a folder that holds it")
                waiting.append((entry.path, (*above, inner)))
            elif not _is_picture(entry.name):
                if not entry.name.startswith("."):
                    listing.skipped.append(entry.path)
            elif status is None or not stat.S_ISREG(status.st_mode):
                raise SuiteError(f"{shown(entry.path)}: not a regular file")
            elif entry.name.startswith("."):
                listing.skipped.append(entry.path)
            else:
                files.append(entry.path)
                listing.nested += len(above) > 1


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not _is_junk(entry)), key=lambda entry: entry.name)


def _is_junk(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith("._") or (entry.name.startswith(".") and entry.is_dir())
    return hidden or entry.name in JUNK


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _status(entry: os.DirEntry[str], wanted: bool) -> os.stat_result | None:
    """Return the status of what an entry is or links to; None of a link that leads nowhere, unless it is ``wanted``.

    Raises:
        SuiteError: it is wanted.
    """
    try:
        return entry.stat()
    except OSError as error:
        if not wanted:
            return None
        reason = error.strerror
        if isinstance(error, FileNotFoundError) and entry.is_symlink():
            reason = f"a link to {shown(os.readlink(entry.path))}, which is not there"
        raise SuiteError(f"{shown(entry.path)}: {reason}") from None

"""The index of a results folder: what was computed from its records and samples, to be found again fast.

The index can be deleted at any time. A file of it counts only if all of this holds:

- this user's harness wrote it (a keyed hash over name and content), so that nobody else's figures are shown;
- the same code wrote it, with the same versions of Python and numpy;
- what it was computed from is unchanged. Who reads a file checks that.

Any other file is treated as absent. A folder that cannot be written has no index. The same holds if the folder of the
index is a symbolic link, since a results folder from someone else can have one that leads anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_core

from harness.store.files import open_regular, read_regular, write_atomically
from harness.store.hashing import FileState, core_hash
from harness.store.user_key import keyed_hash, user_key

__all__ = ["FOLDER", "LEAST", "Index", "content_hash", "state_of"]

FOLDER = ".index"
"""The folder of the index inside a results folder. It has a ``.gitignore`` that leaves it out of git."""

LEAST = 500
"""Records from which on a folder has an index. Fewer are read in the time in which Python starts."""

MOST_FILES = 8
"""Tables in an index. The oldest ones are deleted when another one is written."""

_DELETED = re.compile(r"board-\w+\.json|\.(answers|board-\w+)\.json\.[0-9a-f]{16}")
"""Names of the files that may be deleted: tables, and what a write leaves that was killed."""

_MOST_BYTES = 2**30
_HASH = 64
_SOURCE = ("machine/energy", "results", "stats", "store", "types")
"""The code on which the content of an index depends."""


class Index:
    """The index of a results folder.

    Args:
        folder: the results folder.
        key: the key of the user (default: :func:`harness.store.user_key.user_key`). Without a key there is no index.
    """

    def __init__(self, folder: Path, key: bytes | None = None) -> None:
        self._folder = folder / FOLDER
        self._key = user_key() if key is None else key
        self._code = f"{core_hash(*_SOURCE)} {sys.version} {np.__version__}".encode()

    def read(self, name: str) -> Any:
        """Return the JSON value that was written under a name; None if there is none that counts."""
        if self._key is None:
            return None
        try:
            content = read_regular(self._folder / name, _MOST_BYTES)
            if content[:_HASH] != self._hash(self._key, name, content[_HASH:]):
                return None
            return pydantic_core.from_json(content[_HASH:])
        except (OSError, ValueError):
            return None

    def write(self, name: str, value: Any) -> None:
        """Write a JSON value in one step, if the folder can be written."""
        if self._key is None or self._folder.is_symlink():
            return
        content = json.dumps(value, separators=(",", ":")).encode()
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            if not (self._folder / ".gitignore").exists():  # also after a disk was full
                write_atomically(self._folder / ".gitignore", "*\n")
            write_atomically(self._folder / name, self._hash(self._key, name, content) + content)
            self._prune()

    def _hash(self, key: bytes, name: str, content: bytes) -> bytes:
        return keyed_hash(key, self._code, name.encode(), content).encode()

    def _prune(self) -> None:
        files = [entry for entry in os.scandir(self._folder) if _DELETED.fullmatch(entry.name)]
        files.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns, reverse=True)
        for entry in files[MOST_FILES:]:
            os.unlink(entry)


def content_hash(path: Path, most: int) -> str:
    """Return the SHA-256 of a file's content, or ``-`` if there is no such file.

    Raises:
        OSError: it cannot be read, or has more than ``most`` bytes.
    """
    whole = hashlib.sha256()
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > most:
                raise OSError(errno.EFBIG, f"has more than {most:,} bytes", str(path))
            while block := file.read(2**20):
                whole.update(block)
    except FileNotFoundError:
        return "-"
    return whole.hexdigest()


def state_of(path: str) -> FileState | None:
    """Return the state of a file, or None if it cannot be read. A write always changes the state: it sets ctime."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return FileState(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

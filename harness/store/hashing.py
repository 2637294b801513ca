"""Hashes of code, files and JSON values, which are the identity of artifacts and results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FileState", "core_hash", "digest", "file_state", "files_hash", "hash_files"]


class FileState(NamedTuple):
    """The state of a file, which differs after each write. A program can set mtime to any value, but not ctime."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def file_state(path: str | Path) -> FileState:
    """Return the state of a file. For a link, it is the state of the file to which the link points.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return FileState(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def files_hash(paths: Iterable[Path]) -> str:
    """Return the hashes of the contents of data files, in one text. A missing file counts as ``-``.

    A process reads a file again only if its state has changed.
    """
    return "".join(_file_hash(path, file_state(path)) if path.is_file() else "-" for path in paths)


@cache
def _file_hash(path: Path, state: FileState) -> str:
    with path.open("rb") as file:
        whole = hashlib.sha256()
        while block := file.read(2**20):
            whole.update(block)
    return whole.hexdigest()[:32]


@cache
def core_hash(*names: str) -> str:
    """Return the hash of the core's Python files at ``names``: packages or files, relative to ``harness/``."""
    root = Path(__file__).parents[1]
    files: set[Path] = set()
    for name in names:
        path = root / name
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return hash_files({path.relative_to(root).as_posix(): path for path in files})


def hash_files(files: Mapping[str, Path]) -> str:
    """Return one hash of all names, sizes and contents of files, 32 hex digits."""
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        whole.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        whole.update(content)
    return whole.hexdigest()[:32]


def digest(value: Any) -> str:
    """Return the key of a JSON value: the first 32 hex digits of the SHA-256 of its canonical text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""Hashes of code, files and JSON values, which are the identity of artifacts and results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["core_hash", "digest", "files_hash", "hash_files"]


def files_hash(paths: Iterable[Path]) -> str:
    """Return the hashes of the contents of data files, in one text. A missing file counts as ``-``."""
    return "".join(_file_hash(path, path.stat().st_mtime_ns) if path.is_file() else "-" for path in paths)


@cache
def _file_hash(path: Path, changed: int) -> str:
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

"""Hashes of code, files and JSON values: the identity of what is made."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["core_hash", "digest", "files_hash", "source_hash"]


@cache
def source_hash(module: str) -> str:
    """Hash of the Python files of the package that ``module`` is in: code that changes, changes keys."""
    package = module.partition(".")[0]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        return "unknown"
    origin = Path(found.origin)
    paths = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return _hash_files(paths)


def files_hash(paths: Iterable[Path]) -> str:
    """Hash of the content of data files; one that is not there has an answer of its own."""
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
    return _hash_files(sorted(files))


def _hash_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.name.encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()[:32]


def digest(value: Any) -> str:
    """Key of a JSON value: the first 32 hex digits of the SHA-256 of its canonical text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""Results that were computed from the bytes of files, remembered while no file changes.

Reading a large data set takes minutes, and every process needs the result. It is therefore kept under the state of
the files: path, inode, size, time of change of the content (mtime) and of the inode (ctime). A program can set mtime
to any value, but a write always sets ctime to the current time. So other bytes of the same size and mtime are
noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness.store.files import default_cache, read_regular, write_atomically
from harness.store.hashing import digest, file_state
from harness.types.json import JsonObject

__all__ = ["FOLDER", "SETTLED_S", "remembered"]

FOLDER = "data"
"""The folder of remembered results inside the cache."""

SETTLED_S = 2.0
"""A file system's clock is coarse (FAT: 2 s), so two writes within this time may leave the same state. Nothing is
remembered of a file that changed later than this many seconds ago."""

_MOST = 64
_MOST_BYTES = 64 * 2**20
_known: dict[Path, JsonObject] = {}


def remembered(
    files: Iterable[str | os.PathLike[str]],
    about: object,
    make: Callable[[], JsonObject],
    *,
    cache: Path | None = None,
    settled_s: float = SETTLED_S,
) -> JsonObject:
    """Return ``make()``, which is called only if there is no result of the same files and the same ``about``.

    Args:
        files: all files on which the result depends.
        about: a JSON value with all else on which it depends: parameters, and the code that reads.
        make: computes the result.
        cache: the cache's folder (default: that of the store). If it cannot be written, only this process remembers.
        settled_s: a result is kept if no file changed within this many seconds before ``make`` was called.

    Raises:
        OSError: a file is not there.
    """
    paths = [os.path.abspath(path) for path in files]
    started_ns = time.time_ns()
    state, changed_ns = _state(paths)
    path = (default_cache() if cache is None else cache) / FOLDER / f"{digest([about, state])}.json"
    if path in _known:
        return _known[path]
    value = _read(path)
    if value is None:
        value = make()
        if changed_ns > started_ns - settled_s * 1e9 or _state(paths)[0] != state:
            return value
        _write(path, value)
    _known[path] = value
    for oldest in list(_known)[:-_MOST]:
        del _known[oldest]
    return value


def _state(paths: Sequence[str]) -> tuple[str, int]:
    """Return a hash of the files' paths and states, and the latest ctime in nanoseconds."""
    whole, newest = hashlib.sha256(), 0
    for path in paths:
        state = file_state(path)
        newest = max(newest, state.ctime_ns)
        whole.update(f"{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest(), newest


def _read(path: Path) -> JsonObject | None:
    """Return a kept result, or None if there is none, or if it is not what was written."""
    try:
        kept = json.loads(read_regular(path, _MOST_BYTES))
        value = kept["value"]
        return value if isinstance(value, dict) and digest(value) == kept["digest"] else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, value: JsonObject) -> None:
    with contextlib.suppress(OSError):  # without a cache that can be written, each process computes it
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"digest": digest(value), "value": value}))

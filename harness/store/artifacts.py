"""The content-addressed store of trained, compressed, partitioned and exported models.

An artifact is a folder named by its key. It is written under another name and then renamed, so it is complete or
absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.errors import StorageError
from harness.store.files import sync_tree
from harness.store.remembered import FOLDER
from harness.types.artifacts import About
from harness.types.json import JsonObject
from harness.types.plain import from_json

__all__ = ["Store", "Stored"]

M = TypeVar("M")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""The error numbers of a disk that accepts no more data."""


@dataclass(frozen=True)
class Stored:
    """One artifact: its key, the time when it was made, its size in bytes, and a description."""

    key: str
    made: float
    size: int
    about: About


class Store:
    """The folders of the store.

    ``ROOT/artifacts/KEY/`` is an artifact. ``ROOT/work/KEY/`` has the checkpoints of an artifact in progress.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artifacts = root / "artifacts"
        self.workplace = root / "work"
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            self.workplace.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use the cache folder {root}: {error.strerror or error}") from None

    def has(self, key: str) -> bool:
        """Return whether the artifact ``key`` is complete."""
        return (self.artifacts / key / "meta.json").is_file()

    def folder(self, key: str) -> Path:
        """Return the folder of a finished artifact.

        Its modification time is set to now, as the time of its last use.
        """
        path = self.artifacts / key
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def meta(self, key: str, kind: type[M]) -> M:
        """Return the content of an artifact's ``meta.json`` as a value of type ``kind``.

        Raises:
            StorageError: the artifact is damaged, or is not of this kind.
        """
        try:
            return from_json(kind, self._meta(self.folder(key)))
        except ValidationError as error:
            first = error.errors()[0]
            raise self.damaged(key, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _meta(self, folder: Path) -> JsonObject:
        try:
            meta = json.loads((folder / "meta.json").read_bytes())
        except ValueError:
            meta = None
        if not isinstance(meta, dict):
            raise self.damaged(folder.name, "meta.json is no JSON object")
        return meta

    def damaged(self, key: str, why: str) -> StorageError:
        """Return the error for an artifact that cannot be used. Its message says how to make the artifact again."""
        return StorageError(
            f"artifact {key[:12]} in {self.root} is damaged: {why}; `harness cache clear {key[:12]}` lets it be made again"
        )

    def workdir(self, key: str) -> Path:
        """Return a folder that survives a kill, for the checkpoints of a step in progress."""
        path = self.workplace / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[Path | None]:
        """Yield a folder to fill (``meta.json`` included), or ``None`` if the artifact exists already.

        A lock per key keeps two runs from making the same artifact at the same time.

        Raises:
            StorageError: the disk is full or not writable. No incomplete artifact remains. Other errors of the caller
                are raised unchanged.
        """
        lock_path = self.workplace / f"{key}.lock"
        with lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.has(key):
                yield None
                return
            # This process has the lock, so any folder here is from a process that was killed.
            for left in self.workplace.glob(f"{key}.*/"):
                shutil.rmtree(left, ignore_errors=True)
            aside = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.workplace))
            filled = False
            try:
                yield aside
                filled = True
                sync_tree(aside)
                shutil.rmtree(self.artifacts / key, ignore_errors=True)  # an artifact without meta.json
                aside.rename(self.artifacts / key)
            except OSError as error:
                inside = str(error.filename or "").startswith(str(aside))
                if not (filled or inside or error.errno in _FULL):
                    raise
                raise StorageError(
                    f"cannot write {self.artifacts / key}: {error.strerror or error}"
                ) from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(self.workplace / key, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock_path.unlink()

    def stored(self) -> list[Stored]:
        """Return all artifacts, the last used first. A folder without a readable ``meta.json`` is left out."""
        artifacts = []
        for path in self.artifacts.iterdir():
            try:
                about = self._meta(path).get("about")
            except OSError:
                continue
            except StorageError:
                about = None
            about = about if isinstance(about, dict) else {"label": "damaged"}
            stage, entry, label = (str(about.get(name, "")) for name in ("stage", "entry", "label"))
            size = sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
            artifacts.append(
                Stored(path.name, path.stat().st_mtime, size, About(stage=stage, entry=entry, label=label))
            )
        return sorted(artifacts, key=lambda stored: stored.made, reverse=True)

    def clear(self, keys: list[str] | None = None) -> int:
        """Delete artifacts (all, or those named), leftovers and what is remembered. Return the bytes freed by artifacts."""
        freed = 0
        for item in self.stored():
            if keys is None or item.key in keys:
                shutil.rmtree(self.artifacts / item.key, ignore_errors=True)
                freed += item.size
        if keys is None:
            shutil.rmtree(self.root / FOLDER, ignore_errors=True)
            for path in self.workplace.iterdir():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return freed

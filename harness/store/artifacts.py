"""The content-addressed store of trained, compressed, partitioned and exported models.

An artifact is a folder named by its key. It is written under another name and then renamed, so it is complete or
absent. The hash of each of its files is kept with it, and is checked when a process uses the artifact for the first
time. A damaged artifact is moved to ``ROOT/damaged``, and is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.errors import StorageError
from harness.store.files import read_regular, sync_tree
from harness.store.full_disk import why_unwritten
from harness.store.locks import lock
from harness.store.remembered import FOLDER
from harness.store.sealed import SEAL, Damage, State, check, seal
from harness.types.artifacts import About
from harness.types.json import JsonObject
from harness.types.plain import from_json

__all__ = ["Store", "Stored"]

M = TypeVar("M")


_MOST_META_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Stored:
    """One artifact: its key, the time of its last use, its size in bytes, and a description.

    ``usable``: whether its files have hashes. Version 0.1.0 kept none; its artifacts are made again.
    """

    key: str
    made: float
    size: int
    about: About
    usable: bool


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Store:
    """The folders of the store.

    ``ROOT/artifacts/KEY/`` is an artifact. ``ROOT/work/KEY/`` has the checkpoints of an artifact in progress.

    The folders are made when something is written. ``report`` is called with a line for each damaged artifact.
    """

    def __init__(self, root: Path, report: Callable[[str], None] = _warn) -> None:
        self.root = root
        self.artifacts = root / "artifacts"
        self.workplace = root / "work"
        self.damaged = root / "damaged"
        self._report = report
        self._checked: dict[str, State] = {}

    def create(self) -> None:
        """Make the folders.

        Raises:
            StorageError: they cannot be made.
        """
        with _storage(f"cannot use the cache folder {self.root}"):
            self.artifacts.mkdir(parents=True, exist_ok=True)
            self.workplace.mkdir(parents=True, exist_ok=True)

    # --- reading

    def has(self, key: str) -> bool:
        """Return whether the artifact ``key`` is there. Its files are not read: :meth:`usable` checks them."""
        return (self.artifacts / key / SEAL).is_file()

    def usable(self, key: str) -> bool:
        """Return whether the artifact ``key`` is there and undamaged. A damaged one is reported and set aside.

        Raises:
            StorageError: it cannot be read, or not be set aside.
        """
        if self._damage(key) is None:
            return True
        if os.path.lexists(self.artifacts / key):
            with self._locked(key, wait=False) as locked:
                if locked:  # else another process makes it
                    return self._usable(key)
        return False

    def folder(self, key: str) -> Path:
        """Return the folder of an artifact, after a check of its files.

        Its modification time is set to now, as the time of its last use.

        Raises:
            StorageError: the artifact is absent or damaged. A damaged one is set aside.
        """
        if not self.usable(key):
            raise StorageError(
                f"artifact {key[:12]} is not in {self.artifacts} (any more): the same command makes it again"
            )
        path = self.artifacts / key
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def meta(self, key: str, kind: type[M]) -> M:
        """Return the content of an artifact's ``meta.json`` as a value of type ``kind``.

        Raises:
            StorageError: the artifact is absent or damaged, or is not of this kind.
        """
        meta = _meta(self.folder(key))
        if meta is None:
            raise self.unreadable(key, "meta.json is no JSON object")
        try:
            return from_json(kind, meta)
        except ValidationError as error:
            first = error.errors()[0]
            raise self.unreadable(key, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def unreadable(self, key: str, why: str) -> StorageError:
        """Return the error that says that an artifact, though undamaged, cannot be used, and how to make it again."""
        return StorageError(
            f"artifact {key[:12]} in {self.root} cannot be used: {why}; `harness cache clear {key[:12]}` lets it be "
            "made again"
        )

    # --- writing

    def workdir(self, key: str) -> Path:
        """Return a folder that survives a kill, for the checkpoints of a step in progress.

        Raises:
            StorageError: it cannot be made.
        """
        path = self.workplace / key
        with _storage(f"cannot use {path}"):
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
        self.create()
        with self._locked(key):
            if self._usable(key):
                yield None
                return
            # This process has the lock, so any folder here is from a process that was killed.
            for left in self.workplace.glob(f"{key}.*/"):
                shutil.rmtree(left, ignore_errors=True)
            target = self.artifacts / key
            with _storage(f"cannot write {target}"):
                aside = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.workplace))
            filled = False
            try:
                yield aside
                filled = True
                seal(aside)
                sync_tree(aside)
                aside.rename(target)
            except Exception as error:
                reason = why_unwritten(error, aside, finished=filled)
                if reason is None:
                    raise
                raise StorageError(f"cannot write {target}: {reason}") from error
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(self.workplace / key, ignore_errors=True)

    def put_aside(self, path: Path, why: str) -> None:
        """Move a damaged file of :meth:`workdir` into ``ROOT/damaged``, and report it.

        Raises:
            StorageError: it cannot be moved.
        """
        target = self._move(path, f"{path.parent.name}-{path.name}", why)
        self._report(f"{path} is damaged: {why}; set aside in {target}")

    def stored(self) -> list[Stored]:
        """Return all artifacts, also damaged ones, the last used first."""
        artifacts = []
        for path in self.artifacts.iterdir() if self.artifacts.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # another process cleared it meanwhile
                if path.is_dir():
                    artifacts.append(self._stored(path))
        return sorted(artifacts, key=lambda stored: stored.made, reverse=True)

    def _stored(self, path: Path) -> Stored:
        about = (_meta(path) or {}).get("about")
        about = about if isinstance(about, dict) else {"label": "damaged"}
        words = [str(about.get(name, "")) for name in ("stage", "entry", "label")]
        described = About(stage=words[0], entry=words[1], label=words[2])
        return Stored(path.name, path.stat().st_mtime, _size(path), described, self.has(path.name))

    def set_aside(self) -> tuple[int, int]:
        """Return how many damaged artifacts are kept, and their size in bytes."""
        kept = list(self.damaged.iterdir()) if self.damaged.is_dir() else []
        return len(kept), sum(map(_size, kept))

    def clear(self, keys: list[str] | None = None) -> int:
        """Delete artifacts (all, or those named); with all of them also leftovers, what is remembered and set aside.

        Returns:
            The bytes that artifacts and what was set aside had.
        """
        freed = 0
        for item in self.stored():
            if keys is None or item.key in keys:
                _delete(self.artifacts / item.key)
                freed += item.size
        if keys is None:
            freed += self.set_aside()[1]
            _delete(self.root / FOLDER)
            for folder in (self.damaged, self.workplace):
                for path in folder.iterdir() if folder.is_dir() else ():
                    _delete(path)
        return freed

    # --- checking

    def _damage(self, key: str) -> str | None:
        """Return what is wrong with an artifact, or None. Its files are read once, and again where they changed."""
        try:
            self._checked[key] = check(self.artifacts / key, self._checked.get(key))
        except Damage as damage:
            self._checked.pop(key, None)
            return str(damage)
        except OSError as error:
            raise StorageError(
                f"cannot read artifact {key[:12]}: {error.filename}: {error.strerror}"
            ) from None
        return None

    def _usable(self, key: str) -> bool:
        """Return whether an artifact is undamaged; set it aside otherwise. The caller holds its lock."""
        why, path = self._damage(key), self.artifacts / key
        if why is None:
            return True
        if os.path.lexists(path):
            target = self._move(path, key, why)
            self._report(f"artifact {_named(key, target)} is damaged: {why}; set aside in {target}")
        return False

    def _move(self, path: Path, name: str, why: str) -> Path:
        """Move what is damaged into ``ROOT/damaged``, under a name that is free there. Return its new path."""
        with _storage(f"{path} is damaged ({why}), and cannot be set aside in {self.damaged}"):
            self.damaged.mkdir(parents=True, exist_ok=True)
            target, count = self.damaged / name, 1
            while os.path.lexists(target):
                count += 1
                target = self.damaged / f"{name}-{count}"
            path.rename(target)
        return target

    @contextlib.contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a key. Yield whether it is held; without ``wait`` it is not where another process does."""
        path = self.workplace / f"{key}.lock"
        with _storage(f"cannot lock {path}"):
            self.workplace.mkdir(parents=True, exist_ok=True)
            descriptor, held = lock(path, wait=wait)
        try:
            yield held
        finally:
            if held:
                with contextlib.suppress(OSError):
                    path.unlink()
            os.close(descriptor)


def _meta(folder: Path) -> JsonObject | None:
    """Return the content of ``meta.json``, or None if it is no JSON object or cannot be read."""
    try:
        meta = json.loads(read_regular(folder / "meta.json", _MOST_META_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None


def _named(key: str, folder: Path) -> str:
    """Return the beginning of a key, and what the artifact is, where ``meta.json`` in ``folder`` still says so."""
    about = (_meta(folder) or {}).get("about")
    facts = about if isinstance(about, dict) else {}
    words = " ".join(str(facts.get(name) or "") for name in ("stage", "entry", "label")).split()
    return f"{key[:12]} ({' '.join(words)})" if words else key[:12]


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(item.lstat().st_size for item in files if item.is_file())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _storage(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from None

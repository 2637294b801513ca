"""The list of an artifact's files with their hashes: written when it is made, checked when it is used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from harness.store.files import open_regular, read_regular
from harness.store.hashing import FileState, file_state

__all__ = ["SEAL", "Damage", "State", "check", "seal"]

SEAL = "files.json"
"""The name of the list: file -> [size in bytes, SHA-256 of its content]."""

_MOST_BYTES = 16 * 2**20
_BLOCK_BYTES = 2**20

_NOT_ITS_FAULT = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR),
)
"""Numbers of errors that say nothing about the content of a file."""

State: TypeAlias = Mapping[str, FileState | None]
"""File -> its state; None if there is no such file."""


class Damage(Exception):
    """Says in one line what is wrong with an artifact."""


def seal(folder: Path) -> None:
    """Write the list of all files in ``folder``.

    Raises:
        OSError: a file cannot be read, or the list cannot be written.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir():
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _hash(path)]
    (folder / SEAL).write_text(json.dumps(files, indent=1))


def check(folder: Path, known: State | None = None) -> State:
    """Compare every file of an artifact with the list; return their state, for the next check.

    ``known``: what the last check returned. If it is still the state of the files, they are not read again.

    Raises:
        Damage: a file is missing, has changed or is not a regular file; or the list is.
        OSError: a file cannot be read now, which does not mean that it is damaged.
    """
    if known is not None and known == _states(folder, known):
        return known
    listed = _listed(folder)
    states = _states(folder, [SEAL, *listed])
    for name, (size, digest) in listed.items():
        try:
            actual = _hash(folder / name, size)
        except OSError as error:
            raise _damage(name, error) from None
        if actual != digest:
            raise Damage(f"{name}: its content is not what was written")
    return states


def _damage(name: str, error: OSError) -> Exception:
    """Return what to raise of a file that could not be read: an error of the system stays as it is."""
    return error if error.errno in _NOT_ITS_FAULT else Damage(f"{name}: {error.strerror or error}")


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    try:
        text = read_regular(folder / SEAL, _MOST_BYTES)
    except FileNotFoundError:
        raise Damage(f"it has no {SEAL}, as version 0.1.0 left it, or it was removed") from None
    except OSError as error:
        raise _damage(SEAL, error) from None
    try:
        content = json.loads(text)
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise Damage(f"{SEAL}: is not a list of files and hashes") from None
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise Damage(f"{SEAL}: names a file outside the artifact")
    if "meta.json" not in files:
        raise Damage(f"{SEAL}: does not list meta.json")
    return files


def _hash(path: Path, size: int | None = None) -> str:
    """Return the SHA-256 of the content of a file, which has ``size`` bytes."""
    with open_regular(path) as file:
        actual = os.fstat(file.fileno()).st_size
        if size is not None and actual != size:
            raise OSError(0, f"has {actual:,} bytes, not the {size:,} that were written")
        whole = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
    return whole.hexdigest()


def _states(folder: Path, names: Iterable[str]) -> dict[str, FileState | None]:
    states: dict[str, FileState | None] = {}
    for name in names:
        try:
            states[name] = file_state(folder / name)
        except OSError:
            states[name] = None
    return states

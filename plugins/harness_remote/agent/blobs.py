"""Files on a board, named by the SHA-256 of their content. Uploads are resumable and bounded.

``HASH`` is a whole file. ``HASH.part`` is the first part of a file. A file gets its name only when its content has
that hash and is on the disk, so a kill at any time leaves no wrong file. Only whole files are used.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
from pathlib import Path

from harness.errors import DeviceError

__all__ = ["RESERVE_BYTES", "Blobs"]

RESERVE_BYTES = 64 * 2**20  # bytes of the disk that stay free for other programs
_CHUNK = 2**20
_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[0-9a-f]{64}(\.part)?", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Blobs:
    """The files in ``folder``: at most ``max_blob_bytes`` each, and ``max_total_bytes`` in all.

    The least recently used files are removed to make room for new ones. Any thread may use the object, but only one
    process may use the folder.
    """

    def __init__(
        self, folder: Path, max_blob_bytes: int, max_total_bytes: int, reserve_bytes: int = RESERVE_BYTES
    ) -> None:
        self._folder = folder
        self._max_blob = max_blob_bytes
        self._max_total = max_total_bytes
        self._reserve = reserve_bytes
        self._lock = threading.Lock()
        self._sound: dict[str, tuple[int, ...]] = {}  # name -> the state of a file whose content was checked
        self._begun: set[str] = set()  # names of files whose first piece this process wrote
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(f"cannot make {folder}: {error.strerror or error}") from None

    def held(self, sha256: str, size: int) -> int:
        """Return the number of bytes of this file that are here, which is ``size`` if it is whole.

        The next piece is written at this offset.

        Raises:
            DeviceError: ``sha256`` is not a SHA-256, or the size is not allowed.
        """
        whole = self._name(sha256, size)
        with self._lock:
            return self._held(whole, size)

    def write(self, sha256: str, size: int, offset: int, data: bytes) -> int:
        """Write ``data`` at ``offset``, which must be the value of :meth:`held`. Return the bytes that are here now.

        Raises:
            DeviceError: the piece is not the next one, is longer than ``size``, has no room, or completes a file with
                another hash, which is then deleted.
        """
        whole = self._name(sha256, size)
        with self._lock:
            held = self._held(whole, size)
            if held == size:
                return size
            if offset != held or len(data) > size - offset:
                raise DeviceError(
                    f"blob {sha256[:12]}: {len(data)} bytes at {offset}, where {held} of {size} are held"
                )
            part = _part(whole)
            if held == 0:
                self._begun.add(sha256)
            try:
                self._make_room(size - held, keep=part)
                with part.open("ab") as file:
                    file.write(data)
                if held + len(data) == size:
                    ours = sha256 in self._begun
                    self._begun.discard(sha256)
                    if not self._finish(part, whole, size):
                        if ours:
                            raise DeviceError(f"blob {sha256[:12]} came with another content: send it again")
                        _LOG.warning(
                            "blob %s: its first part was damaged on the disk; it is sent again", sha256[:12]
                        )
                        return 0
            except OSError as error:
                if error.errno in _FULL:
                    raise DeviceError(
                        f"the board's disk is full: blob {sha256[:12]} needs {_mb(size)}"
                    ) from None
                raise DeviceError(f"the board cannot keep blob {sha256[:12]}: {error.strerror}") from None
            return held + len(data)

    def path(self, sha256: str) -> Path:
        """Return the path of a whole file, and mark it as used.

        Raises:
            DeviceError: the file is not here, or not whole.
        """
        whole = self._name(sha256, 1)
        with self._lock:
            self._drop_if_damaged(whole)
            try:
                os.utime(whole)
                self._sound[sha256] = _state(whole)
            except OSError:
                raise DeviceError(
                    f"blob {sha256[:12]} is not on the board (any more): send it (again)"
                ) from None
        return whole

    def _name(self, sha256: str, size: int) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256, re.ASCII):
            raise DeviceError("a blob is named by its SHA-256: 64 of 0-9, a-f")
        if not 0 < size <= self._max_blob:
            raise DeviceError(f"blob {sha256[:12]} of {size} bytes: allowed are 1 to {self._max_blob}")
        return self._folder / sha256

    def _drop_if_damaged(self, whole: Path) -> None:
        """Delete a file whose content is not what its name says. The client has it, and sends it again.

        A file is read once in a process, and again if its state has changed.
        """
        if (held := _size(whole)) is None:
            self._sound.pop(whole.name, None)
            return
        if self._sound.get(whole.name) != (state := _state(whole)):
            if _hash(whole) == whole.name:
                self._sound[whole.name] = state
                return
            _LOG.warning("blob %s of %d bytes was damaged on the disk and is deleted", whole.name[:12], held)
            self._sound.pop(whole.name, None)
            whole.unlink(missing_ok=True)

    def _held(self, whole: Path, size: int) -> int:
        self._drop_if_damaged(whole)
        held = _size(whole)
        if held is not None:
            if held != size:
                raise DeviceError(f"blob {whole.name[:12]} has {held} bytes, not {size}")
            return size
        begun = _size(_part(whole)) or 0
        if begun < size:
            return begun
        # the agent was killed before the file got its name, or a longer file was announced before
        return size if self._finish(_part(whole), whole, size) else 0

    def _finish(self, part: Path, whole: Path, size: int) -> bool:
        """Give a complete file its name, or delete it if its content has another hash. Return whether it is right."""
        if _size(part) != size or _hash(part) != whole.name:
            part.unlink(missing_ok=True)
            return False
        part.replace(whole)
        self._sound[whole.name] = _state(whole)
        return True

    def _make_room(self, wanted: int, keep: Path) -> None:
        """Remove the least recently used other files until ``wanted`` more bytes fit.

        Raises:
            DeviceError: they can never fit. Nothing is removed then.
        """
        files = sorted(self._files(), key=lambda item: item[2])
        others = [item for item in files if item[0] != keep]
        used, droppable = (sum(size for _, size, _ in items) for items in (files, others))
        free = shutil.disk_usage(self._folder).free
        if used - droppable + wanted > self._max_total:
            raise DeviceError(f"no room for {_mb(wanted)}: the agent keeps {_mb(self._max_total)}")
        if free + droppable < wanted + self._reserve:
            raise DeviceError(
                f"the board's disk has {_mb(free)} free: {_mb(wanted)} and {_mb(self._reserve)} to spare are "
                "needed; make room on it"
            )
        for path, size, _ in others:
            if used + wanted <= self._max_total and free >= wanted + self._reserve:
                break
            path.unlink(missing_ok=True)
            self._sound.pop(path.name, None)
            used, free = used - size, free + size

    def _files(self) -> list[tuple[Path, int, int]]:
        files = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    files.append((Path(entry.path), status.st_size, status.st_mtime_ns))
        return files


def _part(whole: Path) -> Path:
    return whole.with_name(f"{whole.name}.part")


def _size(path: Path) -> int | None:
    """Return the size of a file, or None if there is none. Anything else in its place is deleted."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    _LOG.warning("%s is not a regular file and is deleted", path)
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return None


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, which is on the disk afterwards."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

"""The place of the store on disk, writes that survive a crash, and reads that never wait."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from harness.store.home import user_folder

__all__ = [
    "append_line",
    "default_cache",
    "open_regular",
    "read_regular",
    "sync_folder",
    "sync_tree",
    "write_atomically",
]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def default_cache() -> Path:
    """Return ``$HARNESS_CACHE``, else ``harness`` in the user's cache folder.

    Raises:
        StorageError: the variable is not set, and the user has no home folder.
    """
    own = os.environ.get("HARNESS_CACHE")
    if own:
        return Path(own)
    return user_folder("XDG_CACHE_HOME", "set HARNESS_CACHE to a folder for prepared models") / "harness"


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Anything else is refused before it is opened: a pipe has no end until someone writes, and to open a device may
    have an effect.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    return os.fdopen(_opened(path)[0], "rb")


def read_regular(path: Path | str, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    descriptor, size = _opened(path)
    data = b""
    try:
        if size <= most:
            left = size + 1  # one more shows that it has grown
            while left > 0 and (part := os.read(descriptor, left)):
                data += part
                left -= len(part)
    finally:
        os.close(descriptor)
    if size > most or len(data) > most:
        raise OSError(
            errno.EFBIG, f"has {max(size, len(data)):,} bytes, at most {most:,} are read", str(path)
        )
    return data


def _opened(path: Path | str) -> tuple[int, int]:
    """Return the descriptor and the size of a regular file. The file is open for reading."""
    _refuse_others(os.stat(path).st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _refuse_others(status.st_mode, path)  # it may have been replaced meanwhile
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _refuse_others(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"is {kind}, not a regular file", str(path))


def write_atomically(
    path: Path,
    data: str | bytes | memoryview,
    mode: int | None = None,
    *,
    sync: bool = False,
    keep: bool = False,
) -> None:
    """Write a file in one step. A reader finds the old content or the new content, never a part of one.

    The data is written to a temporary file in the same folder, which is then renamed. After a failure the old file is
    unchanged and no temporary file remains.

    Args:
        path: the file; its folder must exist.
        data: its content; text is encoded as UTF-8.
        mode: the exact permissions. With ``None`` they are those of a new file under the process's umask.
        sync: whether to flush content and name to disk before this returns, so that they survive a power cut.
        keep: whether a file that is there already stays: of two writers the first wins.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full.
    """
    content = data.encode() if isinstance(data, str) else data
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # With a mode the file is created for its owner alone: a secret is never open to others.
        descriptor = os.open(
            aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if mode else 0o666
        )
        with os.fdopen(descriptor, "wb") as file:
            if mode:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if keep:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
        else:
            os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # the caller knows this file
        raise
    if sync:
        sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Append one whole line to a file, which is on disk when this returns.

    A crash can leave a last line without a line end. It gets one first, so that it does not damage the new line.

    A link is not followed: in a folder from elsewhere it may lead to any file of this user.

    Raises:
        OSError: the file cannot be written or is not a regular file, or the disk has no space for the whole line.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        status = os.fstat(descriptor)
        _refuse_others(status.st_mode, path)
        size = status.st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        whole = (b"\n" if torn else b"") + line + b"\n"
        if os.write(descriptor, whole) != len(whole):
            raise OSError(errno.ENOSPC, "No space left on device for a whole line")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (the names of its files) to disk, so that they survive a power cut.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush ``folder`` and all files and folders below it to disk.

    Raises:
        OSError: a file or folder cannot be opened.
    """
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Whether an error is the disk's fault. Libraries in C and Rust report a full disk in their own ways."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from harness.errors import HarnessError

__all__ = ["why_unwritten"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""The error numbers of a disk that accepts no more data."""

_LEAST_FREE_BYTES = 2**20
"""A disk with less free space is full."""


def why_unwritten(error: Exception, folder: Path, *, finished: bool) -> str | None:
    """Return why ``folder`` could not be filled, or None if ``error`` is not the disk's fault.

    ``finished``: whether the code that fills it had finished, so that only the store itself was writing.
    """
    if isinstance(error, HarnessError):
        return None
    if isinstance(error, OSError):
        inside = str(error.filename or "").startswith(str(folder))
        if finished or inside or error.errno in _FULL:
            return error.strerror or str(error)
        if error.errno is None and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy
            return "not all bytes were written: is the disk full?"
    number = re.search(r"\(os error (\d+)\)", str(error))  # Rust: safetensors
    if number and int(number[1]) in _FULL:
        return os.strerror(int(number[1]))
    try:
        full = shutil.disk_usage(folder).free < _LEAST_FREE_BYTES
    except OSError:
        return None
    return os.strerror(errno.ENOSPC) if full else None

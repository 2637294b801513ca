"""Lock files that their last holder deletes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

__all__ = ["lock"]

_TRIES = 1000
"""How often a lock is tried that its holder deletes just when it is released."""


def lock(path: Path, *, wait: bool) -> tuple[int, bool]:
    """Open and lock a file. Return its descriptor, and whether it is locked.

    Without ``wait``, it is not locked if another process holds it. The caller deletes the file before it closes the
    descriptor, which releases the lock. A link is not followed.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    for _ in range(_TRIES):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor, True
        except BlockingIOError:
            return descriptor, False
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder before us deleted the file
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

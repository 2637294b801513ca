"""The key of this user: a secret with which the harness recognises files that it wrote itself.

A file that is derived from others can travel with them, and someone else can have made it. A keyed hash over its
content shows that this user's harness wrote it.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from harness.errors import StorageError
from harness.store.files import default_cache, read_regular, write_atomically

__all__ = ["KEY", "keyed_hash", "user_key"]

KEY = "user.key"
"""The file of the key in the cache. Whoever can read it can make files that pass for those of the user."""

_BYTES = 32


def user_key(cache: Path | None = None) -> bytes | None:
    """Return the key, which is made at the first call; None if there is no cache that can be written.

    ``cache``: the cache's folder (default: that of the store).
    """
    try:
        path = (default_cache() if cache is None else cache) / KEY
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, secrets.token_bytes(_BYTES), 0o600, keep=True)
        key = read_regular(path, _BYTES)
    except (OSError, StorageError):
        return None
    return key if len(key) == _BYTES else None


def keyed_hash(key: bytes, *parts: bytes) -> str:
    """Return the hash of ``parts`` under a key, 64 hex digits. Other parts have another hash, also if they join alike."""
    whole = hashlib.blake2b(key=key, digest_size=32)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()

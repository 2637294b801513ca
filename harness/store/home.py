"""The folders of a user: caches, data, configuration and state, as the XDG Base Directory Specification places them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from harness.errors import StorageError

__all__ = ["expanded", "user_folder"]

DEFAULTS = {
    "XDG_CACHE_HOME": ".cache",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}
"""Variable -> folder below the home folder that is used if the variable is not set."""


def user_folder(variable: str, instead: str) -> Path:
    """Return the folder that an XDG variable names, by default one in the user's home folder.

    An empty or relative path in a variable is ignored, as the specification demands.

    Args:
        variable: a key of :data:`DEFAULTS`.
        instead: what a user without a home folder can set or give, such as ``set HARNESS_CACHE``.

    Raises:
        StorageError: the user has no home folder.
    """
    stated = os.environ.get(variable, "")
    return Path(stated) if os.path.isabs(stated) else _home(instead) / DEFAULTS[variable]


def expanded(path: Path | str) -> Path:
    """Return a path with its ``~`` replaced by a home folder.

    Raises:
        StorageError: the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise StorageError(
            f"{path}: the home folder that ~ stands for is unknown; write the whole path"
        ) from None


def _home(instead: str) -> Path:
    """Return the home folder: ``HOME``, else the one in the system's list of users."""
    stated = os.environ.get("HOME", "")
    if os.path.isabs(stated):
        return Path(stated)
    user = os.getuid()
    try:
        listed = pwd.getpwuid(user).pw_dir
    except KeyError:  # as in a container that was started with any number
        listed = ""
    if not os.path.isabs(listed):
        raise StorageError(
            f"no home folder is known: HOME is not set, and the system does not know user {user}; {instead}"
        )
    return Path(listed)

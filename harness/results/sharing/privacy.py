"""Texts that say where, or by whom, results were made: paths, names, addresses."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from collections.abc import Collection, Iterator

__all__ = ["local_names", "private", "texts", "without_paths"]

_PATH = re.compile(
    r"(?<![\w.~/\\-])(~[\w.-]*/|(?<![a-z]:)/(?!/)|file:///|[A-Za-z]:\\)[\w.@+-]+([/\\][\w.@+-]*)*"
)
"""A path from the root, from a home folder, or of Windows."""

_SYSTEM = ("/sys/", "/proc/", "/dev/")
"""Folders that are the same on all machines. Meters name files in them."""

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63})+")
"""An address. The bounds are those of mail, and keep the time for a long line in proportion to its length."""

_IPV4 = re.compile(r"(?<![\w.])(\d{1,3}\.){3}\d{1,3}(?![\w.])")
_LEAST = 3
"""Shortest name of a user or a host that is searched for. Shorter ones are in other words."""

_COMMON = frozenset({"root", "user", "admin", "ubuntu", "debian", "runner", "localhost", "jetson", "nvidia"})
"""Names of users and hosts that name no one."""


def local_names() -> frozenset[str]:
    """Return the names of this machine and its user. A submission that is checked elsewhere cannot be searched for them."""
    names = {socket.gethostname(), socket.gethostname().split(".")[0]}
    with contextlib.suppress(KeyError, OSError):  # a user without a name, as in a container
        names.add(getpass.getuser())
    return frozenset(name for name in names if len(name) >= _LEAST and name.lower() not in _COMMON)


def private(text: str, names: Collection[str] = ()) -> str | None:
    """Return what in ``text`` may be private, in words, or None.

    Args:
        text: one text of a submission.
        names: names of a user and a machine.
    """
    for match in _PATH.finditer(text):
        if not match[0].startswith(_SYSTEM):
            return f"the path {match[0]!r:.80}"
    if (mail := _MAIL.search(text)) is not None:
        return f"the address {mail[0]!r:.80}"
    for match in _IPV4.finditer(text):
        if all(int(part) < 256 for part in match[0].split(".")):
            return f"the address {match[0]}"
    for name in names:
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE):
            return f"{name!r}, the name of this machine or its user"
    return None


def texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, keys of mappings included."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, dict):
            waiting += [*current.keys(), *current.values()]
        elif isinstance(current, list):
            waiting += current


def without_paths(text: str) -> str:
    """Return a text in which each path from the root, or from a home folder, is only its last part."""

    def last(match: re.Match[str]) -> str:
        path = match[0]
        return path if path.startswith(_SYSTEM) else re.split(r"[/\\]", path.rstrip("/\\ "))[-1]

    return _PATH.sub(last, text)

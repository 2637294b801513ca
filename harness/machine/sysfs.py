"""The kernel's small files, below a root that tests can move (``HARNESS_SYSROOT``)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["each", "numbers", "root", "text"]


def root() -> Path:
    """``/``, or where the environment variable ``HARNESS_SYSROOT`` puts it."""
    return Path(os.environ.get("HARNESS_SYSROOT") or "/")


def text(path: Path) -> str | None:
    """A file's text without blanks around it; ``None`` where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def each(below: Path, pattern: str) -> list[Path]:
    """Paths below ``below`` that match a glob, sorted."""
    return sorted(below.glob(pattern))


def numbers(below: Path, pattern: str) -> list[float]:
    """The whole numbers in the files that match a glob; others are left out."""
    found = []
    for path in each(below, pattern):
        content = text(path)
        if content and content.lstrip("-").isdecimal():
            found.append(float(content))
    return found

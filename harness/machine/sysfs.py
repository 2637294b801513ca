"""Read the kernel's small files. The environment variable ``HARNESS_SYSROOT`` sets another root, for tests."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["each", "numbers", "root", "text"]


def root() -> Path:
    """Return ``/``, or the path in the environment variable ``HARNESS_SYSROOT``."""
    return Path(os.environ.get("HARNESS_SYSROOT") or "/")


def text(path: Path) -> str | None:
    """Return the text of a file without surrounding white space, or None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def each(below: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that match a glob, sorted."""
    return sorted(below.glob(pattern))


def numbers(below: Path, pattern: str) -> list[float]:
    """Return the whole numbers in the files that match a glob. A file with any other content is left out."""
    values = []
    for path in each(below, pattern):
        content = text(path)
        if content and content.lstrip("-").isdecimal():
            values.append(float(content))
    return values

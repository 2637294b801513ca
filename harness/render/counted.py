"""A number with its noun: ``1 cell``, ``2 cells``."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """Return the number and the noun, which gets an ``s`` unless the number is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

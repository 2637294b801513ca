"""The reason why a column has no value."""

from __future__ import annotations

__all__ = ["Why"]


class Why(str):
    """A reason, which stands for null in a column."""

    __slots__ = ()

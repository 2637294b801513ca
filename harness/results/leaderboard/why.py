"""A reason in place of a value."""

from __future__ import annotations

__all__ = ["Why"]


class Why(str):
    """Stands for null: the reason why there is no value."""

    __slots__ = ()

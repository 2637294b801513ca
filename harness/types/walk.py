"""Walking a graph of parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

__all__ = ["PartNode", "in_order"]


class PartNode(Protocol):
    """A part of a graph. ``sources``: names of its inputs, ``image`` or earlier parts."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...


N = TypeVar("N", bound=PartNode)
V = TypeVar("V")


def in_order(parts: Iterable[N], values: Mapping[str, V]) -> Iterator[tuple[N, list[V]]]:
    """Yield (part, its inputs) over ``parts``, each after its sources.

    ``values`` holds the image by its name. The caller puts each part's output into it, by the part's name, before it
    asks for the next part.
    """
    for part in parts:
        yield part, [values[source] for source in part.sources]

"""Walk a graph of parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

__all__ = ["PartNode", "in_order"]


class PartNode(Protocol):
    """A protocol for a part of a graph."""

    @property
    def name(self) -> str:
        """Return the name of the part."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the names of its inputs: ``image`` or earlier parts."""
        ...


N = TypeVar("N", bound=PartNode)
V = TypeVar("V")


def in_order(parts: Iterable[N], values: Mapping[str, V]) -> Iterator[tuple[N, list[V]]]:
    """Yield (part, its inputs) over ``parts``, each after its sources.

    ``values`` has the image under its name. The caller must add the output of each part, under the part's name,
    before it takes the next part.
    """
    for part in parts:
        yield part, [values[source] for source in part.sources]

"""The origin of an entry: the code behind a record's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["EntryOrigin", "code_that_measures"]

_MEASURES = ("runtime", "backend", "meter")
"""The kinds of entries whose code runs while a cell is measured. The export's key covers the code of the others."""


@dataclass(frozen=True, kw_only=True)
class EntryOrigin:
    """An entry that a cell uses, and the code behind it.

    ``kind`` and ``name`` are the entry's; ``source`` is the hash of its plugin's source (32 hex digits);
    ``requires`` maps each distribution that the entry requires to its installed version.
    """

    kind: str
    name: str
    plugin: str
    distribution: str
    version: str
    source: str
    requires: Mapping[str, str] = field(default_factory=dict)


def code_that_measures(origins: Iterable[EntryOrigin]) -> list[tuple[str, str, str, dict[str, str]]]:
    """Return the identity of the code that runs while a cell is measured: kind, name, source hash and versions."""
    return [(o.kind, o.name, o.source, dict(o.requires)) for o in origins if o.kind in _MEASURES]

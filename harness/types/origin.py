"""Where an entry comes from: what a record tells of the code behind its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.types.json import JsonObject

__all__ = ["EntryOrigin"]


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

    def to_json(self) -> JsonObject:
        """Return what a record says of it, under the key ``kind:name``."""
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "source": self.source,
            "requires": dict(self.requires),
        }

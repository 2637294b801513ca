"""Names for values whose keys the harness does not define, one for each reason. All others are typed values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Facts", "JsonObject", "Signals"]

JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON where it is read or written: of a file, a frame's header, a message to another process."""

Facts: TypeAlias = Mapping[str, Any]
"""What a plugin or a library states of its own things. Only it knows the keys."""

Signals: TypeAlias = Mapping[str, Any]
"""What a watch reads of a machine at one moment: signal -> number, word, or switch."""

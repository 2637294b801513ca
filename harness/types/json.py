"""Names for mappings whose keys the harness does not define, one name for each reason. All other values are typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Facts", "JsonObject", "Signals"]

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object that is read or written: in a file, in a frame's header, or in a message to another process."""

Facts: TypeAlias = Mapping[str, Any]
"""Facts that a plugin or a library states. Only the plugin or library knows the keys."""

Signals: TypeAlias = Mapping[str, Any]
"""The state of a machine that a watch reads at one moment: signal -> number, word, or switch."""

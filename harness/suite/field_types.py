"""Types of a suite's fields: names, durations, shares, references to entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

__all__ = ["Duration", "EntryRef", "NAME", "Name", "Share"]


NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


Name = Annotated[str, Field(pattern=NAME, max_length=80)]


def _seconds(value: object) -> object:
    """``1s``, ``500ms``, ``2min`` or a number of seconds -> seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h)\s*", value)
        if not match:
            raise ValueError(f"{value!r} is no duration; write 500ms, 1s, 2min or 1h")
        return float(match[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}[match[2]]
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)]


def _share(value: object) -> object:
    """``2%`` or 0.02."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if not match:
            raise ValueError(f"{value!r} is no share; write 2% or 0.02")
        return float(match[1]) / 100
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]


@dataclass(frozen=True)
class _Named:
    """An entry of a plugin as a suite writes it: ``vit`` or ``{vit: {dim: 96}}``."""

    name: str
    params: Mapping[str, Any]
    each_part: bool = False


def _entry_ref(value: object) -> object:
    if isinstance(value, str):
        return _Named(value, {})
    if isinstance(value, Mapping):
        keys = [key for key in value if key != "each_part"]
        if len(keys) == 1 and isinstance(value[keys[0]], Mapping | None):
            each_part = value.get("each_part", False)
            if not isinstance(each_part, bool):
                raise ValueError("each_part is true or false")
            return _Named(keys[0], value[keys[0]] or {}, each_part)
    if isinstance(value, _Named):
        return value
    raise ValueError("write NAME or {NAME: {parameter: value}}, one name only")


EntryRef = Annotated[
    Any,
    BeforeValidator(_entry_ref),
    Field(
        description="NAME, or {NAME: {parameter: value}}", json_schema_extra={"type": ["string", "object"]}
    ),
]

"""Types of fields that a person writes: names, durations, shares."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

__all__ = ["NAME", "Duration", "Name", "Share"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=80)]


def _seconds(value: object) -> object:
    """Return seconds for ``1s``, ``500ms``, ``2min`` or a number of seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h)\s*", value)
        if not match:
            raise ValueError(f"{value!r} is no duration; write 500ms, 1s, 2min or 1h")
        return float(match[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}[match[2]]
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86_400)]


def _share(value: object) -> object:
    """Return 0.02 for ``2%`` or 0.02."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if not match:
            raise ValueError(f"{value!r} is no share; write 2% or 0.02")
        return float(match[1]) / 100
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]

"""How a suite refers to an entry of a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

__all__ = ["EntryRef"]


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

"""References to plugins' entries in a suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from harness.suite.yamlfile import YamlBlock

__all__ = ["EntryRef", "NamedEntry", "OptionalEntryRef"]


@dataclass(frozen=True)
class NamedEntry:
    """A reference to an entry in a suite: ``vit`` or ``{vit: {dim: 96}}``. Its parameters are not checked yet."""

    name: str
    params: YamlBlock
    each_part: bool = False


def _parse(value: object) -> NamedEntry:
    if isinstance(value, NamedEntry):
        return value
    if isinstance(value, str):
        return NamedEntry(value, {})
    if isinstance(value, Mapping):
        keys = [key for key in value if key != "each_part"]
        if len(keys) == 1 and isinstance(value[keys[0]], Mapping | None):
            each_part = value.get("each_part", False)
            if not isinstance(each_part, bool):
                raise ValueError("each_part is true or false")
            return NamedEntry(keys[0], value[keys[0]] or {}, each_part)
    raise ValueError("write NAME or {NAME: {parameter: value}}, one name only")


_DESCRIPTION = "NAME, or {NAME: {parameter: value}}"
_SCHEMA = WithJsonSchema({"type": ["string", "object"], "description": _DESCRIPTION})

EntryRef = Annotated[NamedEntry, BeforeValidator(_parse), Field(description=_DESCRIPTION), _SCHEMA]
OptionalEntryRef = Annotated[
    NamedEntry | None, BeforeValidator(_parse), Field(description=_DESCRIPTION), _SCHEMA
]
"""The type of a field whose default is None. A person cannot write null."""

"""The base classes of every entry and of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from harness.types.json import Facts

__all__ = ["Entry", "JsonParams", "Params"]

JsonParams: TypeAlias = Facts
"""Parameters of an entry as JSON. Only the entry knows their names; its ``params`` checks them."""


class Params(BaseModel):
    """The base of every entry's parameters. Unknown keys are refused, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The base of everything that plugins provide.

    ``requires``: modules that must be importable. ``extra``: the extra of edge-harness that installs them.
    """

    name: str
    summary: str
    params: type[Params] = Params
    requires: tuple[str, ...] = ()
    extra: str = ""

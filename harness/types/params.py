"""The base of every entry's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

__all__ = ["Params"]


class Params(BaseModel):
    """Base of every entry's parameters: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """``requires`` names modules that must be importable, ``extra`` the extra that brings them."""

    name: str
    summary: str
    params: type[Params] = Params
    requires: tuple[str, ...] = ()
    extra: str = ""

"""The base of every entry's parameters."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = [
    "Params",
]


class Params(BaseModel):
    """Base of every entry's parameters: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

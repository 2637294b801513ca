"""A record: one attempt of a cell, as one line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.types import Provenance

if TYPE_CHECKING:
    pass

__all__ = ["Record", "SCHEMA", "Status"]


SCHEMA = 1


Status = Literal["ok", "partial", "failed", "skipped"]


class Record(BaseModel):
    """One attempt of one cell. The mappings hold JSON; docs/results.md lists their keys.

    ``partial``: measured, but something asked for is missing (``reason`` says what). ``method_key``
    is the hash of the method's configuration without its seed: rows of one method share it. ``stage``
    and ``plugin`` say where a failure happened. ``started`` is ISO 8601 in UTC. ``rank_by`` and
    ``baseline`` are the suite's.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True, ser_json_inf_nan="null"
    )

    schema_version: Literal[1] = Field(1, alias="schema")
    run_id: str
    machine_id: str
    cell_id: str
    attempt: int = Field(ge=1)
    status: Status
    reason: str = ""
    suite: str
    method: str
    seed: int
    repeat: int = Field(0, ge=0)
    device: dict[str, Any] = Field(default_factory=dict)
    runtime: dict[str, Any] = Field(default_factory=dict)
    scenario: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, Any] = Field(default_factory=dict)
    accuracy: dict[str, Any] = Field(default_factory=dict)
    latency: dict[str, Any] = Field(default_factory=dict)
    memory: dict[str, Any] = Field(default_factory=dict)
    energy: list[dict[str, Any]] = Field(default_factory=list)
    network: dict[str, Any] = Field(default_factory=dict)
    parts: list[dict[str, Any]] = Field(default_factory=list)
    state: dict[str, Any] = Field(default_factory=dict)
    flags: list[str] = Field(default_factory=list)
    origins: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    samples: dict[str, str] = Field(default_factory=dict)
    # beyond the contract's keys
    method_key: str
    stage: str | None = None
    plugin: str | None = None
    provenance: Provenance = "measured"
    lineage: list[dict[str, Any]] = Field(default_factory=list)
    train: dict[str, Any] = Field(default_factory=dict)
    baseline: str | None = None
    rank_by: str = "top1"
    started: str = ""
    checksum: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """What one cell is the world over: machine, run, cell."""
        return self.machine_id, self.run_id, self.cell_id

    @property
    def good(self) -> bool:
        """Whether this attempt measured anything."""
        return self.status in ("ok", "partial")

    def dump(self) -> dict[str, Any]:
        """The record as JSON values, by the contract's keys; NaN and infinities become null."""
        return json.loads(self.model_dump_json(by_alias=True))  # type: ignore[no-any-return]

    def sealed(self) -> Record:
        """The same record with its checksum."""
        return self.model_copy(update={"checksum": _checksum(self.dump())})


def _checksum(content: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON (sorted keys, no spaces) of a record without its checksum."""
    bare = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

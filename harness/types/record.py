"""A record: one attempt of a cell, as one line of JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import PydanticSerializationError

from harness.types import Provenance
from harness.types.blocks import (
    DataBlock,
    DeviceBlock,
    Environment,
    LineageStep,
    OriginBlock,
    PartBlock,
    RuntimeBlock,
    SampleFile,
    ScenarioBlock,
    TrainingCost,
)
from harness.types.figures import Accuracy, Counts, EnergyReading, Latency, Memory, Network, State
from harness.types.json import JsonObject
from harness.types.signals import Signal

__all__ = ["SCHEMA", "Record", "Status", "checksum", "checksum_of_line", "line_of"]

SCHEMA = 1

_NEW = ("signals", "traceback")
"""Keys that version 0.1.0 does not have."""

Status = Literal["ok", "partial", "failed", "skipped"]


class Record(BaseModel):
    """One attempt of one cell. docs/results.md lists the keys, generated from the descriptions here."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True, ser_json_inf_nan="null"
    )

    schema_version: Literal[1] = Field(1, alias="schema", description="version of this format")
    run_id: str = Field(description="the run that made the record")
    machine_id: str = Field(description="salted hash of the machine's id")
    cell_id: str = Field(description="hash of what the cell measures")
    attempt: int = Field(ge=1, description="number of this attempt of the cell, from 1")
    status: Status = Field(
        description="`ok`; `partial`: measured, but a requested figure is missing; `failed`; `skipped`: cannot be "
        "measured here"
    )
    reason: str = Field("", description="why the status is not `ok`")
    suite: str = Field(description="name of the suite")
    method: str = Field(description="name of the method in the suite")
    seed: int = Field(description="training seed")
    repeat: int = Field(0, ge=0, description="number of the process that measured this seed, from 0")
    device: DeviceBlock = Field(DeviceBlock(), description="where it was measured")
    runtime: RuntimeBlock = Field(RuntimeBlock(), description="what ran the artifact")
    scenario: ScenarioBlock = Field(ScenarioBlock(), description="how it was measured")
    data: DataBlock = Field(DataBlock(), description="the data set")
    counts: Counts = Field(Counts(), description="totals over all parts")
    accuracy: Accuracy = Field(Accuracy(), description="accuracy of the exported artifact")
    latency: Latency = Field(Latency(), description="latency of queries, in milliseconds")
    memory: Memory = Field(Memory(), description="memory of the measuring process")
    energy: list[EnergyReading] = Field([], description="the figures of each meter")
    network: Network = Field(Network(), description="bytes and times of a fleet; empty otherwise")
    parts: list[PartBlock] = Field([], description="the parts of the model")
    state: State = Field(State(), description="state of the window and of the machine")
    flags: list[str] = Field([], description="what disturbed the window")
    signals: list[Signal] | None = Field(
        None, description="all signals of the window with their limits; records of 0.1.0 have none"
    )
    origins: Mapping[str, OriginBlock | str] = Field(
        {},
        description="by entry that the cell used, as `KIND:NAME`; in records of 0.1.0 distribution and version alone",
    )
    environment: Environment = Field(Environment(), description="the machine and its software")
    samples: SampleFile = Field(SampleFile(), description="the raw samples; empty if there are none")
    # keys beyond those that the contract names
    method_key: str = Field(description="hash of the method's configuration without its seed")
    stage: str | None = Field(None, description="the step that failed")
    plugin: str | None = Field(None, description="the plugin whose code failed")
    traceback: str | None = Field(None, description="file in the results folder with the failure's traceback")
    provenance: Provenance = Field(
        "measured",
        description="`measured`, or `emulated` for a fleet that has the same machine twice or a virtual board",
    )
    lineage: list[LineageStep] = Field([], description="the preparing steps, in order")
    train: TrainingCost = Field(TrainingCost(), description="sums over the preparing steps")
    baseline: str | None = Field(None, description="the method that the suite compares others with")
    rank_by: str = Field("top1", description="the column by which the suite ranks")
    started: str = Field("", description="ISO 8601, UTC")
    checksum: str = Field(
        "", description="SHA-256 of the record's canonical JSON (sorted keys, no spaces) without this key"
    )

    @model_serializer(mode="wrap")
    def _written(self, serialize: SerializerFunctionWrapHandler) -> JsonObject:
        """Leave keys out that version 0.1.0 does not have, if they have no value: its records stay as they were."""
        values: JsonObject = serialize(self)
        return {name: value for name, value in values.items() if name not in _NEW or value is not None}

    @property
    def identity(self) -> tuple[str, str, str]:
        """Return the identity of the cell among all results folders: machine, run, cell."""
        return self.machine_id, self.run_id, self.cell_id

    @property
    def good(self) -> bool:
        """Return whether this attempt has figures."""
        return self.status in ("ok", "partial")

    def dump(self) -> JsonObject:
        """Return the record as JSON values. NaN and infinities become null.

        Text that UTF-8 cannot encode becomes ``?``.
        """
        try:
            return json.loads(self.model_dump_json(by_alias=True))  # type: ignore[no-any-return]
        except PydanticSerializationError:
            text = json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False)
            return json.loads(text.encode("utf-8", "replace"), parse_constant=lambda name: None)  # type: ignore[no-any-return]

    def sealed(self) -> Record:
        """Return the same record with its checksum."""
        return self.model_copy(update={"checksum": checksum(self.dump())})


def checksum(content: JsonObject) -> str:
    """Return the SHA-256 of the canonical JSON (sorted keys, no spaces) of a record without its checksum.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not have.
    """
    return hashlib.sha256(_canonical(content)).hexdigest()


def line_of(record: Record) -> bytes:
    """Return a record as it is written: its canonical JSON with the checksum as the last key, without a line end.

    So the checksum of a line can be compared without writing its JSON again.
    """
    text = _canonical(record.dump())
    return text[:-1] + _MARK + hashlib.sha256(text).hexdigest().encode() + b'"}'


def checksum_of_line(line: bytes) -> str | None:
    """Return the checksum of what is before the checksum in a line of :func:`line_of`; None of a line of another form."""
    text, mark, rest = line.rpartition(_MARK)
    return (
        hashlib.sha256(text + b"}").hexdigest()
        if mark and len(rest) == _REST and rest[-2:] == b'"}'
        else None
    )


_MARK = b',"checksum":"'
_REST = 64 + len(b'"}')


def _canonical(content: JsonObject) -> bytes:
    bare = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")

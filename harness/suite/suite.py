"""The schema of a suite, which says what to compare, on which devices, and how to measure it.

Entries of plugins (``build: {vit: {...}}``) are kept as a name with unchecked parameters. Planning checks them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.suite.entry_ref import EntryRef, NamedEntry, OptionalEntryRef
from harness.suite.yamlfile import Source, YamlBlock
from harness.types.fields import Name
from harness.types.measure import Measure
from harness.types.params import Params

__all__ = ["DeviceChoice", "Method", "Prepare", "RunItem", "Suite"]


_TRAINS_ON = r"^(auto|cpu|cuda(:\d+)?)$"
"""The names of a device on which models are trained."""


class Prepare(Params):
    """The keys of ``prepare:``: where models are trained and exported.

    Threads, processes and device can change a result. Jobs and workers cannot.
    """

    threads: int = Field(1, ge=1, le=1024, description="number of threads of each training process")
    processes: int = Field(
        1, ge=1, le=64, description="number of processes that share each training; each has a GPU of its own"
    )
    jobs: int | Literal["auto"] = Field("auto", description="number of trainings at the same time")
    workers: int | Literal["auto"] = Field(
        "auto", description="number of processes that decode and augment images for each training process"
    )
    device: str = Field(
        "auto", pattern=_TRAINS_ON, description="device of the trainings: auto, cpu, cuda or cuda:N"
    )

    @field_validator("jobs")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 256:
            raise ValueError("jobs is auto or 1 to 256")
        return value

    @field_validator("workers")
    @classmethod
    def _countable(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 0 <= value <= 256:
            raise ValueError("workers is auto or 0 to 256")
        return value

    @field_validator("device", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if isinstance(value, str) and not re.match(_TRAINS_ON, value):
            raise ValueError(f"{value!r} is not auto, cpu, cuda or cuda:N")
        return value

    @field_validator("device")
    @classmethod
    def _not_one_of_many(cls, value: str, info: ValidationInfo) -> str:
        if ":" in value and (info.data.get("processes") or 1) > 1:
            raise ValueError(f"{value} is one GPU, and processes above 1 take a GPU each; write cuda")
        return value


class Method(Params):
    """A method: a chain of steps from a build to the model that is measured."""

    build: OptionalEntryRef = None
    from_: Name | None = Field(None, alias="from", description="the method whose result this one starts from")
    compress: tuple[EntryRef, ...] = ()
    partition: OptionalEntryRef = None
    place: OptionalEntryRef = None
    runtime: OptionalEntryRef = None
    data: YamlBlock | None = Field(None, description="keys that differ from the suite's data")
    train: YamlBlock | None = Field(None, description="keys that differ from defaults.train")
    threads: int | None = Field(None, ge=1, le=1024)

    @model_validator(mode="after")
    def _one_start(self) -> Method:
        if (self.build is None) == (self.from_ is None):
            raise ValueError("needs one of build: or from:")
        return self


class Defaults(Params):
    """The keys of ``defaults:``: values for methods that do not set their own."""

    train: YamlBlock = Field({})
    runtime: EntryRef = NamedEntry("onnxruntime", {})
    threads: int = Field(1, ge=1, le=1024)


class DeviceChoice(BaseModel):
    """A device (``backend`` and its parameters) or a fleet of devices."""

    model_config = ConfigDict(extra="allow", frozen=True)

    backend: str | None = None
    threads: int | None = Field(None, ge=1, le=1024)
    fleet: tuple[Name, ...] | None = Field(None, min_length=1, max_length=64)
    central: Name | None = None
    meters: tuple[EntryRef, ...] | None = Field(
        None, description="the meters to read, in place of all that answer"
    )
    input: Literal["tensor", "raw"] = Field(
        "tensor", description="for a fleet: how images are sent: as float32 tensors, or as raw uint8 pixels"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> DeviceChoice:
        if (self.backend is None) == (self.fleet is None):
            near = [key for key in self.model_extra or {} if get_close_matches(key, ["backend", "fleet"])]
            hint = f"; {near[0]!r} is neither" if near and self.backend is None else ""
            raise ValueError(f"needs one of backend: or fleet:{hint}")
        if self.fleet is not None and (self.model_extra or self.threads is not None):
            extra = sorted(self.model_extra or {}) + (["threads"] if self.threads is not None else [])
            raise ValueError(f"a fleet has no {', '.join(extra)}; allowed: fleet, central, input, meters")
        if self.fleet is None and self.central is not None:
            raise ValueError("central belongs to a fleet")
        if self.fleet is None and "input" in self.model_fields_set:
            raise ValueError("input belongs to a fleet: to one device nothing is sent")
        return self


def _all_or_list(value: object) -> object:
    if isinstance(value, str) and value != "all":
        near = bool(get_close_matches(value, ["all"]))
        guess, example = ("did you mean 'all'? ", "edgevit-*") if near else ("", value)
        raise ValueError(
            f"{value!r} is not a list of methods; {guess}"
            f"allowed: all, or a list of names and patterns, like [{example}]"
        )
    return value


class RunItem(Params):
    """A block of cells: methods x devices x runtimes."""

    methods: Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_all_or_list)] = Field(
        "all", description="names of methods, or patterns (edgevit-*)"
    )
    devices: tuple[Name, ...] = Field(min_length=1)
    runtimes: tuple[EntryRef, ...] | None = Field(None, description="seeds in place of each method's own")
    measure: YamlBlock | None = Field(None, description="keys that differ from the suite's measure")


class Suite(BaseModel):
    """A suite with its grids expanded. The type of every key is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Name
    task: Literal["image-classification"] = "image-classification"
    data: YamlBlock
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((0,), min_length=1, max_length=1000)
    defaults: Defaults = Defaults()
    prepare: Prepare = Prepare()
    measure: Measure = Measure()
    methods: Mapping[Name, Method] = Field(min_length=1)
    devices: Mapping[Name, DeviceChoice] = Field(min_length=1)
    run: tuple[RunItem, ...] = Field(min_length=1)
    baseline: Name | None = None
    rank_by: str = "top1"

    _source: Source

    @property
    def source(self) -> Source:
        """Return the places in the file where the values of the suite are written."""
        return self._source

    def located(self, source: Source) -> Suite:
        """Return the suite with the places of its values in the file."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is written twice")
        return value

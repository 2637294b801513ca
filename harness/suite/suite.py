"""The schema of a suite, and its loader. A suite says what to compare, on what, and how to measure.

Entries of plugins (``build: {vit: {...}}``) are kept as name and raw parameters here; the planner checks
them against the plugins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from harness.suite.field_types import Duration, EntryRef, Name, Share, _Named
from harness.suite.yamlfile import Source
from harness.types import Params

__all__ = ["DeviceChoice", "Measure", "Method", "Prepare", "RunItem", "Suite"]


class CoolDown(Params):
    """Waiting for a temperature before a cell."""

    below: float = Field(ge=-40, le=150, description="degrees Celsius of the hottest sensor")
    limit: Duration = Field(300.0, description="wait no longer than this; the cell is then flagged unsteady")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # DeViT, section V-A: one warm-up run, then 100 runs over the whole test set, without break
    "devit": {"passes": 100, "warmup": "one", "min_time": 0.0, "max_time": 3600.0},
    # MLPerf Power: the whole system, nothing subtracted
    "mlperf": {"idle_time": 0.0},
}
"""Ways to measure that papers and bodies laid down: keys of ``measure:`` where a suite says nothing else."""


class Measure(Params):
    """How cells are measured."""

    preset: Literal["default", "devit", "mlperf"] = Field("default", description="whose rules for energy")
    scenario: Literal["single-stream", "offline", "multi-stream", "server"] = Field(
        "single-stream", description="which load is generated"
    )
    batch: int = Field(1, ge=1, le=4096, description="samples that are inferred at once")
    streams: int = Field(8, ge=1, le=4096, description="multi-stream: samples that arrive at once")
    target_qps: float | None = Field(None, gt=0, le=1e6, description="server: mean arrivals per second")
    generator: Literal["harness", "loadgen"] = Field("harness", description="what generates the load")
    min_time: Duration = Field(1.0, description="a window lasts at least this long")
    min_queries: int = Field(662, ge=1, le=10_000_000, description="and at least this many queries")
    passes: int | None = Field(None, ge=1, le=10_000, description="or passes over the test split, instead")
    max_time: Duration = Field(60.0, description="and ends here in any case (then flagged short)")
    warmup: Literal["steady", "one"] = Field("steady", description="until steady, or one query")
    sustained: Duration | None = Field(None, description="go on for this long, for sustained figures")
    repeats: int = Field(1, ge=1, le=1000, description="processes measured, on the first seed")
    energy: Literal["auto", "off", "require"] = Field("auto", description="read meters if any answer")
    energy_error: Share | None = Field(None, description="lengthen the window until energy is this certain")
    idle_time: Duration = Field(2.0, description="idle before and after the window, where a meter reads")
    cool_down: CoolDown | None = Field(None, description="wait for a temperature before each cell")
    in_flight: int = Field(1, ge=1, le=256, description="fleets: frames that are worked on at once")
    deadline: Duration | None = Field(None, description="fleets: a query is answered within this time")
    on_missing: Literal["fail", "substitute"] = Field(
        "fail", description="fleets: a part that does not answer ends the cell, or something stands in"
    )
    robustness: str | None = Field(
        None, pattern=r"^drop-[1-9]\d?$", description="drop-N: accuracy without 1 to N parts of a split model"
    )

    @field_validator("robustness", mode="before")
    @classmethod
    def _number_of_parts(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"drop-[1-9]\d?", value)):
            raise ValueError(f"write drop-1, drop-2 ...: without up to how many parts, not {value!r}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("preset"), str):
            return value
        return {**PRESETS.get(value["preset"], {}), **value}

    @model_validator(mode="after")
    def _fits(self) -> Measure:
        if self.max_time < self.min_time:
            raise ValueError(f"max_time ({self.max_time} s) is below min_time ({self.min_time} s)")
        if (self.scenario == "server") != (self.target_qps is not None):
            raise ValueError(
                "target_qps belongs to scenario: server"
                if self.target_qps
                else "scenario: server needs target_qps, mean arrivals per second"
            )
        if self.target_qps and self.target_qps * self.max_time < 10:
            raise ValueError(
                f"target_qps ({self.target_qps:g}) is below 10 arrivals in max_time ({self.max_time:g} s)"
            )
        if self.scenario == "server" and self.preset == "devit":
            raise ValueError(
                "preset: devit takes the mean latency, in which a server's queries wait; leave it out"
            )
        if "streams" in self.model_fields_set and self.scenario != "multi-stream":
            raise ValueError("streams belongs to scenario: multi-stream")
        if self.scenario == "server" and self.batch != 1:
            raise ValueError("scenario: server sends one sample a query; batch is 1")
        if self.scenario == "multi-stream" and self.streams % self.batch:
            raise ValueError(f"streams ({self.streams}) is no multiple of batch ({self.batch})")
        if self.in_flight > 1 and (self.scenario == "multi-stream" or self.generator == "loadgen"):
            other = "generator: loadgen" if self.generator == "loadgen" else "scenario: multi-stream"
            raise ValueError(f"in_flight ({self.in_flight}) has no effect with {other}; leave it out")
        if self.deadline == 0:
            raise ValueError("deadline is a time above 0, like 500ms")
        if self.on_missing == "substitute" and self.deadline is None:
            raise ValueError("on_missing: substitute needs deadline, after which something stands in")
        if self.energy == "off" and self.energy_error is not None:
            raise ValueError("energy_error has no effect: energy is off")
        return self


class Prepare(Params):
    """Where models are trained and exported. Threads, processes and device are part of what a result means."""

    threads: int = Field(1, ge=1, le=1024, description="threads of each training process")
    processes: int = Field(1, ge=1, le=64, description="processes that share each training, a GPU each")
    jobs: int | Literal["auto"] = Field("auto", description="trainings at the same time")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")

    @field_validator("jobs")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 256:
            raise ValueError("jobs is auto or 1 to 256")
        return value

    @field_validator("device")
    @classmethod
    def _not_one_of_many(cls, value: str, info: ValidationInfo) -> str:
        if ":" in value and (info.data.get("processes") or 1) > 1:
            raise ValueError(f"{value} is one GPU, and processes above 1 take a GPU each; write cuda")
        return value


class Method(Params):
    """One method: a chain of steps from a build to what is measured."""

    build: EntryRef = None
    from_: Name | None = Field(None, alias="from", description="the method whose result this one starts from")
    compress: tuple[EntryRef, ...] = ()
    partition: EntryRef = None
    place: EntryRef = None
    runtime: EntryRef = None
    data: Mapping[str, Any] | None = Field(None, description="keys that differ from the suite's data")
    train: Mapping[str, Any] | None = Field(None, description="keys that differ from defaults.train")
    threads: int | None = Field(None, ge=1, le=1024)

    @model_validator(mode="after")
    def _one_start(self) -> Method:
        if (self.build is None) == (self.from_ is None):
            raise ValueError("needs one of build: or from:")
        return self


class Defaults(Params):
    """What every method has unless it says otherwise."""

    train: Mapping[str, Any] = {}
    runtime: EntryRef = _Named("onnxruntime", {})
    threads: int = Field(1, ge=1, le=1024)


class DeviceChoice(BaseModel):
    """A device (``backend`` and its parameters) or a fleet of devices."""

    model_config = ConfigDict(extra="allow", frozen=True)

    backend: str | None = None
    threads: int | None = Field(None, ge=1, le=1024)
    fleet: tuple[Name, ...] | None = Field(None, min_length=1, max_length=64)
    central: Name | None = None
    meters: tuple[EntryRef, ...] | None = Field(None, description="which to read, instead of all that answer")
    input: Literal["tensor", "raw"] = Field(
        "tensor", description="of a fleet: images are sent as float32 tensors, or as raw uint8 pixels"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> DeviceChoice:
        if (self.backend is None) == (self.fleet is None):
            raise ValueError("needs one of backend: or fleet:")
        if self.fleet is not None and (self.model_extra or self.threads is not None):
            extra = sorted(self.model_extra or {}) + (["threads"] if self.threads is not None else [])
            raise ValueError(f"a fleet has no {', '.join(extra)}; allowed: fleet, central, input, meters")
        if self.fleet is None and self.central is not None:
            raise ValueError("central belongs to a fleet")
        if self.fleet is None and "input" in self.model_fields_set:
            raise ValueError("input belongs to a fleet: to one device nothing is sent")
        return self


class RunItem(Params):
    """A block of cells: methods x devices x runtimes."""

    methods: Literal["all"] | tuple[str, ...] = Field("all", description="names or patterns (edgevit-*)")
    devices: tuple[Name, ...] = Field(min_length=1)
    runtimes: tuple[EntryRef, ...] | None = Field(None, description="instead of each method's own")
    measure: Mapping[str, Any] | None = Field(None, description="keys that differ from the suite's measure")


class Suite(BaseModel):
    """A suite as written, after grids are expanded and the shape of every key is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Name
    task: Literal["image-classification"] = "image-classification"
    data: Mapping[str, Any]
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
        return self._source

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is written twice")
        return value


# --- finding ------------------------------------------------------------------------------------


# --- checking -------------------------------------------------------------------------------------

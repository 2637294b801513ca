"""The keys of a suite's ``measure`` block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from harness.types.energy import Preset
from harness.types.fields import Duration, Share
from harness.types.measuring import Scenario
from harness.types.params import Params
from harness.types.plain import COMPLETE

__all__ = ["PRESETS", "CoolDown", "Measure"]


class CoolDown(Params):
    """The key ``cool_down``: wait for a temperature before a cell."""

    below: float = Field(ge=-40, le=150, description="degrees Celsius of the hottest sensor")
    limit: Duration = Field(
        300.0, description="longest wait; after it the cell is measured and flagged unsteady"
    )


PRESETS: Mapping[str, Mapping[str, object]] = {
    "default": {},
    # DeViT, section V-A: one warm-up run, then 100 runs over the whole test set, without a pause
    "devit": {"passes": 100, "warmup": "one", "min_time": 0.0, "max_time": 3600.0},
    # MLPerf Power: the energy of the whole system, without subtracting idle
    "mlperf": {"idle_time": 0.0},
}
"""Rules of papers and standards: values for those ``measure:`` keys that a suite does not set."""


class Measure(Params):
    """The keys of ``measure:``, which say how cells are measured."""

    preset: Preset = Field("default", description="the set of rules for energy")
    scenario: Scenario = Field("single-stream", description="the scenario of the workload")
    batch: int = Field(1, ge=1, le=4096, description="number of samples that are inferred at once")
    streams: int = Field(8, ge=1, le=4096, description="multi-stream: number of samples that arrive at once")
    target_qps: float | None = Field(None, gt=0, le=1e6, description="server: mean arrivals per second")
    generator: Literal["harness", "loadgen"] = Field("harness", description="the generator of the workload")
    min_time: Duration = Field(1.0, description="least length of the window")
    min_queries: int = Field(662, ge=1, le=10_000_000, description="least number of queries in the window")
    passes: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="number of passes over the test split, in place of a number of queries",
    )
    max_time: Duration = Field(
        60.0, description="greatest length of the window; a cell that reaches it early is flagged short"
    )
    warmup: Literal["steady", "one"] = Field(
        "steady", description="steady: until the latency is steady; one: one query"
    )
    sustained: Duration | None = Field(
        None, description="length of the workload after the window, for sustained figures"
    )
    repeats: int = Field(1, ge=1, le=1000, description="number of processes that measure the first seed")
    energy: Literal["auto", "off", "require"] = Field(
        "auto",
        description="auto: read the meters that answer; off: read none; require: fail the plan if none answers",
    )
    energy_error: Share | None = Field(
        None, description="relative uncertainty of energy for which the window is lengthened"
    )
    idle_time: Duration = Field(2.0, description="idle time before and after the window, if a meter reads")
    cool_down: CoolDown | None = Field(None, description="wait for a temperature before each cell")
    in_flight: int = Field(
        1, ge=1, le=256, description="fleets: number of queries that are in flight at once"
    )
    deadline: Duration | None = Field(None, description="fleets: time within which a query must be answered")
    on_missing: Literal["fail", "substitute"] = Field(
        "fail",
        description="fleets: what happens if a part does not answer: the cell fails, or a stand-in replaces the part",
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
    def _fits(self, info: ValidationInfo) -> Measure:
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
        written = info.context is not COMPLETE and "streams" in self.model_fields_set
        if written and self.scenario != "multi-stream":
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

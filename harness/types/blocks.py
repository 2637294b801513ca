"""The blocks of a record about what was measured, on what, and how it was prepared. Its figures are in figures.py.

A block distinguishes a null value from an absent one: a key that was not set does not appear in the JSON. It also
keeps unknown keys, so that a record of another version loses nothing.
"""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from harness.types.json import Facts, JsonObject

__all__ = [
    "Block",
    "CoolDownRule",
    "DataBlock",
    "DeviceBlock",
    "Environment",
    "FleetMember",
    "LineageStep",
    "Number",
    "OriginBlock",
    "PartBlock",
    "PreparedOn",
    "RuntimeBlock",
    "SampleFile",
    "ScenarioBlock",
    "TrainingCost",
    "WindowSignals",
    "known",
]

Number: TypeAlias = int | float
"""A number. An integer stays an integer."""


def known(description: str, **options: Any) -> Any:
    """Return a field for a key that may be absent. ``description`` appears in docs/results.md."""
    return Field(None, description=description, **options)


class Block(BaseModel):
    """A group of a record's values. All keys are optional, and unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, ser_json_inf_nan="null", protected_namespaces=())

    @property
    def empty(self) -> bool:
        """Return whether no key is set."""
        return not self.model_fields_set

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key that was set.

        A block can be read as a mapping because observers written for 0.1.0 do so.

        Raises:
            KeyError: the key was not set.
        """
        if key not in self.model_fields_set:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.model_fields_set

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default`` if it was not set."""
        return getattr(self, key) if key in self.model_fields_set else default

    def keys(self) -> KeysView[str]:
        """Return the keys that were set, sorted. ``dict(block)`` and ``**block`` use this."""
        return dict.fromkeys(sorted(self.model_fields_set)).keys()

    def items(self) -> ItemsView[str, Any]:
        """Return the keys that were set, with their values."""
        return {name: self[name] for name in self.keys()}.items()

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        values: JsonObject = handler(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}


class FleetMember(Block):
    """A device that took part in a fleet."""

    name: str | None = known("name, unique in the fleet")
    model: str | None = known("hardware")
    machine: str | None = known("id of the machine")
    parts: list[str] = Field([], description="the parts that it runs")


class DeviceBlock(Block):
    """The device or fleet on which the cell was measured."""

    name: str | None = known("name of the device or fleet in the suite")
    backend: str | None = known("backend of the device; for a fleet, that of its central device")
    model: str | None = known("hardware; for a fleet, the models of its devices joined by ` + `")
    kind: str | None = known("`cpu`, `cuda` ...; for a fleet, that of its central device")
    nodes: int | None = known("number of devices")
    cores: int | None = known("cores; for a fleet, those of its central device")
    memory_bytes: int | None = known("memory; for a fleet, that of its central device")
    details: Facts = Field({}, description="facts that the backend states, free")
    input: str | None = known("for a fleet: images are sent as `tensor` or `raw` pixels")
    devices: list[FleetMember] = Field([], description="for a fleet: the devices that took part")


class RuntimeBlock(Block):
    """The runtime that ran the artifact."""

    name: str | None = known("name of the runtime")
    params: Facts = Field({}, description="its parameters, free")
    precision: str | None = known("actual element type; several types are joined by `+`")
    facts: Mapping[str, Facts] = Field({}, description="by part: facts of its session, free")


class CoolDownRule(Block):
    """The temperature for which a cell waits before it is measured."""

    below: Number | None = known("degrees Celsius of the hottest sensor")
    limit: Number | None = known("seconds after which the cell is measured anyway")


class ScenarioBlock(Block):
    """The rules by which the cell was measured: the keys of `measure:`, with durations in seconds."""

    name: str | None = known("`single-stream`, `offline`, `multi-stream` or `server`")
    threads: int | None = known("threads of each worker")
    preset: str | None = known("the set of rules for energy")
    batch: int | None = known("images that are inferred at once")
    streams: int | None = known("multi-stream: images of a query")
    target_qps: Number | None = known("server: mean arrivals per second")
    generator: str | None = known("`harness` or `loadgen`")
    min_time_s: Number | None = known("least length of the window")
    min_queries: int | None = known("least number of queries in the window")
    passes: int | None = known("passes over the test split, instead of a number of queries")
    max_time_s: Number | None = known("greatest length of the window")
    warmup: str | None = known("`steady` or `one`")
    sustained_s: Number | None = known("length of the workload after the window")
    energy: str | None = known("`auto`, `off` or `require`")
    energy_error: Number | None = known("relative uncertainty of the energy that was requested")
    idle_time_s: Number | None = known("idle time before and after the window")
    cool_down: CoolDownRule | None = known("the temperature for which the cell waited")
    in_flight: int | None = known("for a fleet: queries that are processed at once")
    deadline_s: Number | None = known("for a fleet: time within which a query is answered")
    on_missing: str | None = known("for a fleet: `fail` or `substitute`")
    robustness: str | None = known("`drop-N`: accuracy without 1 to N parts was requested")


class DataBlock(Block):
    """The data of the cell."""

    name: str | None = known("name of the data set")
    task: str | None = known("`image-classification`")
    split: str | None = known("the split on which accuracy is evaluated")
    classes: int | None = known("number of classes")
    shape: list[int] | None = known("channels, height, width of an image")
    fingerprint: str | None = known("hash of the data")
    n: int | None = known("images of the split")
    note: str | None = known("what a reader should know about the data")
    normalize: str | None = known("which mean and standard deviation normalise the images")
    mean: list[Number] | None = known("that mean, per channel, on a 0..1 scale")
    std: list[Number] | None = known("that standard deviation, per channel, on a 0..1 scale")
    resize: str | None = known(
        "how images get their size: `as stored`, or the interpolation and the share that a centre crop keeps"
    )


class OriginBlock(Block):
    """An entry that the cell used, and the code behind it."""

    plugin: str | None = known("name of its plugin")
    distribution: str | None = known("name of the plugin's distribution")
    version: str | None = known("version of the distribution")
    source: str | None = known("hash of the plugin's source")
    requires: Mapping[str, str] = Field(
        {}, description="version of each distribution that the entry requires"
    )


class PartBlock(Block):
    """One part of the model."""

    name: str | None = known("name of the part")
    device: int | None = known("index of its device in the fleet")
    inputs: list[str] = Field([], description="`image` or earlier parts")
    params: int | None = known("parameters")
    macs: int | None = known("multiply-accumulates of one image, all operations")
    macs_linear: int | None = known("the same of linear layers and convolutions alone")
    weight_bytes: int | None = known("bytes of the weights as exported")
    activation_bytes: int | None = known("peak of live activations, batch 1")
    output: list[int] = Field([], description="shape of one image's output")


class LineageStep(Block):
    """One preparing step and its cost."""

    stage: str | None = known("`build`, `compress` or `partition`")
    entry: str | None = known("the entry that made it")
    params: Facts = Field({}, description="its parameters, free")
    image_passes: int | None = known("images that passed through the model in training")
    train_macs: Number | None = known("multiply-accumulates of the training")
    train_s: Number | None = known("time of the training")
    notes: Facts = Field({}, description="notes of the entry, free")


class TrainingCost(Block):
    """Sums over the preparing steps."""

    train_s: Number | None = known("time of all training")
    image_passes: int | None = known("images that passed through a model in training")
    train_macs: Number | None = known("multiply-accumulates of all training")


class PreparedOn(Block):
    """The facts of the preparing machine that change trained weights."""

    torch: str | None = known("version of torch")
    timm: str | None = known("version of timm")
    capability: str | None = known("vector instructions of the CPU; empty if a GPU trains")
    device: str | None = known("torch's name of the training device")
    gpu: str | None = known("model of the GPU")


class WindowSignals(Block):
    """The signals that the kernel counted in the window, for the measuring process and the machine."""

    wall_s: Number | None = known("length of the window")
    cpu_s: Number | None = known("CPU time of the measuring process")
    cores: Number | None = known("cores that it may use")
    voluntary_switches: Number | None = known("context switches while it waited")
    involuntary_switches: Number | None = known("context switches that took the core away")
    major_faults: Number | None = known("pages that were read from disk")
    swap_in_pages: Number | None = known("pages that the machine read from swap")
    delay_s: Number | None = known("time in which it could have run and waited for a core")
    foreign_cores: Number | None = known("cores in use that other processes kept busy")
    elsewhere_cores: Number | None = known("other cores that were busy")
    steal_cores: Number | None = known("cores that the hypervisor took")
    thermal_events: Number | None = known("thermal throttling events that the kernel counted")


class Environment(Block):
    """The machine and its software."""

    machine_id: str | None = known("salted hash of the machine's id")
    os: str | None = known("operating system")
    kernel: str | None = known("kernel")
    arch: str | None = known("processor architecture")
    python: str | None = known("version of Python")
    cpu: str | None = known("model of the processor")
    cores_physical: int | None = known("physical cores")
    cores_logical: int | None = known("logical cores")
    memory_bytes: int | None = known("memory")
    cpu_capability: str | None = known("vector instructions that torch uses")
    governor: str | None = known("frequency governor")
    virtualised: bool | None = known("whether it is a virtual machine")
    versions: Mapping[str, str | None] = Field(
        {}, description="by distribution: its version, null if not installed"
    )
    telemetry_off: list[str] = Field(
        [], description="environment variables that switch off the telemetry of libraries"
    )
    prepared_on: PreparedOn | None = known("the machine on which models were prepared")
    window: WindowSignals | None = known("signals of the window")


class SampleFile(Block):
    """The file of the raw samples; empty if there are none."""

    file: str | None = known("path of the raw samples in the results folder")
    sha256: str | None = known("SHA-256 of their content")

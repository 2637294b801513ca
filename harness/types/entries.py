"""Entries: what plugins give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types.context import Context
from harness.types.data import DataInfo, Dataset
from harness.types.devices import Device, DeviceInfo, DeviceSpec, Fleet, Unavailable
from harness.types.meters import Log, Meter, MeterInfo, Watch
from harness.types.models import Model, ModuleSpec, Partition, Placement, Sketch
from harness.types.params import Entry

__all__ = [
    "BackendEntry",
    "CompressorEntry",
    "DatasetEntry",
    "MeterEntry",
    "ModelEntry",
    "PartitionerEntry",
    "PlacerEntry",
]


@dataclass(frozen=True, kw_only=True)
class _StepEntry(Entry):
    """``files(params)``, optional, names files on which the result depends: when one changes, it is made anew."""

    files: Callable[[Any], Iterable[Path]] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelEntry(_StepEntry):
    """A model builder.

    ``build(ctx, params)`` returns the model before training (the harness trains it with the
    method's recipe; ``train: {epochs: 0}`` leaves it as built).
    ``describe(params, data)``, optional and without torch, tells at planning time what will be
    built; it raises ``ValueError`` for what cannot be.
    """

    build: Callable[[Context, Any], Model]
    describe: Callable[[Any, DataInfo], ModuleSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class CompressorEntry(_StepEntry):
    """A compressor: model in, smaller or retrained model out; they chain.

    ``changes`` declares what the result may not share with its input: "data" (it may be trained on
    another data set), "classes", "input". ``describe(spec, params, data)`` as for builders.
    """

    compress: Callable[[Context, Model, Any], Model]
    changes: frozenset[str] = frozenset()
    describe: Callable[[ModuleSpec, Any, DataInfo], ModuleSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class PartitionerEntry(_StepEntry):
    """A partitioner: one model in, parts out. ``sketch`` runs at planning time, without torch.

    ``sketch(spec, params, fleet)`` raises ``ValueError`` for a partition that cannot be made; ``spec``
    is ``None`` where the model's shape is not known before it is built.
    """

    sketch: Callable[[ModuleSpec | None, Any, Fleet], Sketch]
    partition: Callable[[Context, Model, Any, Sketch], Partition]


@dataclass(frozen=True, kw_only=True)
class PlacerEntry(Entry):
    """Decides which device of a fleet runs which part."""

    place: Callable[[Sketch, Fleet, Any], Placement]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set. ``describe(params)`` never downloads; ``load(params, split)`` takes train or test."""

    describe: Callable[[Any], DataInfo]
    load: Callable[[Any, str], Dataset]


@dataclass(frozen=True, kw_only=True)
class BackendEntry(Entry):
    """A kind of device. ``probe()`` tells what is there, ``describe(spec)`` what a suite's device is;
    ``open(spec)`` starts a fresh worker on it.
    """

    probe: Callable[[], Iterable[DeviceInfo | Unavailable]]
    describe: Callable[[DeviceSpec], DeviceInfo | Unavailable]
    open: Callable[[DeviceSpec], Device]


@dataclass(frozen=True, kw_only=True)
class MeterEntry(Entry):
    """A kind of power or energy meter.

    ``probe()`` tries every query it needs, and tells what is there without being told where to look;
    ``describe(params)``, for a meter that must be told (an address, a file), does so for what a suite says,
    and raises ``ValueError`` for what cannot be. ``open(info)`` runs in the process that samples.
    ``watch()``, optional, opens what this kind knows of the machine's state, ``None`` where it knows nothing;
    it runs in that process too, so that functions are at their module's top level.
    """

    probe: Callable[[], Iterable[MeterInfo | Unavailable]]
    open: Callable[[MeterInfo], Meter | Log]
    describe: Callable[[Any], Iterable[MeterInfo | Unavailable]] | None = None
    watch: Callable[[], Watch | None] | None = None

"""The kinds of entries that plugins provide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types.context import Context
from harness.types.data import DataInfo, Dataset, Preprocessing
from harness.types.devices import Device, DeviceInfo, DeviceSpec, Fleet, Unavailable
from harness.types.meters import Log, Meter, MeterInfo, Watch
from harness.types.models import Model, ModuleSpec, Partition, Placement, Sketch, StartingWeights
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
    """The base of entries for preparing steps.

    ``files(params)`` is optional. It returns files on which the result depends. If one changes, the result is made
    again.
    """

    files: Callable[[Any], Iterable[Path]] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelEntry(_StepEntry):
    """A model builder.

    ``build(ctx, params)`` returns the model before training. The harness trains it with the method's recipe; ``train:
    {epochs: 0}`` leaves it untrained. ``describe(params, data)`` is optional and runs in planning, without torch. It
    returns the spec of the module, and raises ``ValueError`` if the parameters cannot be built.

    Two optional functions are for models that start from pretrained weights. They run in planning too, and return None
    for a model that does not. ``preprocessing(params)`` returns how the weights' images were prepared: the default for
    the data of this method. ``weights(params, data)`` returns the weights and how they fit the data, or raises
    ``ValueError``. Plan, lineage and table say what it returns.
    """

    build: Callable[[Context, Any], Model]
    describe: Callable[[Any, DataInfo], ModuleSpec] | None = None
    preprocessing: Callable[[Any], Preprocessing | None] | None = None
    weights: Callable[[Any, DataInfo], StartingWeights | None] | None = None


@dataclass(frozen=True, kw_only=True)
class CompressorEntry(_StepEntry):
    """A compressor: it makes a smaller or retrained model from a model. Compressors chain.

    ``changes``: the respects in which the result may differ from its input: "data" (another data set), "classes",
    "input". ``describe(spec, params, data)`` is like that of :class:`ModelEntry`, and starts from the input's
    ``spec``.
    """

    compress: Callable[[Context, Model, Any], Model]
    changes: frozenset[str] = frozenset()
    describe: Callable[[ModuleSpec, Any, DataInfo], ModuleSpec] | None = None


@dataclass(frozen=True, kw_only=True)
class PartitionerEntry(_StepEntry):
    """A partitioner: it splits a model into parts.

    ``sketch(spec, params, fleet)`` runs in planning without torch. It raises ``ValueError`` for a partition that
    cannot be made. ``spec`` is ``None`` if planning does not know how the model is built. ``partition(ctx, model,
    params, sketch)`` makes the parts.
    """

    sketch: Callable[[ModuleSpec | None, Any, Fleet], Sketch]
    partition: Callable[[Context, Model, Any, Sketch], Partition]


@dataclass(frozen=True, kw_only=True)
class PlacerEntry(Entry):
    """A placer: ``place(sketch, fleet, params)`` decides which device of a fleet runs which part."""

    place: Callable[[Sketch, Fleet, Any], Placement]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set. ``describe(params)`` downloads nothing. ``load(params, split)`` loads "train" or "test".

    ``source`` is the parameter that says which data are read, such as a path, or empty. Other parameters are facts of
    this source, such as its number of classes, except those in ``reading``, which say how any source is read. If a
    method's ``data`` names another source than the suite's, it inherits the parameters in ``reading`` and no facts.
    """

    describe: Callable[[Any], DataInfo]
    load: Callable[[Any, str], Dataset]
    source: str = ""
    reading: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class BackendEntry(Entry):
    """A kind of device.

    ``probe()`` returns the devices that it finds. ``describe(spec)`` describes a device of a suite and raises
    ``ValueError`` for parameters that cannot be right. ``open(spec)`` starts a new worker on it.
    """

    probe: Callable[[], Iterable[DeviceInfo | Unavailable]]
    describe: Callable[[DeviceSpec], DeviceInfo | Unavailable]
    open: Callable[[DeviceSpec], Device]


@dataclass(frozen=True, kw_only=True)
class MeterEntry(Entry):
    """A kind of power or energy meter.

    ``probe()`` returns the meters that answer every query they need, without parameters. ``describe(params)`` is for
    a meter that needs parameters, such as an address or a file. It returns the meters that a suite names and raises
    ``ValueError`` for parameters that cannot be right. ``open(info)`` runs in the sampler. ``watch()`` is optional.
    It opens a watch of the machine's state, or returns ``None``. It also runs in the sampler. Both are functions at
    the top level of their module, so that another process can import them.
    """

    probe: Callable[[], Iterable[MeterInfo | Unavailable]]
    open: Callable[[MeterInfo], Meter | Log]
    describe: Callable[[Any], Iterable[MeterInfo | Unavailable]] | None = None
    watch: Callable[[], Watch | None] | None = None

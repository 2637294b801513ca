"""All hooks of the harness.

A plugin is a module that has some of these functions, marked with ``@hookimpl``, and that an entry point in the group
``harness`` names. Collecting hooks take no argument and return an iterable of entries. Observers return ``None``.
Keep a plugin's module light: import torch inside the functions that the entries name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pluggy

from harness.types import (
    BackendEntry,
    CompressorEntry,
    DatasetEntry,
    MeterEntry,
    ModelEntry,
    PartitionerEntry,
    PlacerEntry,
    RuntimeEntry,
)

if TYPE_CHECKING:
    from harness.types.plan import Cell, Plan
    from harness.types.record import Record

__all__ = ["COLLECTING", "OBSERVERS", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")


@hookspec
def harness_models() -> Iterable[ModelEntry]:
    """Return the model builders of the plugin. A suite names one under ``build:``.

    Example::

        class MlpParams(Params):
            width: int = 64

        def build_mlp(ctx, params):
            from my_plugin.model import mlp   # torch is imported here, not above
            spec = ModuleSpec(factory="my_plugin.model:mlp", params={
                "shape": list(ctx.data.info.shape), "width": params.width,
                "classes": ctx.data.info.classes})
            return Model(module=spec.build(), spec=spec,
                         input=TensorSpec(shape=ctx.data.info.shape), classes=ctx.data.info.classes)

        @hookimpl
        def harness_models():
            yield ModelEntry(name="mlp", summary="two linear layers", params=MlpParams,
                             build=build_mlp, requires=("torch",), extra="bench")
    """


@hookspec
def harness_compressors() -> Iterable[CompressorEntry]:
    """Return the compressors of the plugin. A suite names them in the list ``compress:``, and they run in that order.

    Example::

        def prune(ctx, model, params):
            smaller = ...                       # a torch.nn.Module made from model.module
            ctx.fit(smaller, name="recover", epochs=params.epochs)
            return replace(model, module=smaller, spec=ModuleSpec(factory="my_plugin.model:small"))

        @hookimpl
        def harness_compressors():
            yield CompressorEntry(name="my-prune", summary="...", params=PruneParams, compress=prune)
    """


@hookspec
def harness_partitioners() -> Iterable[PartitionerEntry]:
    """Return the partitioners of the plugin. A suite names one under ``partition:``.

    Example::

        def sketch(spec, params, fleet):        # planning time: no torch, raises ValueError
            return Sketch(parts=(PartSketch(name="front", inputs=("image",), params=..., macs=...,
                                            weight_bytes=..., output_bytes=...), ...))

        def partition(ctx, model, params, sketch):
            return Partition(parts=(Part(name="front", ...), Part(name="back", ...)), classes=model.classes)

        @hookimpl
        def harness_partitioners():
            yield PartitionerEntry(name="my-split", summary="...", params=SplitParams,
                                   sketch=sketch, partition=partition)
    """


@hookspec
def harness_placers() -> Iterable[PlacerEntry]:
    """Return the placers of the plugin. A suite names one under ``place:``. A placer maps parts to devices.

    Example::

        def all_on_central(sketch, fleet, params):
            return Placement(device_of={part.name: fleet.central for part in sketch.parts})

        @hookimpl
        def harness_placers():
            yield PlacerEntry(name="central", summary="everything on one device", place=all_on_central)
    """


@hookspec
def harness_datasets() -> Iterable[DatasetEntry]:
    """Return the data sets of the plugin. A suite names one under ``data: {name: ...}``.

    Example::

        def describe_noise(params):   # at the module's top level: other processes find it by name
            return DataInfo(name="noise", shape=(3, 32, 32), ...)

        def load_noise(params, split):
            return Noise(params, split)

        @hookimpl
        def harness_datasets():
            yield DatasetEntry(name="noise", summary="random pixels", params=NoiseParams,
                               describe=describe_noise, load=load_noise)
    """


@hookspec
def harness_backends() -> Iterable[BackendEntry]:
    """Return the device backends of the plugin. A suite names one under ``devices: {NAME: {backend: ...}}``.

    Example::

        @hookimpl
        def harness_backends():
            yield BackendEntry(name="my-board", summary="...", params=BoardParams,
                               probe=list_boards, describe=describe_board, open=open_board)
    """


@hookspec
def harness_runtimes() -> Iterable[RuntimeEntry]:
    """Return the runtimes of the plugin. A suite names one under ``runtime:``.

    A runtime exports a part in a process that has torch. It loads the result in the worker, which imports no torch
    unless the runtime does.

    Example::

        def load_engine_file(artifact, options):   # runs in the worker, torch-free
            import my_engine                        # first what the runtime needs anyway ...
            mark_baseline()                         # ... of harness.devices: what follows is the model's memory
            return EngineSession(artifact, options)

        @hookimpl
        def harness_runtimes():
            yield RuntimeEntry(name="my-engine", summary="...", params=EngineParams,
                               export=write_engine_file, load=load_engine_file,
                               precision=name_precision, tolerance=name_tolerance)
    """


@hookspec
def harness_meters() -> Iterable[MeterEntry]:
    """Return the meters of power and energy, and the watches of the machine's state, that the plugin has.

    docs/meters.md has a longer example. Example::

        class Watts:                     # at the module's top level: another process opens it by name,
            def __init__(self, info):    # with an info that went through JSON
                self.file = Path(info.details["file"])

            def read(self):
                return time.monotonic_ns(), int(self.file.read_text()) / 1e6

            def close(self):
                pass

        def find_rails():                # tries what will be read; never raises
            for file in Path("/sys/class/hwmon").glob("hwmon*/power1_input"):
                info = MeterInfo(name=f"hwmon:{file.parent.name}", scope="rails", watches=str(file.parent),
                                 provenance="measured", quantity="power", period_s=0.1,
                                 details={"file": str(file)})
                try:
                    Watts(info).read()
                    yield info
                except (OSError, ValueError) as error:
                    yield Unavailable(name=info.name, reason=str(error), fix=f"sudo chmod a+r {file}")

        @hookimpl
        def harness_meters():
            yield MeterEntry(name="hwmon", summary="a rail's power by hwmon", probe=find_rails, open=Watts)
    """


@hookspec
def harness_run_started(plan: Plan) -> None:
    """Observe that a run begins.

    Example::

        @hookimpl
        def harness_run_started(plan):
            print(f"{len(plan.cells)} cells")
    """


@hookspec
def harness_cell_started(cell: Cell) -> None:
    """Observe that a cell is about to be measured. The hook is never called inside a measuring window.

    Example::

        @hookimpl
        def harness_cell_started(cell):
            print(cell.method, cell.seed)
    """


@hookspec
def harness_cell_finished(record: Record) -> None:
    """Observe that a cell's record is on disk. Its blocks have named fields, such as ``record.latency.p50_ms``.

    Example::

        @hookimpl
        def harness_cell_finished(record):
            tracker.log(record.model_dump())
    """


@hookspec
def harness_run_finished(records: Sequence[Record]) -> None:
    """Observe that a run is over. ``records`` are the records of this run's cells.

    Example::

        @hookimpl
        def harness_run_finished(records):
            print(f"{len(records)} records")
    """


COLLECTING: dict[str, type] = {
    "harness_models": ModelEntry,
    "harness_compressors": CompressorEntry,
    "harness_partitioners": PartitionerEntry,
    "harness_placers": PlacerEntry,
    "harness_datasets": DatasetEntry,
    "harness_backends": BackendEntry,
    "harness_runtimes": RuntimeEntry,
    "harness_meters": MeterEntry,
}
"""Collecting hook -> the entry type that it returns."""

OBSERVERS = ("harness_run_started", "harness_cell_started", "harness_cell_finished", "harness_run_finished")

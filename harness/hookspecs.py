"""Every hook of the harness. A plugin is a module with any of these functions, marked with ``@hookimpl``,
and an entry point in the group ``harness``.

Collecting hooks take no argument and return an iterable of entries. Observers return ``None``.
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
    """Model builders: what stands under ``build:``.

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
    """Compressors: what stands in the list ``compress:``. They chain.

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
    """Partitioners: what stands under ``partition:``. Parts may run on several devices.

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
    """Placers: what stands under ``place:``; they map parts to a fleet's devices.

    Example::

        def all_on_central(sketch, fleet, params):
            return Placement(device_of={part.name: fleet.central for part in sketch.parts})

        @hookimpl
        def harness_placers():
            yield PlacerEntry(name="central", summary="everything on one device", place=all_on_central)
    """


@hookspec
def harness_datasets() -> Iterable[DatasetEntry]:
    """Data sets: what stands under ``data: {name: ...}``.

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
    """Device backends: what stands under ``devices: {NAME: {backend: ...}}``.

    Example::

        @hookimpl
        def harness_backends():
            yield BackendEntry(name="my-board", summary="...", params=BoardParams,
                               probe=list_boards, describe=describe_board, open=open_board)
    """


@hookspec
def harness_runtimes() -> Iterable[RuntimeEntry]:
    """Runtimes: what stands under ``runtime:``. Export where torch is, load in the worker.

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
    """Power and energy meters, and what tells the state of the machine.

    docs/meters.md has a longer one. Example::

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
    """A run begins.

    Example::

        @hookimpl
        def harness_run_started(plan):
            print(f"{len(plan.cells)} cells")
    """


@hookspec
def harness_cell_started(cell: Cell) -> None:
    """A cell is about to be measured (never called inside a measuring window).

    Example::

        @hookimpl
        def harness_cell_started(cell):
            print(cell.method, cell.seed)
    """


@hookspec
def harness_cell_finished(record: Record) -> None:
    """A cell's record is on disk. Its blocks have named fields, as in ``record.latency.p50_ms``.

    Example::

        @hookimpl
        def harness_cell_finished(record):
            tracker.log(record.model_dump())
    """


@hookspec
def harness_run_finished(records: Sequence[Record]) -> None:
    """A run is over; ``records`` are those of this run's cells.

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

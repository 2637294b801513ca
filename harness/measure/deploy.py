"""Deploy a cell: load its parts on the devices, and connect the central node.

A deployed cell shares its windows with the devices other than the central one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from harness.contracts.opened import CheckedDevice
from harness.machine.energy.durations import lengthened
from harness.plugins import Plugins
from harness.store.artifacts import Store
from harness.types import (
    Artifact,
    Clock,
    Device,
    DeviceReport,
    DeviceSpec,
    Graph,
    GraphPart,
    MeterInfo,
    Samples,
    Workload,
)
from harness.types.artifacts import ExportMeta
from harness.types.json import Facts
from harness.types.plan import Cell, CellTask, DataFacts

__all__ = ["Deployed", "deploy", "graph_of", "device_names", "places_of", "stored_artifact"]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The opened devices of a cell, by their index in the fleet.

    ``places``: part -> index of its device. ``facts``: part -> facts of its session. ``meters``: the meters of the
    devices other than the central one.
    """

    devices: Mapping[int, Device]
    central_index: int
    graph: Graph
    places: Mapping[str, int]
    facts: Mapping[str, Facts]
    meters: tuple[MeterInfo, ...] = ()

    @property
    def central(self) -> Device:
        """Return the device that has the image and gives the answer."""
        return self.devices[self.central_index]

    @property
    def remote(self) -> bool:
        """Return whether a part runs on another machine."""
        return any(device.remote for device in self.devices.values())

    @property
    def peers(self) -> dict[int, Device]:
        """Return the devices other than the central one, by index."""
        return {index: device for index, device in self.devices.items() if index != self.central_index}

    def measure(self, workload: Workload, images: Any) -> tuple[Samples, dict[int, DeviceReport]]:
        """Generate the workload at the central device. Return its samples, and by index the report of every other device.

        The times of the window are converted from the clock of the central device to that of each other device,
        through the clock of this machine.
        """
        first = {index: device.clock() for index, device in self.devices.items()} if self.peers else {}
        for device in self.peers.values():
            device.begin()
        samples = self.central.measure(lengthened(workload, self.meters), images)
        last = {index: self.devices[index].clock() for index in first}
        beside = {}
        for index, device in self.peers.items():
            spans, error = _carried(samples.spans, self.central_index, index, first, last)
            beside[index] = device.end(spans, error, len(samples.trace.latency_ns) * samples.batch)
        return samples, beside


def _carried(
    spans: Mapping[str, tuple[int, int]],
    source: int,
    target: int,
    first: Mapping[int, Clock],
    last: Mapping[int, Clock],
) -> tuple[dict[str, tuple[int, int]], int]:
    """Return the spans on the clock of device ``target``, and their error in nanoseconds.

    The error includes the errors of both clocks and their drift.
    """

    def apart(clocks: Mapping[int, Clock]) -> int:
        return clocks[target].offset_ns - clocks[source].offset_ns

    shift = (apart(first) + apart(last)) // 2
    error = max(clocks[target].error_ns + clocks[source].error_ns for clocks in (first, last))
    error += abs(apart(last) - apart(first)) // 2
    carried = {
        name: (spans[name][0] + shift, spans[name][1] + shift)
        for name in ("before", "load", "after")
        if name in spans
    }
    return carried, error


def deploy(cell: Cell, export: ExportMeta, plugins: Plugins, store: Store, stack: ExitStack) -> Deployed:
    """Load every part on its device, and connect the devices. ``stack`` closes the devices, the central one first.

    Raises:
        DeviceError: a device cannot be used, or an artifact does not load.
        BoardLost: a board does not answer.
        BrokenContract: a backend gives no device, or a remote device that does not name its machine.
    """
    task = cell.task
    runtime = plugins.runtimes.get(task.runtime.name).entry
    places = places_of(cell, export)
    used = sorted({task.central, *places.values()}, key=lambda index: index == task.central)
    names = device_names(task)
    devices: dict[int, Device] = {}
    for index in used:
        spec = task.specs[index]
        backend = plugins.backends.get(spec.backend).entry
        device = backend.open(
            DeviceSpec(
                name=names[index],
                backend=spec.backend,
                params=backend.params(**spec.params),
                threads=spec.threads,
                monitor=task.monitors[index],
            )
        )
        if hasattr(device, "close"):  # what is no device is refused below
            stack.callback(device.close)
        need = plugins.backends.need(spec.backend)
        devices[index] = stack.enter_context(CheckedDevice(need, device))
    facts = {}
    for part in export.parts:
        artifact = stored_artifact(part.artifact, store, cell.export)
        facts[part.name] = dict(devices[places[part.name]].load(part.name, artifact, runtime))
    central = devices[task.central]
    serving = {index: devices[index].serve(central) for index in used if index != task.central}
    graph = graph_of(export, task.data if task.input == "raw" else None)
    central.connect(graph, {name: serving[index] for name, index in places.items() if index in serving})
    monitors = [task.monitors[index] for index in used if index != task.central]
    return Deployed(
        devices=devices,
        central_index=task.central,
        graph=graph,
        places=places,
        facts=facts,
        meters=tuple(use.info for monitor in monitors for use in monitor.meters),
    )


def places_of(cell: Cell, export: ExportMeta) -> dict[str, int]:
    """Return the device of each part: part -> index of the device in the fleet."""
    placement = cell.task.placement or {}
    return {part.name: placement.get(part.name, 0) for part in export.parts}


def device_names(task: CellTask) -> list[str]:
    """Return a unique name for each device of a fleet. Repeated names get a number: ``here``, ``here-2``."""
    names: list[str] = []
    for spec in task.specs:
        count, name = 1, spec.name
        while name in names:
            count += 1
            name = f"{spec.name}-{count}"
        names.append(name)
    return names


def graph_of(export: ExportMeta, raw: DataFacts | None = None) -> Graph:
    """Return the graph of an export's parts.

    With ``raw``, images are sent to other devices as raw pixels of this data, otherwise as preprocessed tensors.
    """
    parts = tuple(
        GraphPart(
            name=part.name,
            inputs=part.inputs,
            output=part.output,
            stand_ins=part.stand_ins,
            wire_dtype=part.wire_dtype,
        )
        for part in export.parts
    )
    if raw is not None:
        return Graph(parts=parts, input_wire="uint8", mean=raw.mean, std=raw.std)
    return Graph(parts=parts)


def stored_artifact(artifact: Artifact, store: Store, key: str) -> Artifact:
    """Return ``artifact`` with its path in the store instead of its path relative to the folder of ``key``."""
    return replace(artifact, path=store.folder(key) / artifact.path)

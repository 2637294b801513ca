"""A plugin for tests of fleets: linear parts, a runtime of numpy, boards that are processes of this machine."""

import os
import signal
import time
from dataclasses import asdict, replace

import numpy as np

from harness.devices import LocalTransport, WorkerDevice
from harness.errors import BoardLost
from harness.hookspecs import hookimpl
from harness.types import (
    IMAGE,
    Artifact,
    BackendEntry,
    Clock,
    DeviceInfo,
    Edge,
    MeterInfo,
    Model,
    ModelEntry,
    ModuleSpec,
    Monitor,
    Params,
    Part,
    Partition,
    PartitionerEntry,
    PartSketch,
    Placement,
    RuntimeEntry,
    SessionOptions,
    Sketch,
    TensorSpec,
    Unavailable,
)

AWAY: dict[str, int] = {}
"""Boards that do not answer: how many more looks at them find nothing."""
FALLS: dict[str, int] = {}
"""Boards that are lost when they are opened for the n-th time, and then for so many looks away."""
SEEN: list[tuple] = []
"""What was asked of boards."""


def joined(inputs, outputs):
    """Return a linear layer over all inputs, flattened. torch is imported here, because workers import this module."""
    import torch

    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(inputs, outputs)

        def forward(self, *given):
            return self.linear(torch.cat([value.flatten(1) for value in given], 1))

    return Joined()


def spec_of(inputs, outputs):
    return ModuleSpec(factory="fleet_toys:joined", params={"inputs": inputs, "outputs": outputs})


class Session:
    def __init__(self, artifact, options):
        with np.load(artifact.path / "weights.npz") as arrays:
            self.weight, self.bias = arrays["weight"].T, arrays["bias"]
        self.facts = {"precision": "float32", "threads": options.threads}

    def run(self, inputs):
        flat = np.concatenate([np.reshape(value, (len(value), -1)) for value in inputs], 1)
        return (flat @ self.weight + self.bias).astype(np.float32)

    def close(self):
        pass


def load(artifact, options):
    return Session(artifact, options)


def die(artifact, options):
    """End the process, as the system does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def export(ctx, part, params):
    linear = part.module.linear
    arrays = {name: getattr(linear, name).detach().numpy() for name in ("weight", "bias")}
    np.savez(ctx.workdir / "weights.npz", **arrays)
    return Artifact(
        path=ctx.workdir,
        runtime="plain",
        precision="float32",
        weight_bytes=sum(a.nbytes for a in arrays.values()),
        inputs=tuple(edge.tensor for edge in part.inputs),
        output=part.output,
    )


class SplitParams(Params):
    parts: int = 3
    missing: str | None = "zeros"
    wire: str = "float32"


def build(ctx, params):
    import torch

    inputs = int(np.prod(ctx.data.info.shape))
    torch.manual_seed(ctx.seed)
    spec = spec_of(inputs, ctx.data.info.classes)
    return Model(
        module=spec.build(),
        spec=spec,
        input=TensorSpec(shape=ctx.data.info.shape),
        classes=ctx.data.info.classes,
    )


def sketch(spec, params, fleet):
    names = [f"sub{i}" for i in range(1, params.parts + 1)]
    others = [i for i in range(len(fleet.devices)) if i != fleet.central] or [fleet.central]
    places = {name: others[i % len(others)] for i, name in enumerate(names)} | {"fusion": fleet.central}
    parts = [
        PartSketch(name=n, inputs=(IMAGE,), params=1, macs=1, weight_bytes=1, output_bytes=16) for n in names
    ]
    parts.append(
        PartSketch(name="fusion", inputs=tuple(names), params=1, macs=1, weight_bytes=1, output_bytes=16)
    )
    return Sketch(parts=tuple(parts), placement=Placement(device_of=places))


def split(ctx, model, params, sketch):
    import torch

    torch.manual_seed(ctx.seed + 1)
    inputs, feature = int(np.prod(model.input.shape)), TensorSpec(shape=(4,))

    def part(name, edges, spec, output):
        return Part(name=name, module=spec.build(), spec=spec, inputs=edges, output=output)

    image = (Edge(source=IMAGE, tensor=model.input),)
    subs = [part(f"sub{i}", image, spec_of(inputs, 4), feature) for i in range(1, params.parts + 1)]
    edges = tuple(
        Edge(source=sub.name, tensor=feature, missing=params.missing, wire_dtype=params.wire) for sub in subs
    )
    answer = TensorSpec(shape=(model.classes,))
    fusion = part("fusion", edges, spec_of(4 * params.parts, model.classes), answer)
    return Partition(parts=(*subs, fusion), classes=model.classes)


class BoardParams(Params):
    machine: str
    emulated: bool = False
    offset_ns: int = 0
    link: dict[str, float] | None = None
    watts: float | None = None


class ToyMeter:
    def __init__(self, info):
        self.watts = info.details["watts"]

    def read(self):
        return time.monotonic_ns(), self.watts

    def close(self):
        pass


def open_meter(info):
    return ToyMeter(info)


class Board(WorkerDevice):
    """A process that poses as another machine, with a clock of its own."""

    def __init__(self, spec):
        own = tuple(replace(use, open="fleet_toys:open_meter") for use in spec.monitor.meters)
        transport = LocalTransport(spec.name, Monitor(meters=own))
        super().__init__(describe(spec), transport, SessionOptions(threads=spec.threads))
        self.remote = True
        self.params = spec.params

    def serve(self, central):
        self.remote = False  # the other one may ask
        central.remote, before = False, central.remote
        try:
            return super().serve(central)
        finally:
            central.remote, self.remote = before, True

    def clock(self):
        return Clock(offset_ns=self.params.offset_ns, error_ns=10)

    def measure(self, load, images):
        samples, offset = super().measure(load, images), self.params.offset_ns
        spans = {name: (begin + offset, end + offset) for name, (begin, end) in samples.spans.items()}
        return replace(samples, spans=spans)

    def end(self, spans, clock_error_ns, images):
        SEEN.append((self.info.name, dict(spans), clock_error_ns, images))
        here = {name: tuple(ns - self.params.offset_ns for ns in span) for name, span in spans.items()}
        return super().end(here, clock_error_ns, images)


def describe(spec):
    name = spec.name.partition("-")[0]
    if AWAY.get(name, 0) > 0:
        AWAY[name] -= 1
        return Unavailable(name=name, reason="does not answer")
    details = {}
    if spec.params.link:
        details["link"] = spec.params.link
    if spec.params.watts is not None:
        info = MeterInfo(
            name="toy:board",
            scope="board",
            watches="board",
            provenance="measured",
            quantity="power",
            period_s=0.05,
            calibration=0.01,
            details={"watts": spec.params.watts},
        )
        details["meters"] = [asdict(info)]
    return DeviceInfo(
        name=spec.name,
        backend="board",
        model="Toy board",
        kind="cpu",
        cores=1,
        memory_bytes=1,
        emulated=spec.params.emulated,
        machine_id=spec.params.machine,
        details=details,
    )


def open_board(spec):
    if spec.name in FALLS:
        AWAY[spec.name] = FALLS.pop(spec.name)
    if AWAY.get(spec.name, 0) > 0:
        AWAY[spec.name] -= 1
        raise BoardLost(f"{spec.name} does not answer", board=spec.name)
    return Board(spec)


@hookimpl
def harness_models():
    yield ModelEntry(name="toy", summary="", build=build)


@hookimpl
def harness_partitioners():
    yield PartitionerEntry(name="toys", summary="", params=SplitParams, sketch=sketch, partition=split)


@hookimpl
def harness_runtimes():
    yield RuntimeEntry(
        name="plain",
        summary="",
        export=export,
        load=load,
        precision=lambda params: "float32",
        tolerance=lambda params: 1e-4,
        requires=("onnx",),  # boards take no other
    )


@hookimpl
def harness_backends():
    yield BackendEntry(
        name="board", summary="", params=BoardParams, probe=lambda: (), describe=describe, open=open_board
    )

"""Tests of values as JSON and bytes: they come back unchanged, and anything else is refused with one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import DeviceError
from harness.types import (
    Artifact,
    DeviceReport,
    FleetLoad,
    Graph,
    GraphPart,
    LatencyTrace,
    PartTrace,
    Reading,
    Samples,
    TensorSpec,
    WarmUp,
    Workload,
)
from harness.worker.commands import Begin, End
from harness.worker.frames import pack

pytest.importorskip("google.protobuf")

from harness_remote.wire import codec
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Neighbour,
    Open,
    Serve,
    Served,
    ShippedArtifact,
    answer_of,
    command_of,
)

GRAPH = Graph(
    parts=(
        GraphPart(name="a/b", inputs=("image",), output=TensorSpec(shape=(3, 4)), wire_dtype="float16"),
        GraphPart(
            name="fuse", inputs=("a/b",), output=TensorSpec(shape=(10,)), stand_ins={"a/b": (1.5, -2.0)}
        ),
    ),
    input_wire="uint8",
    mean=(0.5,),
    std=(0.25,),
)
READING = Reading(
    meter="m",
    scope="board",
    watches="board",
    provenance="measured",
    quantity="power",
    host="",
    method="default",
    window_s=1.0,
    inferences=5,
    samples=10,
    greatest_gap_s=None,
    period_s=0.1,
    averaging_s=0.0,
    calibration=0.01,
    energy_gross_j=float("nan"),
    withheld={"net": "no idle"},
    notes=("one",),
)
SAMPLES = Samples(
    trace=LatencyTrace(
        latency_ns=np.arange(5),
        window_ns=2**40,
        reached=False,
        marks=np.array([[3, 2**39, 7], [5, 2**40, 9]]),
    ),
    warmup=WarmUp(latency_ns=np.arange(0), steady=True),
    first_ns=7,
    batch=1,
    parts=PartTrace(
        timeline={"compute:a/b.npy": np.arange(5), "wait:x": np.full(5, -1)},
        outcome=np.array([0, 2], np.int8),
        missed={"a/b": 2},
    ),
    here=DeviceReport(
        meters={"ina:rail": np.array([[1.5, 2.0]])},
        energy=(READING,),
        states={"linux": {"throttle": ["thermal"]}},
        problems=("a line",),
    ),
    spans={"load": (1, 2**60)},
    target_qps=3.5,
)


def same(one: Any, other: Any) -> bool:
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or repr(one) == repr(other) == "nan"


@pytest.mark.parametrize(
    "value",
    [GRAPH, Workload(), Workload(target_qps=2.0, fleet=FleetLoad(deadline_s=0.5)), TensorSpec(shape=())],
)
def test_json_gives_the_same_value(value: Any) -> None:
    assert codec.from_json(type(value), codec.to_json(value)) == value


def test_an_artifact_keeps_all_but_its_place() -> None:
    spec = TensorSpec(shape=(3, 8, 8))
    artifact = Artifact(
        path=Path("/a"),
        runtime="r",
        precision="int8",
        weight_bytes=5,
        inputs=(spec,),
        output=TensorSpec(shape=(2,)),
        meta={"opset": 18, "nested": {"x": [1]}},
    )
    shipped = codec.from_json(ShippedArtifact, codec.to_json(ShippedArtifact.of(artifact)))
    meta = {**artifact.meta, "file": "f.onnx"}
    assert shipped.artifact(Path("/b"), "other", "f.onnx") == dataclasses.replace(
        artifact, path=Path("/b"), runtime="other", meta=meta
    )


@pytest.mark.parametrize(
    "command",
    [
        Open(2, ("ina",)),
        Serve(),
        Join(GRAPH, (Neighbour(device="b", parts=("fuse",), target="h:1", certificate="", ticket="t"),)),
        InferFile("a" * 64, 2, ("fuse",)),
        MeasureFile("a" * 64, Workload()),
        Begin(),
        End({"load": (1, 2)}, 3, 4),
    ],
)
def test_commands_come_back(command: Any) -> None:
    kind = type(command).__name__
    assert command_of(kind, codec.to_json(command)) == command
    with pytest.raises(DeviceError, match=f"not a {kind}"):
        command_of(kind, '{"stranger": 1}')


def test_a_command_that_is_not_on_the_list_is_refused() -> None:
    for kind in ("Load", "Observe", "Listen", "Infer", "", "__class__"):
        with pytest.raises(DeviceError, match=r"no command .*; allowed: Open, LoadFile"):
            command_of(kind, "{}")


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (Open(1), None),
        (Begin(), None),
        (Serve(), Served(ticket="x", port=5)),
        (End({}, 1, 1), DeviceReport(problems=("a line",))),
    ],
)
def test_answers_come_back(command: Any, answer: Any) -> None:
    assert answer_of(command, codec.pack(answer)) == answer
    with pytest.raises(DeviceError, match="not "):
        answer_of(command, b"stranger")


def test_facts_and_outputs_come_back() -> None:
    load = LoadFile(
        part="a",
        runtime="r",
        sha256="f" * 64,
        artifact=ShippedArtifact(
            precision="int8", weight_bytes=1, inputs=(), output=TensorSpec(shape=(2,)), meta={}
        ),
        device="cpu",
    )
    assert answer_of(load, codec.pack({"provider": "CPU", "threads": 1})) == {"provider": "CPU", "threads": 1}
    outputs = np.ones((3, 2), np.float32)
    assert same(answer_of(InferFile("f", 1), codec.pack(outputs)), outputs)
    with pytest.raises(DeviceError, match="float64"):
        answer_of(InferFile("f", 1), codec.pack(np.ones(3)))


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (Workload, "", "Invalid JSON"),
        (Workload, "[" * 100_000, "recursion"),
        (Workload, "[]", "Workload"),
        (Workload, '{"btach": 1}', "unknown key 'btach'"),
        (Workload, '{"batch": "1"}', "batch: Input should be a valid integer"),
        (Workload, '{"batch": true}', "batch"),
        (Workload, '{"scenario": "none"}', "scenario"),
        (Workload, '{"stop": {"min_time_s": NaN}}', "not JSON compliant"),
        (Workload, '{"stop": {"min_time_s": 1e999}}', "not JSON compliant"),
        (
            Graph,
            '{"parts": [{"name": "a", "inputs": [], "output": {"shape": [1], "x": 0}}]}',
            "parts.output.x",
        ),
        (dict[str, tuple[int, int]], '{"load": [1]}', "load.1"),
    ],
)
def test_json_that_is_none_is_refused(kind: Any, text: str, why: str) -> None:
    with pytest.raises(DeviceError, match=why) as error:
        codec.from_json(kind, text)
    assert len(str(error.value)) < 300


def test_samples_and_reports_come_back() -> None:
    assert same(SAMPLES, codec.unpack(Samples, codec.pack(SAMPLES)))
    report = DeviceReport(memory={"peak": 3}, meters={"m": np.ones((2, 2))}, energy=(READING,))
    assert same(report, codec.unpack(DeviceReport, codec.pack(report)))


def packed(text: bytes, names: Any = (), *arrays: np.ndarray) -> bytes:
    """Return a report as bytes; ``text`` is its JSON."""
    return b"".join(pack({"names": list(names)}, [np.frombuffer(text, np.uint8), *arrays]))


STRANGER = json.dumps({"energy": [{**dataclasses.asdict(READING), "stranger": 1}]}).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a frame"),
        (b"PK\x03\x04" + bytes(20), "not a frame"),
        (b"".join(pack({"names": []})), "not enough values"),
        (b"".join(pack({}, [np.zeros(1)])), "arrays without names"),
        (b"".join(pack({"names": [1]}, [np.zeros(1)])), "arrays without names"),
        (packed(b"{}", ["meters:m"]), "shorter"),
        (packed(b"{}")[:-1], "left"),
        (packed(b"[1]"), "keys"),
        (packed(b'{"meters": {}}'), "keys"),
        (packed(b'{"memory": {"a": "b"}}'), "memory"),
        (packed(b"{}", ["stranger"], np.zeros(1)), "stranger"),
        (packed(b'{"energy": 1}'), "energy"),
        (packed(STRANGER), r"unknown key 'energy\..*stranger'"),
        (packed(b"[" * 100_000), "recursion"),
    ],
)
def test_bytes_that_are_no_report_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        codec.unpack(DeviceReport, data)


def test_a_latency_of_another_type_is_refused() -> None:
    wrong = dataclasses.replace(SAMPLES, trace=LatencyTrace(np.zeros(3), 1, True))  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"trace\.latency_ns is float64"):
        codec.unpack(Samples, codec.pack(wrong))


def test_bytes_with_errors_in_them_are_refused_or_read() -> None:
    draw, data = random.Random(0), codec.pack(SAMPLES)
    for _ in range(1000):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        end = draw.choice([len(broken), draw.randrange(len(broken))])
        with contextlib.suppress(DeviceError):
            codec.unpack(Samples, bytes(broken[:end]))


def test_the_messages_are_those_of_the_protocol(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    from harness_remote import agent_pb2
    from harness_remote.wire.generate import generate

    assert generate(tmp_path).read_text() == Path(str(agent_pb2.__file__)).read_text(), "run `make proto`"

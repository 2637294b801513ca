"""Values as JSON and bytes: they come back as they were, and what is none is refused with one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import DeviceError
from harness.types import Artifact, DeviceReport, Graph, GraphPart, Samples, TensorSpec, Workload

pytest.importorskip("google.protobuf")

from harness_remote.wire import codec

GRAPH = Graph(
    parts=(
        GraphPart(name="a/b", inputs=("image",), output=TensorSpec(shape=(3, 4)), wire_dtype="float16"),
        GraphPart(name="fuse", inputs=("a/b",), output=TensorSpec(shape=(10,)), missing={"a/b": (1.5, -2.0)}),
    ),
    input_wire="uint8",
    mean=(0.5,),
    std=(0.25,),
)
SAMPLES = Samples(
    latency_ns=np.arange(5),
    warmup_ns=np.arange(0),
    first_ns=7,
    window_ns=2**40,
    batch=1,
    steady=True,
    reached=False,
    timeline={"compute:a/b.npy": np.arange(5), "wait:x": np.full(5, -1)},
    meters={"ina:rail": np.array([[1.5, 2.0]])},
    energy=[{"joules": 1.25, "error": float("nan")}],
    states={"linux": {"throttle": ["thermal"]}},
    spans={"load": (1, 2**60)},
    outcome=np.array([0, 2], np.int8),
    target_qps=3.5,
    missed={"a/b": 2},
    problems=["a line"],
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or repr(one) == repr(other) == "nan"


@pytest.mark.parametrize(
    "value", [GRAPH, Workload(), Workload(target_qps=2.0, deadline_s=0.5), TensorSpec(shape=())]
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
    back = codec.artifact_from_json(codec.artifact_to_json(artifact), Path("/b"), "other")
    assert back == dataclasses.replace(artifact, path=Path("/b"), runtime="other")


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
        (Workload, '{"min_time_s": NaN}', "not JSON compliant"),
        (Workload, '{"min_time_s": 1e999}', "not JSON compliant"),
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


def test_samples_and_beside_come_back() -> None:
    back = codec.unpack_samples(codec.pack_samples(SAMPLES))
    for field in dataclasses.fields(Samples):
        assert same(getattr(SAMPLES, field.name), getattr(back, field.name)), field.name
    beside = DeviceReport(memory={"peak": 3}, meters={"m": np.ones((2, 2))}, energy=[{"joules": 1.0}])
    seen = codec.unpack_beside(codec.pack_beside(beside))
    assert same(beside.meters, seen.meters)
    assert (seen.memory, seen.energy) == (beside.memory, beside.energy)


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return stream.getvalue()


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


TEXT = npy(np.frombuffer(b"{}", np.uint8))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a zip file"),
        (archive(json=npy(np.array([{}], object), allow_pickle=True)), "object"),
        (archive(json=TEXT.replace(b"(2,)", b"(9,)")), "size"),
        (archive(zipfile.ZIP_DEFLATED, json=TEXT), "compressed"),
        (archive(zipfile.ZIP_DEFLATED, json=npy(np.zeros(10**6, np.uint8))), "grows"),
        (archive(json=npy(np.frombuffer(b"[1]", np.uint8))), "keys"),
        (archive(json=npy(np.frombuffer(b'{"memory": {"a": "b"}}', np.uint8))), "memory"),
        (archive(json=TEXT, stranger=npy(np.zeros(1))), "stranger"),
        (archive(json=npy(np.frombuffer(b'{"energy": 1}', np.uint8))), "energy"),
    ],
)
def test_archives_that_are_none_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        codec.unpack_beside(data)


def test_a_latency_of_another_type_is_refused() -> None:
    wrong = dataclasses.replace(SAMPLES, latency_ns=np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="latency_ns is float64"):
        codec.unpack_samples(codec.pack_samples(wrong))


def test_bytes_with_errors_in_them_are_refused_or_read() -> None:
    draw, data = random.Random(0), codec.pack_samples(SAMPLES)
    for _ in range(1000):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        end = draw.choice([len(broken), draw.randrange(len(broken))])
        with contextlib.suppress(DeviceError):
            codec.unpack_samples(bytes(broken[:end]))


def test_the_messages_are_those_of_the_protocol(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    from harness_remote import agent_pb2
    from harness_remote.wire.generate import generate

    assert generate(tmp_path).read_text() == Path(str(agent_pb2.__file__)).read_text(), "run `make proto`"

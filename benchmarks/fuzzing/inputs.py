"""The inputs of ``fuzz_agent.py``: valid requests of every kind, and a generator that changes them."""

from __future__ import annotations

import hashlib
import io
import json
import random
from typing import Any

import numpy as np
import onnx
from onnx import helper

from harness.types import Graph, GraphPart, Metering, Stop, TensorSpec, Workload
from harness.worker.commands import Begin, Command, End
from harness.worker.frames import DTYPES, pack
from harness_remote import agent_pb2 as pb
from harness_remote.wire import codec
from harness_remote.wire.commands import InferFile, Join, LoadFile, MeasureFile, Open, Serve, ShippedArtifact

NUMBERS = (0, 1, -1, 2, 7, 63, 64, 127, 128, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-9, 0.05, 1e9, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "a",
    "model",
    "image",
    "onnxruntime",
    "onnxruntime-int8",
    "torch",
    "cpu",
    "cuda:0",
    "cuda:99",
    "../../etc/passwd",
    "/etc/passwd",
    "\0",
    "a" * 64,
    "f" * 5000,
    "é\u202e\U0001f600",
    "{}",
    "[]",
    "null",
    "[" * 2000,
    "1e999",
    "NaN",
    "os:system",
    "%s%n",
    "127.0.0.1:1",
    "unix:/tmp/x",
    "-1",
)


# --- what is valid ---------------------------------------------------------------------------------

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
IMAGES = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)


def model() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])],
        "g",
        [value("x", 1, ["n", 4])],
        [value("y", 1, ["n", 3])],
        [onnx.numpy_helper.from_array(WEIGHT, "w")],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(made.SerializeToString())


def image_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, IMAGES)
    return stream.getvalue()


MODEL, FILE = model(), image_file()
ARTIFACT = ShippedArtifact(
    precision="float32",
    weight_bytes=48,
    inputs=(TensorSpec(shape=(4,)),),
    output=TensorSpec(shape=(3,)),
    meta={"opset": 18, "precision": "float32", "quantised": 0, "spinning": False},
)
GRAPH = Graph(parts=(GraphPart(name="model", inputs=("image",), output=TensorSpec(shape=(3,))),))
WORKLOAD = Workload(
    stop=Stop(min_time_s=0.01, min_queries=2, max_time_s=0.05, warmup="one"), metering=Metering(idle_s=0.0)
)
MODEL_NAME, FILE_NAME = hashlib.sha256(MODEL).hexdigest(), hashlib.sha256(FILE).hexdigest()


def work(command: Command[Any]) -> pb.WorkRequest:
    return pb.WorkRequest(kind=type(command).__name__, value=codec.to_json(command))


LOAD = LoadFile(part="model", runtime="onnxruntime", sha256=MODEL_NAME, artifact=ARTIFACT, device="cpu")
COMMANDS = {
    "Open": work(Open(1)),
    "LoadFile": work(LOAD),
    "Serve": work(Serve()),
    "Join": work(Join(GRAPH)),
    "InferFile": work(InferFile(FILE_NAME, 2)),
    "MeasureFile": work(MeasureFile(FILE_NAME, WORKLOAD)),
    "Begin": work(Begin()),
    "End": work(End({"load": (1, 2)}, 1, 1)),
}
VALID: dict[str, Any] = {
    "Health": pb.HealthRequest(),
    "Acquire": pb.AcquireRequest(holder="me", seconds=60),
    "Renew": pb.RenewRequest(seconds=60),
    "Release": pb.ReleaseRequest(),
    "Stat": pb.StatRequest(sha256=hashlib.sha256(MODEL).hexdigest(), size=len(MODEL)),
    "Put": pb.PutRequest(sha256=hashlib.sha256(MODEL).hexdigest(), size=len(MODEL), data=MODEL),
    "Follow": pb.FollowRequest(id="x"),
    "Cancel": pb.CancelRequest(id="x"),
}
RARE = {
    "Release",
    "Acquire",
    "Describe",
    "Open",
    "InferFile",
    "MeasureFile",
}  # they end the session, or take long
REQUESTS: dict[str, Any] = {**VALID, **COMMANDS}
METHODS = [name for name in REQUESTS for _ in range(1 if name in RARE else 12)] + ["Describe", "Nonsense"]
"""Calls, and commands by their kind."""


# --- what is not -----------------------------------------------------------------------------------


class Fuzz:
    """Makes inputs. The same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def bytes(self, most: int = 300) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def changed(self, data: bytes) -> bytes:
        """Return ``data`` with some bytes changed, removed, inserted or repeated, or with its end cut off."""
        found = bytearray(data)
        for _ in range(self.random.randint(1, 6)):
            at, length = self.random.randint(0, len(found)), self.random.choice((1, 1, 1, 2, 4, 16))
            match self.random.randrange(6):
                case 0:
                    found[at : at + length] = self.random.randbytes(length)
                case 1:
                    del found[at : at + length]
                case 2:
                    found[at:at] = self.random.randbytes(length)
                case 3:
                    found[at:at] = found[at : at + 8 * length]
                case 4:
                    found[at : at + 1] = self.random.choice(
                        (b"\0", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f")
                    )
                case 5 if self.random.random() < 0.2:
                    del found[at:]
        return bytes(found)

    def scalar(self) -> Any:
        return self.random.choice(
            (
                None,
                True,
                self.random.choice(NUMBERS),
                self.random.choice(FLOATS),
                self.random.choice(TEXTS),
                [],
                {},
                [[]],
            )
        )

    def json(self, value: Any) -> Any:
        """Return a JSON value with one part changed."""
        if isinstance(value, dict) and value and self.random.random() < 0.9:
            key = self.random.choice(list(value))
            kind = self.random.random()
            if kind < 0.1:
                return {**value, self.random.choice(TEXTS): self.scalar()}
            if kind < 0.2:
                return {name: held for name, held in value.items() if name != key}
            return {**value, key: self.json(value[key])}
        if isinstance(value, list) and value and self.random.random() < 0.9:
            at = self.random.randrange(len(value))
            if self.random.random() < 0.2:
                return value * self.random.choice((0, 2, 100))
            return [*value[:at], self.json(value[at]), *value[at + 1 :]]
        return self.scalar()

    def json_text(self, text: str) -> str:
        if self.random.random() < 0.15:
            return self.changed(text.encode()).decode("utf-8", "ignore")
        return json.dumps(self.json(json.loads(text)))

    def message(self, valid: Any) -> bytes:
        """Return a message like ``valid`` with some fields changed."""
        kind = self.random.random()
        if kind < 0.15:
            return self.bytes()
        if kind < 0.4:
            return self.changed(valid.SerializeToString())
        found = type(valid)()
        found.CopyFrom(valid)
        fields = list(found.DESCRIPTOR.fields)
        for field in self.random.sample(fields, min(len(fields), 2)):
            self._set(found, field)
        return bytes(found.SerializeToString())

    def _set(self, message: Any, field: Any) -> None:
        held = getattr(message, field.name)
        if field.type == field.TYPE_STRING:
            setattr(
                message, field.name, self.json_text(held) if held[:1] == "{" else self.random.choice(TEXTS)
            )
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, self.changed(held or b"x"))
        elif field.type == field.TYPE_DOUBLE:
            setattr(message, field.name, self.random.choice(FLOATS))
        else:
            bits = 31 if field.type == field.TYPE_INT32 else 63
            setattr(message, field.name, max(-(2**bits), min(2**bits - 1, self.random.choice(NUMBERS))))

    def frame(self) -> bytes:
        slot = self.random.choice((0, 1, 4095))
        header: dict[str, Any] = self.random.choice(
            (
                {"op": "run", "id": 1, "part": "model", "slot": slot},
                {"op": "keep", "id": 1, "slot": slot},
                {"op": "infer", "id": 1, "part": "model"},
                {"op": "echo", "id": 1, "reply_bytes": self.random.choice((0, 10, 3000))},
            )
        )
        tensors = [
            np.ones(
                self.random.choices((0, 1, 2, 4), k=self.random.randint(0, 4)), self.random.choice(DTYPES)
            )
            for _ in range(self.random.randint(0, 3))
        ]
        frame = b"".join(pack(header, tensors))
        kind = self.random.random()
        if kind < 0.1:
            return self.bytes() or b"x"
        if kind < 0.4:
            return self.changed(frame) or b"x"
        length = int.from_bytes(frame[4:8], "little")
        header = self.json(json.loads(frame[8 : 8 + length]))
        if isinstance(header, dict) and self.random.random() < 0.5:
            header[self.random.choice(("from", "wire", "normalise", "worker", "rehearse"))] = self.scalar()
        text = json.dumps(header).encode()
        return frame[:4] + len(text).to_bytes(4, "little") + text + frame[8 + length :]

"""An agent's calls by name, over raw gRPC, and the processes that an agent starts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from harness.types import Graph, GraphPart, Stop, TensorSpec, Workload
from harness.worker.commands import Command
from harness_remote import agent_pb2 as pb
from harness_remote.wire import codec, secrets
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Neighbour,
    Open,
    ShippedArtifact,
    answer_of,
)
from harness_remote.wire.wire import LEASE, OPTIONS, SERVICE

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
IMAGES = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
CALL_S = 120  # a board may take long to describe itself first; nothing here is of how long
ENDLESS = {"min_time_s": 600.0, "max_time_s": 600.0}  # longer than anything waits


class Client:
    """The calls by name, over one channel."""

    def __init__(
        self, address: str, identity: secrets.Identity | None = None, token: str | None = None
    ) -> None:
        self.lease = ""
        self._token = token if token is not None else identity.token if identity else ""
        options = (
            *OPTIONS,
            ("grpc.ssl_target_name_override", secrets.NAME),
            ("grpc.use_local_subchannel_pool", 1),
        )
        if identity is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            pinned = grpc.ssl_channel_credentials(identity.certificate_pem)
            self.channel = grpc.secure_channel(address, pinned, options)

    def metadata(self, **more: str) -> list[tuple[str, str]]:
        shown = [("authorization", f"Bearer {self._token}")] if self._token else []
        shown += [(LEASE, self.lease)] if self.lease else []
        return [*shown, *((key.replace("_", "-"), value) for key, value in more.items())]

    def __call__(self, name: str, request: Any, reply: Any, timeout: float = CALL_S) -> Any:
        call = self.channel.unary_unary(
            f"/{SERVICE}/{name}", type(request).SerializeToString, reply.FromString
        )
        return call(request, timeout=timeout, metadata=self.metadata())

    def acquire(self, holder: str = "me", seconds: float = 60.0) -> Client:
        self.lease = self("Acquire", pb.AcquireRequest(holder=holder, seconds=seconds), pb.Lease).id
        return self

    def put_from(self, requests: Iterator[pb.PutRequest]) -> int:
        call = self.channel.stream_unary(
            f"/{SERVICE}/Put", pb.PutRequest.SerializeToString, pb.StatReply.FromString
        )
        return int(call(requests, timeout=CALL_S, metadata=self.metadata()).held)

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        assert self.put_from(iter([pb.PutRequest(sha256=name, size=len(data), data=data)])) == len(data)
        return name

    def ready(self, weight: np.ndarray = WEIGHT) -> Client:
        """Start a worker with one part, which is the whole graph."""
        sha = self.put(matmul(weight))
        self.work(Open(threads=1))
        self.load(sha)
        self.work(
            Join(Graph(parts=(GraphPart(name="model", inputs=("image",), output=TensorSpec(shape=(3,))),)))
        )
        return self

    def work(self, command: Command[Any]) -> Any:
        """Run a command, and return its answer or its job's id."""
        request = pb.WorkRequest(kind=type(command).__name__, value=codec.to_json(command))
        reply = self("Work", request, pb.WorkReply)
        return reply.job or answer_of(command, reply.answer)

    def load(self, sha: str, **changed: Any) -> dict[str, Any]:
        fields = {"part": "model", "runtime": "onnxruntime", "device": "cpu", "artifact": ARTIFACT, **changed}
        return dict(self.work(LoadFile(sha256=sha, **fields)))

    def put_images(self) -> str:
        stream = io.BytesIO()
        np.save(stream, IMAGES)
        return self.put(stream.getvalue())

    def measure(self, **changed: Any) -> str:
        workload = Workload(stop=Stop(**{"min_time_s": 0.05, "min_queries": 5, "warmup": "one", **changed}))
        return str(self.work(MeasureFile(self.put_images(), workload)))

    def infer(self, batch: int = 1) -> Any:
        command = InferFile(self.put_images(), batch)
        return answer_of(command, self.answer(self.work(command)))

    def answer(self, job: str) -> bytes:
        return b"".join(reply.data for reply in self.follow(job))

    def follow(self, job: str, offset: int = 0) -> Any:
        call = self.channel.unary_stream(
            f"/{SERVICE}/Follow", pb.FollowRequest.SerializeToString, pb.FollowReply.FromString
        )
        return call(pb.FollowRequest(id=job, offset=offset), timeout=CALL_S, metadata=self.metadata())


ARTIFACT = ShippedArtifact(
    precision="float32",
    weight_bytes=48,
    inputs=(TensorSpec(shape=(4,)),),
    output=TensorSpec(shape=(3,)),
    meta={"file": "../../etc/passwd", "opset": 18, "precision": "float32", "quantised": 0, "spinning": False},
)


def matmul(weight: np.ndarray) -> bytes:
    helper, tensor = onnx.helper, onnx.helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [tensor("x", 1, ["n", weight.shape[0]])],
        [tensor("y", 1, ["n", weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(model.SerializeToString())


def refusal(error: pytest.ExceptionInfo[Any]) -> tuple[Any, str]:
    return error.value.code(), error.value.details()


def neighbour(part: str, target: str, certificate: str = "", ticket: str = "") -> Neighbour:
    return Neighbour(device="far", parts=(part,), target=target, certificate=certificate, ticket=ticket)


def workers() -> list[int]:
    """Return the process ids of the workers of this process's agents."""
    found = []
    for pid in below(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended since
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def below(parent: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # its thread has ended since
            found += map(int, file.read_text().split())
    return [pid for pid in found if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

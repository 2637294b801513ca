"""Send random and broken inputs to a running agent. Count inputs, crashes and hangs, and measure its memory growth.

The agent runs in its own process, on loopback with TLS and token. The inputs are:

- calls with wrong tokens, leases and tickets;
- messages of random fields and of random bytes, and commands with changed values;
- frames of other boards, ONNX files and image files with changed bytes;
- several calls at once, and calls that are cancelled;
- plain bytes to its port.

After every 50 inputs, a valid query is sent and its answer is checked. A crash is an agent that ended, or an internal
error of it (INTERNAL, UNKNOWN, UNAVAILABLE). A hang is a call without an answer for 30 seconds. A hostile model may
end ONNX Runtime, and with it the worker's process but not the agent. This is counted separately.

    python benchmarks/fuzz_agent.py [INPUTS] [SEED] [SECONDS AT MOST]
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
from onnx import helper

from harness.types import Graph, GraphPart, TensorSpec, Workload
from harness.worker.commands import Begin, Command, End
from harness.worker.frames import DTYPES, FrameError, header_of, pack, unpack
from harness_remote import agent_pb2 as pb
from harness_remote.wire import codec, secrets
from harness_remote.wire.commands import (
    InferFile,
    Join,
    LoadFile,
    MeasureFile,
    Open,
    Serve,
    Served,
    ShippedArtifact,
)
from harness_remote.wire.framesocket import connect
from harness_remote.wire.wire import LEASE, MAX_MESSAGE_BYTES, OPTIONS, SERVICE

HANG_S = 30.0
EACH = 50  # inputs between two valid queries
MEMORY_BYTES = 12 * 2**30  # limit of the address space: a model may ask for any amount

AGENT = """
import os, resource, sys, threading
from pathlib import Path
from harness_remote.wire import secrets
from harness_remote.agent.server import AgentSettings, serve
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
folder = Path(sys.argv[1])
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # ends with its parent
serve(AgentSettings(folder=folder / "agent", identity=secrets.load(folder / "identity"), name="board",
                    max_blob_bytes=2**20, max_total_bytes=2**24), lambda *both: print(*both, flush=True))
"""

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
WORKLOAD = Workload(min_time_s=0.01, min_queries=2, max_time_s=0.05, warmup="one", idle_s=0.0)
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
        if field.type == field.TYPE_MESSAGE:
            inner = held.add()
            for one in inner.DESCRIPTOR.fields:
                self._set(inner, one)
        elif hasattr(held, "extend"):
            held.extend(self.random.choices(TEXTS, k=self.random.choice((1, 3, 200))))
        elif field.type == field.TYPE_STRING:
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
        header: dict[str, Any] = {
            "op": self.random.choice(("run", "keep", "infer", "echo")),
            "id": 1,
            "part": "model",
        }
        header |= {"slot": self.random.choice((0, 1, 4095)), "reply_bytes": self.random.choice((0, 10, 3000))}
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
        told = self.json(json.loads(frame[8 : 8 + length]))
        if isinstance(told, dict) and self.random.random() < 0.5:
            told |= {
                "from": self.scalar(),
                "wire": self.scalar(),
                "normalise": self.scalar(),
                "worker": self.scalar(),
            }
        text = json.dumps(told).encode()
        return frame[:4] + len(text).to_bytes(4, "little") + text + frame[8 + length :]


# --- the agent and its state --------------------------------------------------------------


class Target:
    """A running agent and a client."""

    def __init__(self, folder: Path) -> None:
        self.identity = secrets.create(folder / "identity")
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(folder), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
        )
        assert self.process.stdout is not None
        self.address, _, self.frames = self.process.stdout.readline().strip().partition(" ")
        if not self.address:
            raise SystemExit("the agent did not start")
        self.seen = psutil.Process(self.process.pid)
        credentials = grpc.ssl_channel_credentials(self.identity.certificate_pem)
        options = (*OPTIONS, ("grpc.ssl_target_name_override", secrets.NAME))
        self.channel = grpc.secure_channel(self.address, credentials, options)
        self.lease = self.ticket = ""
        self.pool = ThreadPoolExecutor(6)
        self.became: Counter[str] = Counter()
        self.bad: list[str] = []

    def metadata(self, **other: str) -> list[tuple[str, str]]:
        told = {"authorization": f"Bearer {self.identity.token}", LEASE: self.lease, **other}
        return [(name, value) for name, value in told.items() if value]

    def call(self, name: str, data: bytes | Iterator[bytes], metadata: list[tuple[str, str]]) -> list[bytes]:
        """Return the answers to raw messages. Every method of this service can be called as a stream."""
        messages = iter([data]) if isinstance(data, bytes) else data
        stream = self.channel.stream_stream(f"/{SERVICE}/{name}")
        answers = list(stream(messages, timeout=HANG_S, metadata=metadata))
        if name == "Acquire":  # otherwise nobody could return the lease
            self.lease = pb.Lease.FromString(answers[0]).id
        return answers

    def tried(self, what: str, data: bytes, act: Callable[[], Any]) -> None:
        """Run ``act`` and count its outcome."""
        try:
            act()
        except grpc.RpcError as error:
            code, text = error.code().name, str(error.details())
            if "killed by signal" in text or "ended with exit code" in text or "worker ended" in text:
                self.became["worker ended"] += 1
            elif code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
                self.became["hang" if code == "DEADLINE_EXCEEDED" else "crash"] += 1
                self.bad.append(f"{what} {code} {text[:300]} for {data[:400]!r}")
            else:
                self.became["refused"] += 1
        else:
            self.became["answered"] += 1

    def ready(self) -> None:
        """Bring the agent from any state to a session that answers a valid query, and check the answer."""
        with_lease = self.metadata
        with suppress(grpc.RpcError):
            self.call("Release", b"", with_lease())
        until = time.monotonic() + HANG_S
        while True:
            try:
                self.call("Acquire", VALID["Acquire"].SerializeToString(), with_lease())
                break
            except grpc.RpcError as error:  # an input holds the lease for some seconds
                if time.monotonic() > until:
                    raise SystemExit(f"the agent cannot be acquired again: {error.details()}") from None
                time.sleep(0.2)
        for data in (MODEL, FILE):
            name = hashlib.sha256(data).hexdigest()
            request = pb.StatRequest(sha256=name, size=len(data)).SerializeToString()
            held = pb.StatReply.FromString(self.call("Stat", request, with_lease())[0]).held
            if held < len(data):
                put = pb.PutRequest(sha256=name, size=len(data), offset=held, data=data[held:])
                self.call("Put", put.SerializeToString(), with_lease())
        for name in ("Open", "LoadFile", "Join"):
            self.call("Work", COMMANDS[name].SerializeToString(), with_lease())
        (answer,) = self.call("Work", COMMANDS["Serve"].SerializeToString(), with_lease())
        self.ticket = codec.unpack(Served, pb.WorkReply.FromString(answer).answer).ticket
        if problem := self.check():
            raise SystemExit(f"a good query in a new session: {problem}")

    def check(self) -> str:
        """Return why a valid query has no answer, or an empty string. Exit if its answer is wrong."""
        try:
            header, outputs = self.asked("model")
        except OSError as error:
            return str(error)
        if outputs and not np.allclose(outputs[0], np.maximum(IMAGES @ WEIGHT, 0), atol=1e-5):
            raise SystemExit(f"a good query has the answer {outputs[0].tolist()}")
        return str(header.get("error", ""))

    def asked(self, part: str) -> tuple[dict[str, Any], list[Any]]:
        """The answer to a good frame for a part, over a connection of its own. Raises ``OSError``."""
        conn = connect(self.frames, self.identity.certificate_pem, HANG_S, MAX_MESSAGE_BYTES)
        try:
            conn.send(pack({"ticket": self.ticket}))
            welcome = conn.receive()
            if welcome is None or (why := header_of(welcome)[0].get("error")):
                raise OSError(why if welcome is not None else "it closed the connection")
            conn.send(pack({"op": "run", "part": part, "id": 5}, [IMAGES]))
            answer = conn.receive()
            if answer is None:
                raise OSError("it closed the connection")
            return unpack(answer)
        finally:
            conn.hang_up()

    def size(self) -> tuple[float, int, int]:
        """Return resident MB, threads and open files of the agent."""
        return self.seen.memory_info().rss / 1e6, self.seen.num_threads(), self.seen.num_fds()

    def end(self) -> bool:
        """Stop the agent with SIGTERM. Return whether it ended with exit code 0."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20) == 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            return False


def put(target: Target, fuzz: Fuzz, data: bytes) -> str:
    """Send a file in one to three pieces."""
    name = hashlib.sha256(data).hexdigest()
    cuts = sorted(fuzz.random.randint(0, len(data)) for _ in range(fuzz.random.randrange(3)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    requests = [
        pb.PutRequest(sha256=name, size=len(data), data=piece).SerializeToString() for piece in pieces
    ]
    target.call("Put", iter(requests), target.metadata())
    return name


def one(target: Target, fuzz: Fuzz) -> None:
    """Send one input, or several at once."""
    kind = fuzz.random.random()
    if kind < 0.4:
        _method(target, fuzz)()
    elif kind < 0.62:
        _frames(target, fuzz)()
    elif kind < 0.66:
        made = [fuzz.random.choice((_method, _frames, _frames, _broken_off))(target, fuzz) for _ in range(6)]
        list(target.pool.map(lambda act: act(), made))
    elif kind < 0.72:
        _broken_off(target, fuzz)()
    elif kind < 0.9:
        _model(target, fuzz)
    elif kind < 0.97:
        _measure(target, fuzz)
    else:
        _plain(target, fuzz)


def _method(target: Target, fuzz: Fuzz) -> Callable[[], None]:
    """A call with a changed message, under any token and lease."""
    kind = fuzz.random.choice(METHODS)
    data = fuzz.message(REQUESTS.get(kind, pb.HealthRequest()))
    name = "Work" if kind in COMMANDS else kind
    if fuzz.random.random() < 0.005:
        data = fuzz.random.randbytes(5_000_000)
    wrong = fuzz.random.random()
    metadata = target.metadata()
    if wrong < 0.1:
        metadata = target.metadata(
            authorization=fuzz.random.choice(["", "Bearer", "Bearer x", target.identity.token])
        )
    elif wrong < 0.2:
        metadata = target.metadata(**{LEASE: fuzz.random.choice(["", "x", "x" * 3000, target.lease[:-1]])})
    elif wrong < 0.3:
        metadata = [*metadata, ("x-bin", fuzz.bytes()), ("harness-lease", "again")]
    return lambda: target.tried(name, data, lambda: target.call(name, data, metadata))


def _frames(target: Target, fuzz: Fuzz) -> Callable[[], None]:
    """Send what another board could send: changed frames after a ticket, a changed greeting, or no TLS."""
    kind = fuzz.random.random()
    frames = [fuzz.frame() for _ in range(fuzz.random.choice((1, 1, 3, 20)))]
    greeting = b"".join(pack({"ticket": target.ticket}))
    if kind < 0.3:
        greeting = fuzz.changed(greeting)
    if kind < 0.1:

        def act() -> None:
            with socket.create_connection(address_of(target.frames), HANG_S) as plain:
                plain.sendall(greeting + b"".join(frames))
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(4096):
                    pass

    else:

        def act() -> None:
            conn = connect(target.frames, target.identity.certificate_pem, HANG_S, MAX_MESSAGE_BYTES)
            try:
                conn.send([greeting])
                told = conn.receive()
                if told is None or "error" in header_of(told)[0]:
                    target.became["refused"] += 1
                    return
                for frame in frames:
                    conn.send([frame])
                last = pack({"op": "echo", "id": 2**40, "reply_bytes": 0})
                conn.send(last)
                while (answer := conn.receive()) is not None and header_of(answer)[0].get("id") != 2**40:
                    pass
            finally:
                conn.hang_up()

    def tried() -> None:
        try:
            act()
        except TimeoutError:
            target.became["hang"] += 1
            target.bad.append(f"frames: hang for {greeting!r} {b'|'.join(frames)[:400]!r}")
        except OSError:  # the agent closed the connection
            target.became["refused"] += 1
        else:
            target.became["answered"] += 1

    return tried


def address_of(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def _broken_off(target: Target, fuzz: Fuzz) -> Callable[[], None]:
    """A call that its caller leaves within milliseconds, while it sends."""
    kind = fuzz.random.choice(("Put", "Follow", "LoadFile", "Serve", "InferFile"))
    data = REQUESTS[kind].SerializeToString()
    name = "Work" if kind in COMMANDS else kind
    wait_s, metadata = fuzz.random.random() * 0.01, target.metadata()

    def send() -> Iterator[bytes]:
        for _ in range(50):
            yield data
            time.sleep(0.001)

    def act() -> None:
        call = target.channel.stream_stream(f"/{SERVICE}/{name}")(send(), timeout=HANG_S, metadata=metadata)
        time.sleep(wait_s)
        call.cancel()
        target.became["broken off"] += 1

    return act


def _model(target: Target, fuzz: Fuzz) -> None:
    """Send, load and run an ONNX file with changed bytes."""
    data = fuzz.changed(MODEL) or b"x"

    def load() -> None:
        command = replace(LOAD, sha256=put(target, fuzz, data), part="fuzzed")
        target.call("Work", work(command).SerializeToString(), target.metadata())
        with suppress(OSError, FrameError):  # the worker may have ended
            target.asked("fuzzed")

    target.tried("ONNX", data, load)


def _measure(target: Target, fuzz: Fuzz) -> None:
    """Start a measurement with changed images or a changed workload, follow it for a moment, and end it."""
    images = fuzz.changed(FILE) if fuzz.random.random() < 0.5 else FILE
    text = codec.to_json(MeasureFile("NAME", WORKLOAD))
    value = text if images is not FILE else fuzz.json_text(text)

    def measure() -> None:
        name = put(target, fuzz, images or b"x")
        request = pb.WorkRequest(kind="MeasureFile", value=value.replace("NAME", name))
        (answer,) = target.call("Work", request.SerializeToString(), target.metadata())
        job = pb.WorkReply.FromString(answer).job
        follow = pb.FollowRequest(id=job, offset=fuzz.random.choice((0, 0, 1, -1, 2**40))).SerializeToString()
        stream = target.channel.stream_stream(f"/{SERVICE}/Follow")(
            iter([follow]), timeout=HANG_S, metadata=target.metadata()
        )
        for answer in stream:
            if pb.FollowReply.FromString(answer).running:
                target.call("Cancel", pb.CancelRequest(id=job).SerializeToString(), target.metadata())

    target.tried("Measure", value.encode() + images, measure)


def _plain(target: Target, fuzz: Fuzz) -> None:
    """Send bytes that are not TLS, or only the beginning of TLS."""
    data = (
        fuzz.random.choice(
            (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\x01")
        )
        + fuzz.bytes()
    )
    try:
        with socket.create_connection(address_of(target.address), 5) as plain:
            plain.settimeout(0.05)
            plain.sendall(data)
            plain.recv(100)
    except OSError:
        pass
    target.became["refused"] += 1


def main(inputs: int, seed: int, seconds: int) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    fuzz = Fuzz(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        target = Target(Path(name))
        target.ready()
        sizes = [target.size()]
        for number in range(inputs):
            if target.became.total() >= inputs or time.monotonic() - began > seconds:
                break
            if number % EACH == 0:
                if target.check():  # an input may end the session
                    target.ready()
                sizes.append(target.size())
            one(target, fuzz)
            if target.process.poll() is not None:
                target.bad.append(f"the agent ended with exit code {target.process.returncode}")
                target.became["crash"] += 1
                break
        target.ready()
        sizes.append(target.size())
        stopped = target.end()
        log = (Path(name) / "log").read_text(errors="replace").splitlines()
    warm = sizes[len(sizes) // 5]  # pools and caches are full by then
    last = sizes[-1]
    for line in target.bad[:20] + (log[-100:] if target.bad else []):
        print(line)
    print(
        f"seed {seed}: {target.became.total()} inputs in {time.monotonic() - began:.0f} s: "
        + ", ".join(
            f"{target.became[what]} {what}"
            for what in ("answered", "refused", "broken off", "crash", "hang", "worker ended")
        )
    )
    print(
        f"agent's memory {sizes[0][0]:.0f} MB at first, {warm[0]:.0f} after a fifth, {last[0]:.0f} MB at the end; "
        f"threads {warm[1]} and {last[1]}, open files {warm[2]} and {last[2]}; it stopped when asked: {stopped}"
    )
    return 1 if target.bad or not stopped else 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(given + [20_000, 5, 900][len(given) :])))

"""The agent that receives the inputs of ``fuzz_agent.py``, in its own process, and the count of outcomes."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from fuzzing.inputs import COMMANDS, FILE, IMAGES, MODEL, VALID, WEIGHT

from harness.types import Answer
from harness.worker.messages import Run, answer_of, pack_request
from harness_remote import agent_pb2 as pb
from harness_remote.wire import codec, secrets
from harness_remote.wire.commands import Served
from harness_remote.wire.framesocket import connect
from harness_remote.wire.greeting import pack_ticket, refusal_of
from harness_remote.wire.wire import LEASE, MAX_MESSAGE_BYTES, OPTIONS, SERVICE

HANG_S = 30.0
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
        metadata = {"authorization": f"Bearer {self.identity.token}", LEASE: self.lease, **other}
        return [(name, value) for name, value in metadata.items() if value]

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
            if "was ended by" in text or "ended with exit code" in text or "worker ended" in text:
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
            answer = self.asked("model")
        except OSError as error:
            return str(error)
        if answer.output is not None and not np.allclose(
            answer.output, np.maximum(IMAGES @ WEIGHT, 0), atol=1e-5
        ):
            raise SystemExit(f"a good query has the answer {answer.output.tolist()}")
        return answer.error

    def asked(self, part: str) -> Answer:
        """Send a good request for a part over a new connection, and return the answer. Raises ``OSError``."""
        conn = connect(self.frames, self.identity.certificate_pem, HANG_S, MAX_MESSAGE_BYTES)
        try:
            conn.send(pack_ticket(self.ticket))
            welcome = conn.receive()
            if welcome is None or (why := refusal_of(welcome)):
                raise OSError(why if welcome is not None else "it closed the connection")
            conn.send(pack_request(Run(5, part), [IMAGES]))
            answer = conn.receive()
            if answer is None:
                raise OSError("it closed the connection")
            return answer_of("the agent", answer)
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

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
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fuzzing.inputs import COMMANDS, FILE, LOAD, METHODS, MODEL, REQUESTS, WORKLOAD, Fuzz, work
from fuzzing.target import HANG_S, Target

from harness.worker.frames import FrameError
from harness.worker.messages import Echo, answer_of, pack_request
from harness_remote import agent_pb2 as pb
from harness_remote.wire import codec
from harness_remote.wire.commands import MeasureFile
from harness_remote.wire.framesocket import connect
from harness_remote.wire.greeting import pack_ticket, refusal_of
from harness_remote.wire.wire import LEASE, MAX_MESSAGE_BYTES, SERVICE

EACH = 50  # inputs between two valid queries


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
    """Return a call with a changed message, with any token and lease."""
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
    greeting = b"".join(pack_ticket(target.ticket))
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
                answer = conn.receive()
                if answer is None or refusal_of(answer):
                    target.became["refused"] += 1
                    return
                for frame in frames:
                    conn.send([frame])
                conn.send(pack_request(Echo(2**40)))
                while (answer := conn.receive()) is not None and answer_of(
                    "the agent", answer
                ).query != 2**40:
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
    """Return a call whose caller disconnects within milliseconds, while it sends."""
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

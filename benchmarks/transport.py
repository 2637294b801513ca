"""Measure the round trip of a query, 602 KB there and 3 KB back: our connection against raw sockets and gRPC.

The measurement runs on loopback, and over veth between two network namespaces if these can be created. Over veth it
runs twice: as the kernel sends it, 64 KB at once, and in packets of 1500 bytes, as on a wire. Our connection has TLS
and a ticket. Either the agent answers it, or the worker behind the agent. "TLS alone" encrypts and decrypts in
memory, without a network: the compute of both ends, at best in parallel. All take turns in one run, so that other
work of the machine affects all equally. The medians are in microseconds.

    python benchmarks/transport.py [ROUNDS]
"""

from __future__ import annotations

import json
import queue
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SIZES = {"602 KB there, 3 KB back": (602_112, 3_072), "3 KB both ways": (3_072, 3_072)}
TURN = 10
HEAD = 8
BATCH = 2**16
BOARD = "board"
WHERE = ("loopback", "veth", "veth in packets")
LIMITS = (
    ("loopback", "stream, TLS", "raw TLS", 1.5),
    ("veth", "stream, TLS", "raw TCP", 2.5),
    ("veth in packets", "stream, TLS", "raw TCP", 2.5),
)

Trip = Callable[[int, int], None]


# --- the other end ---


def serve(host: str, folder: Path) -> None:
    """Serve raw TCP, raw TLS and gRPC unary, each on its own port. Print the ports. Run until killed."""
    import grpc

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    ports = {}
    for name, wrap in (("raw TCP", None), ("raw TLS", context)):
        listener = socket.create_server((host, 0))
        ports[name] = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(listener, wrap), daemon=True).start()

    def answer(request: bytes, _: Any) -> bytes:
        return bytes(int.from_bytes(request[:HEAD], "big"))

    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Trip": handler}),))
    ports["gRPC unary"] = server.add_insecure_port(f"{host}:0")
    server.start()
    print(json.dumps(ports), flush=True)
    threading.Event().wait()


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        conn, _ = listener.accept()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        whole = context.wrap_socket(conn, server_side=True) if context else conn
        threading.Thread(target=_echo, args=(whole,), daemon=True).start()


def _echo(conn: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    while (head := _receive(conn, buffer, 2 * HEAD)) is not None:
        up, down = int.from_bytes(head[:HEAD], "big"), int.from_bytes(head[HEAD:], "big")
        _receive(conn, buffer, up)
        conn.sendall(bytes(down))


def _receive(conn: socket.socket, buffer: bytearray, size: int) -> memoryview | None:
    view = memoryview(buffer)
    got = 0
    while got < size:
        n = conn.recv_into(view[got:size])
        if not n:
            return None
        got += n
    return view[:size]


# --- this end ---


def raw(address: tuple[str, int], context: ssl.SSLContext | None, stack: ExitStack) -> Trip:
    conn = socket.create_connection(address)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    whole = stack.enter_context(context.wrap_socket(conn) if context else conn)
    buffer = bytearray(1 << 20)
    payload = bytes(1 << 20)

    def trip(up: int, down: int) -> None:
        whole.sendall(up.to_bytes(HEAD, "big") + down.to_bytes(HEAD, "big"))
        whole.sendall(memoryview(payload)[:up])
        _receive(whole, buffer, down)

    return trip


def in_memory(folder: Path) -> Trip:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
    client.check_hostname = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for one in (near, far, near, far):
        with suppress(ssl.SSLWantReadError):
            one.do_handshake()
    payload, buffer = memoryview(bytes(1 << 20)), memoryview(bytearray(1 << 20))

    def trip(up: int, down: int) -> None:
        sent = got = 0
        while got < up:
            while sent < min(up, got + BATCH):
                sent += near.write(payload[sent : min(up, got + BATCH)])
            while got < sent:
                got += far.read(sent - got, buffer[got:sent])

    return trip


def unary(target: str, stack: ExitStack) -> Trip:
    import grpc

    channel = stack.enter_context(grpc.insecure_channel(target))
    method = channel.unary_unary("/bench/Trip")

    def trip(up: int, down: int) -> None:
        method(down.to_bytes(HEAD, "big") + bytes(up - HEAD))

    return trip


def streamed(folder: Path, stack: ExitStack) -> tuple[Trip, Trip]:
    """Open the data connection as the worker of a central device does. Return the trips to the agent and its worker."""
    from harness.worker.messages import Echo, pack_request
    from harness_remote.client.client import Client
    from harness_remote.client.peer import open_peer
    from harness_remote.wire.commands import Open, Serve
    from harness_remote.wire.secrets import Credentials

    address = json.loads((folder / "ready.json").read_text())["address"]
    files = [folder / "certificate.pem", folder / "token"]
    certificate, token = [file.read_bytes() for file in files] if files[0].exists() else (b"", b"")
    client = Client(BOARD, Credentials(address, certificate, token.decode().strip()))
    stack.callback(client.close)
    client.acquire()
    client.work(Open(threads=1))
    ticket = client.work(Serve()).ticket
    frames = json.loads((folder / "ready.json").read_text())["frames"]
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    details = {"device": BOARD, "target": frames, "certificate": certificate.decode(), "ticket": ticket}
    peer = open_peer(details, answers.put)
    stack.callback(peer.close)
    payloads = {up: np.zeros(up, np.uint8) for up, _ in SIZES.values()}

    def trip(up: int, down: int, worker: bool = False) -> None:
        peer.send(pack_request(Echo(1, down, worker), [payloads[up]]))
        answer = answers.get(timeout=30)
        if answer.error:
            sys.exit(answer.error)

    return trip, partial(trip, worker=True)


# --- the comparison ---


def compare(host: str, folder: Path, within: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return medians in microseconds by size and carrier. ``within`` is the command that runs a program at the other end."""
    from harness_remote.wire import secrets

    secured, bare = folder / "secured", folder / "bare"
    secrets.create(secured)
    bare.mkdir()
    with ExitStack() as stack:
        for one in (
            [secured] if within else [secured, bare]
        ):  # without TLS only on this machine's own addresses
            _agent(host, one, within, stack)
        others = _start([*within, sys.executable, __file__, "--serve", host, str(secured)], stack)
        assert others.stdout is not None
        ports = json.loads(others.stdout.readline())
        context = ssl.create_default_context(cafile=str(secured / "certificate.pem"))
        context.check_hostname = False
        agent, worker = streamed(secured, stack)
        trips = {
            "raw TCP": raw((host, ports["raw TCP"]), None, stack),
            "raw TLS": raw((host, ports["raw TLS"]), context, stack),
            "TLS alone": in_memory(secured),
            "gRPC unary": unary(f"{host}:{ports['gRPC unary']}", stack),
            "stream, TLS": agent,
            "stream, TLS, worker": worker,
        }
        if not within:
            trips["stream, bare"], _ = streamed(bare, stack)
        return {size: _taken(trips, up, down, rounds) for size, (up, down) in SIZES.items()}


def _taken(trips: dict[str, Trip], up: int, down: int, rounds: int) -> dict[str, float]:
    taken: dict[str, list[int]] = {name: [] for name in trips}
    order, drawn = list(trips), random.Random(0)
    for _ in range(rounds):
        drawn.shuffle(order)
        for name in order:
            trips[name](up, down)  # fill its caches and windows again
            for _ in range(TURN):
                start = time.perf_counter_ns()
                trips[name](up, down)
                taken[name].append(time.perf_counter_ns() - start)
    return {name: median(ns) / 1e3 for name, ns in taken.items()}


def _agent(host: str, folder: Path, within: list[str], stack: ExitStack) -> None:
    ready = folder / "ready.json"
    agent = _start(
        [
            *within,
            sys.executable,
            "-m",
            "harness",
            "agent",
            "serve",
            "--host",
            host,
            "--port",
            "0",
            "--folder",
            str(folder),
            "--ready-file",
            str(ready),
        ],
        stack,
    )
    end = time.monotonic() + 60
    while not ready.exists():
        if agent.poll() is not None or time.monotonic() > end:
            sys.exit("the agent does not start")
        time.sleep(0.01)


def _start(command: list[str], stack: ExitStack) -> subprocess.Popen[str]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        child.terminate()
        child.wait(20)

    stack.callback(end)
    return child


def over_veth(folder: Path, rounds: int, where: str) -> dict[str, dict[str, float]] | str:
    """Run :func:`compare` between two namespaces. If this machine cannot create them, return one line with the reason."""
    from harness_remote.lab.namespaces import enter, probe

    able = probe()
    if able.mode == "loopback":
        return able.not_allowed[0]
    command = [
        *enter(able.mode),
        sys.executable,
        __file__,
        "--inside",
        able.mode,
        str(folder),
        str(rounds),
        where,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def inside(mode: Any, folder: Path, rounds: int, where: str) -> None:
    from harness_remote.lab.labfile import Lab
    from harness_remote.lab.namespaces import build, in_namespace

    link = {"rate": "1 Gbit/s", "ports": "per-link"}  # for a relay that is not started
    hosts = build(Lab.model_validate({"lab": "transport", "boards": [BOARD], "link": link}))
    within = in_namespace(BOARD, mode)
    if where == "veth in packets":
        for command in (["ip", "link", "set", "switch"], [*within, "ip", "link", "set", "eth0"]):
            subprocess.run([*command, "gso_max_segs", "1"], check=True)
    print(json.dumps(compare(hosts[BOARD], folder, within, rounds)))


def main(rounds: int) -> None:
    found: dict[str, Any] = {}
    for where in WHERE:
        with tempfile.TemporaryDirectory() as name:
            if where == "loopback":
                found[where] = compare("127.0.0.1", Path(name), [], rounds)
            else:
                found[where] = over_veth(Path(name), rounds, where)
        if isinstance(found[where], str):
            print(f"{where}: not here: {found[where]}")
            continue
        for size, medians in found[where].items():
            figures = "   ".join(f"{name} {us:.0f}" for name, us in medians.items())
            print(f"{where}, {size}, p50 in us: {figures}", flush=True)
    for where, ours, theirs, limit in LIMITS:
        if isinstance(found[where], dict):
            medians = next(iter(found[where].values()))
            ratio = medians[ours] / medians[theirs]
            print(f"{where}: {ours} over {theirs}: {ratio:.2f} (at most {limit})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)

"""The agent: it lends this board's worker to one holder at a time, over gRPC and a port for other boards' frames."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from harness.errors import DeviceError
from harness.plugins import load_plugins
from harness_remote.agent.blobs import Blobs
from harness_remote.agent.calls import Calls
from harness_remote.agent.frameport import FrameLimits, FramePort
from harness_remote.agent.lease import Leases
from harness_remote.agent.rpc import Gate, handlers
from harness_remote.wire.addresses import resolves_to_loopback
from harness_remote.wire.framesocket import server_context
from harness_remote.wire.secrets import Identity
from harness_remote.wire.wire import MAX_CONTROL_BYTES, OPTIONS

__all__ = ["Agent", "AgentSettings", "serve"]

MAX_CONNECTIONS = 128
"""Connections at once, with or without a token. More are closed as soon as they come."""
MAX_FILES = 65_536
IDLE_MS = 60_000
"""Time after which a connection without a call is closed. A client connects again by itself."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """The agent's folder and addresses, and its limits.

    ``port`` 0 is any free port. ``frames_port`` None is the port after ``port``. Without ``identity`` the agent
    listens only on a loopback address. ``max_calls`` calls are answered at once. A call that follows a job gets a
    heartbeat every ``heartbeat_s`` seconds. ``wrapper`` ("module:function") wraps each session of a worker; a lab
    uses it to replay sessions.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    frames_port: int | None = None
    identity: Identity | None = None
    name: str = ""
    max_blob_bytes: int = 2**31
    max_total_bytes: int = 8 * 2**30
    max_calls: int = 48
    frames: FrameLimits = field(default_factory=FrameLimits)
    heartbeat_s: float = 2.0
    wrapper: str = ""


def serve(settings: AgentSettings, announce: Callable[[str, str], Any] = print) -> None:
    """Run the agent until SIGTERM or SIGINT. Call ``announce`` with both addresses once it listens.

    Raises:
        DeviceError: it cannot listen at the address, or another agent uses the folder.
    """
    _few_arenas()
    _many_files()
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it logs a traceback for a broken message
    ends = {signal.SIGTERM, signal.SIGINT}
    # A socket, because a lock misses a signal that comes just before the wait, or to another thread.
    receiving, sending = socket.socketpair()
    with receiving, sending:
        sending.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in ends}
        file_before = signal.set_wakeup_fd(sending.fileno())
        try:
            with Agent(settings) as agent:
                announce(agent.address, agent.frames_address)
                while ends.isdisjoint(receiving.recv(64)):
                    pass
        finally:
            signal.set_wakeup_fd(file_before)
            for number, handler in before.items():
                signal.signal(number, handler)


def _few_arenas() -> None:
    """Limit glibc to two heaps. By default each thread has its own, and each heap keeps the memory of long messages."""
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX; of this process, not of its workers


def _many_files() -> None:
    """Let this process and its workers open as many files as the system allows, up to ``MAX_FILES``.

    Connections count as files. A worker that a crowd of connections left no file could not be measured.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(most, MAX_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Agent:
    """A running agent. It accepts calls at ``address`` and other boards' frames at ``frames_address``.

    It is a context manager, whose end ends the worker and the server.

    Raises:
        DeviceError: it cannot listen at the address, or another agent uses the folder.
    """

    def __init__(self, settings: AgentSettings, leases: Leases | None = None) -> None:
        if settings.identity is None and not _loopback(settings.host):
            raise DeviceError(
                f"{settings.host} can be reached from outside: make key, certificate and token with "
                "`harness agent init`, or listen on 127.0.0.1"
            )
        self._locked = _lock(settings.folder)
        self._calls: Calls | None = None
        try:
            blobs = Blobs(settings.folder / "blobs", settings.max_blob_bytes, settings.max_total_bytes)
            name = settings.name or socket.gethostname()
            self._calls = Calls(
                settings.folder,
                blobs,
                load_plugins(),
                name,
                leases or Leases(),
                settings.heartbeat_s,
                settings.wrapper,
            )
            self._pool = ThreadPoolExecutor(settings.max_calls, thread_name_prefix="call")
            self._server = grpc.server(
                self._pool,
                interceptors=[Gate(settings.identity)],
                options=_options(),
                maximum_concurrent_rpcs=settings.max_calls,
            )
            self._server.add_generic_rpc_handlers((handlers(self._calls),))
            port = _bind(self._server, settings)
            listener = _listen(settings, port)
            context = None if settings.identity is None else server_context(settings.identity)
            self._frames = FramePort(listener, context, self._calls, settings.frames)
            frames_port = self._calls.frames_port = listener.getsockname()[1]
            self._server.start()
        except BaseException:
            if self._calls is not None:
                self._calls.stop()
            os.close(self._locked)
            raise
        self.address = _address(settings.host, port)
        self.frames_address = _address(settings.host, frames_port)

    def stop(self) -> None:
        """End the server, the session with its worker, and the frame port. Running calls have one second to end."""
        assert self._calls is not None
        ended = self._server.stop(1.0)
        self._calls.stop()
        self._frames.stop()
        ended.wait(5)
        self._pool.shutdown(wait=False, cancel_futures=True)
        os.close(self._locked)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``. Raises ``DeviceError`` if ``host`` has no address."""
    try:
        return resolves_to_loopback(host)
    except OSError as error:
        raise DeviceError(f"cannot listen on {host}: {error.strerror or error}") from None


def _lock(folder: Path) -> int:
    """Lock the folder and return the lock's open file. The system releases the lock when this process ends.

    Raises:
        DeviceError: the folder cannot be used, or another agent uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeviceError(f"cannot use {folder}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise DeviceError(f"another agent uses {folder}: stop it, or name another folder") from None
    return handle


def _options() -> tuple[tuple[str, Any], ...]:
    return (
        *OPTIONS,
        ("grpc.max_receive_message_length", 2 * MAX_CONTROL_BYTES),  # the calls refuse more than half of this
        ("grpc.so_reuseport", 0),  # without it a second agent would share the port unnoticed
        ("grpc.max_concurrent_streams", 64),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),  # before any token is checked
        ("grpc.keepalive_time_ms", 60_000),  # notices a client that was unplugged
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    )


def _bind(server: grpc.Server, settings: AgentSettings) -> int:
    address = _address(settings.host, settings.port)
    identity = settings.identity
    try:
        if identity is None:
            port = server.add_insecure_port(address)
        else:
            pair = (identity.key_pem, identity.certificate_pem)
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError:
        port = 0
    if not port:
        raise DeviceError(f"cannot listen on {address}: another program does, or it is not this machine's")
    return int(port)


def _listen(settings: AgentSettings, port: int) -> socket.socket:
    wanted = settings.frames_port
    if wanted is None:
        wanted = port + 1 if settings.port else 0
    if wanted > 65535:
        raise DeviceError("no port comes after 65535 for other boards' frames: name one with --frames-port")
    host = settings.host.strip("[]")
    try:
        if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():  # both, as gRPC does
            with suppress(OSError):
                return socket.create_server(
                    ("::", wanted), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
                )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, wanted), family=family, backlog=64)
    except OSError as error:
        address = _address(settings.host, wanted)
        raise DeviceError(f"cannot listen on {address} for other boards' frames: {error.strerror}") from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"

"""A connection to one board's agent. Every call has a deadline, and every error is one line.

A board that does not answer raises :class:`~harness.errors.BoardLost`. An answer that is an error raises
:class:`~harness.errors.DeviceError`. While a lease is held, a thread renews it. In this way a board that disappears
silently is noticed too. Every call in progress then ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import grpc
from google.protobuf.message import Message
from pydantic import TypeAdapter, ValidationError

import harness
from harness.errors import BoardLost, DeviceError
from harness.machine.clock import clock_of
from harness.types import Clock
from harness.worker.commands import Command
from harness_remote import agent_pb2 as pb
from harness_remote.client.channel import open_channel
from harness_remote.client.failures import LeaseLost, failure, plugin_name
from harness_remote.wire import codec
from harness_remote.wire.board import PROTOCOL, BoardDescription
from harness_remote.wire.commands import answer_of
from harness_remote.wire.secrets import Credentials
from harness_remote.wire.wire import CHUNK_BYTES, LEASE, SERVICE

__all__ = ["Client", "Timeouts"]

PINGS = 20
LEASE_S = 60.0
RETRY_S = 0.5

A = TypeVar("A")


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds.

    ``answer``: of a call. ``lost``: without any answer, until a board counts as lost. ``lease``: of the wait for a
    board that someone else holds. ``work``: of loading, or of inference on one piece of the images. ``renew``:
    between two renewals of the lease.
    """

    answer: float = 10.0
    lost: float = 30.0
    lease: float = 0.0
    work: float = 600.0
    renew: float = 10.0


class Client:
    """A connection to one agent. Any thread may use it.

    ``protocol`` is the version that the agent must speak. ``channel`` opens a gRPC channel to a target.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        timeouts: Timeouts | None = None,
        *,
        protocol: int = PROTOCOL,
        channel: Callable[[str, bytes], grpc.Channel] = open_channel,
    ) -> None:
        self.name = name
        self.timeouts = timeouts or Timeouts()
        self._credentials = credentials
        self._protocol = protocol
        self._open_channel = channel
        self._channel: grpc.Channel | None = None
        self._lease = ""
        self._gone = ""
        self._quiet = threading.Event()  # set while the client is detached and must send nothing
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._renewing = threading.Lock()

    # --- what the agent is ---

    def health(self, timeout_s: float | None = None) -> Any:
        """Return the agent's monotonic time in ns, its version, and whether the board is leased."""
        return self._call("Health", pb.HealthRequest(), pb.HealthReply, timeout_s)

    def describe(self, timeout_s: float | None = None) -> BoardDescription:
        """Return the board's description.

        Raises:
            DeviceError: the agent speaks another protocol than this harness.
        """
        reply = self._call("Describe", pb.DescribeRequest(), pb.DescribeReply, timeout_s)
        unreadable = f"{self._who()} describes itself in a way that this harness cannot read"
        try:
            described = json.loads(reply.board)
            protocol = described["protocol"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DeviceError(unreadable) from None
        if protocol != self._protocol:
            older = "agent" if isinstance(protocol, int) and protocol < self._protocol else "harness"
            raise DeviceError(
                f"{self._who()} speaks protocol {protocol} (harness {described.get('harness')}), this harness "
                f"{harness.__version__} protocol {self._protocol}: upgrade the {older} "
                f"(`harness devices setup {self.name}` installs this version there)"
            )
        try:
            return TypeAdapter(BoardDescription).validate_python(described)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise DeviceError(f"{unreadable}: {where}: {error.errors()[0]['msg']}") from None

    def clock(self) -> Clock:
        """Return the board's monotonic clock less this process's (:func:`~harness.machine.clock.clock_of`).

        Raises:
            BoardLost: the board does not answer.
        """
        return clock_of(lambda: int(self.health().monotonic_ns), PINGS)

    # --- the lease ---

    def acquire(self) -> None:
        """Hold the board until this client is closed.

        Raises:
            BoardLost: someone else holds it for longer than ``timeouts.lease``.
        """
        holder = f"{socket.gethostname()} (process {os.getpid()})"
        end = time.monotonic() + self.timeouts.lease
        while True:
            try:
                request = pb.AcquireRequest(holder=holder, seconds=LEASE_S)
                self._lease = self._call("Acquire", request, pb.Lease).id
                break
            except DeviceError as error:
                if isinstance(error, BoardLost) or "held by" not in str(error):
                    raise
                if time.monotonic() >= end:
                    raise BoardLost(error, board=self.name) from None
                time.sleep(min(RETRY_S, max(0.0, end - time.monotonic())))
        threading.Thread(target=self._keep, name=f"lease of {self.name}", daemon=True).start()

    def _keep(self) -> None:
        """Renew the lease. End all calls after ``lost`` seconds without an answer, or if the lease is lost."""
        heard = time.monotonic()
        while not self._closed.wait(self.timeouts.renew):
            with self._renewing:
                try:
                    if not self._quiet.is_set():
                        self._call("Renew", pb.RenewRequest(seconds=LEASE_S), pb.Lease)
                    heard = time.monotonic()
                except DeviceError as error:
                    if isinstance(error, LeaseLost) or time.monotonic() - heard > self.timeouts.lost:
                        self._give_up(str(error))
                        return

    def _give_up(self, why: str) -> None:
        with self._lock:
            self._gone = self._gone or why
            channel = self._channel
        if channel is not None:
            channel.close()

    def detach(self, seconds: float) -> None:
        """Close the connection, and keep the lease for ``seconds``. :meth:`attach` connects again."""
        with self._renewing:  # because a renewal would connect again, or shorten the lease
            self._call("Renew", pb.RenewRequest(seconds=seconds), pb.Lease)
            self._quiet.set()
            self._drop()

    def attach(self) -> None:
        """Connect again after :meth:`detach`. Raises ``BoardLost`` if the board does not answer."""
        self._call("Renew", pb.RenewRequest(seconds=LEASE_S), pb.Lease)
        self._quiet.clear()

    # --- what is sent ---

    def put_file(self, path: Path) -> str:
        """Send a file, or the part of it that the board does not yet have, and return its SHA-256."""
        with path.open("rb") as file:
            return self._put(file)

    def put(self, data: bytes) -> str:
        """Send bytes as :meth:`put_file` sends a file."""
        return self._put(io.BytesIO(data))

    def _put(self, file: BinaryIO) -> str:
        digest, size = hashlib.sha256(), 0
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            size += len(block)
        sha256 = digest.hexdigest()
        held = self._call("Stat", pb.StatRequest(sha256=sha256, size=size), pb.StatReply).held
        end = time.monotonic() + self.timeouts.lost
        while held < size:
            before = held
            try:
                held = self._call(
                    "Put",
                    self._chunks(file, sha256, size, held),
                    pb.StatReply,
                    self.timeouts.work,
                    "stream_unary",
                ).held
            except BoardLost:
                if time.monotonic() > end:
                    raise
                time.sleep(RETRY_S)
                held = self._call("Stat", pb.StatRequest(sha256=sha256, size=size), pb.StatReply).held
            if held > before:
                end = time.monotonic() + self.timeouts.lost
            elif time.monotonic() > end:
                raise BoardLost(f"{self._who()} takes no more than {held} of {size} bytes", board=self.name)
        return sha256

    @staticmethod
    def _chunks(file: BinaryIO, sha256: str, size: int, offset: int) -> Iterator[Any]:
        file.seek(offset)
        first = file.read(CHUNK_BYTES)
        yield pb.PutRequest(sha256=sha256, size=size, offset=offset, data=first)
        offset += len(first)
        while block := file.read(CHUNK_BYTES):
            yield pb.PutRequest(offset=offset, data=block)
            offset += len(block)

    # --- work ---

    def work(self, command: Command[A]) -> A:
        """Run a command in the board's worker, and return its answer.

        Raises:
            DeviceError: the board answers with an error.
            BoardLost: the board, or another board that the command needs, does not answer.
        """
        answer: A = answer_of(command, self._work(command).answer)
        return answer

    def start(self, command: Command[Any]) -> str:
        """Start a command over images in the board's worker, and return the job's id."""
        return str(self._work(command).job)

    def follow(
        self, command: Command[A], job: str, limit_s: float, waiting: Callable[[], Any] = lambda: None
    ) -> A:
        """Wait for a job and return its answer. ``waiting`` is called at each heartbeat while the job runs.

        If the connection breaks, the answer continues after the bytes that have arrived.

        Raises:
            DeviceError: the job failed, or did not end within ``limit_s``.
            BoardLost: the board, or another board that the job needs, does not answer.
        """
        answer: A = answer_of(command, self._fetch(job, limit_s, waiting))
        return answer

    def _work(self, command: Command[Any]) -> Any:
        request = pb.WorkRequest(kind=type(command).__name__, value=codec.to_json(command))
        return self._call("Work", request, pb.WorkReply, self.timeouts.work)

    def _fetch(self, job: str, limit_s: float, waiting: Callable[[], Any]) -> bytes:
        result, size = bytearray(), None
        heard = time.monotonic()
        end = heard + limit_s
        while size is None or len(result) < size:
            left = end - time.monotonic()
            if left <= 0:
                with contextlib.suppress(DeviceError):
                    self._call("Cancel", pb.CancelRequest(id=job), pb.Done)
                raise DeviceError(f"{self._who()}: the job did not end within {limit_s:.0f} s")
            before = heard
            try:
                for reply in self._replies(pb.FollowRequest(id=job, offset=len(result)), left):
                    heard = time.monotonic()
                    if reply.lost:
                        raise BoardLost(reply.error, board=reply.lost)
                    if reply.error:
                        raise DeviceError(f"{self._who()}: {reply.error}", plugin=plugin_name(reply.plugin))
                    if reply.running:
                        waiting()
                    else:
                        size = reply.size
                        result += reply.data
            except BoardLost as error:
                mine = error.board == self.name and not isinstance(error, LeaseLost) and not self._gone
                if not mine or time.monotonic() - heard > self.timeouts.lost:
                    raise
            if heard == before:
                time.sleep(RETRY_S)
        return bytes(result)

    def _replies(self, request: Message, limit_s: float) -> Iterator[Any]:
        with self._closed_means_lost():
            call = self._method("Follow", pb.FollowReply, "unary_stream")(
                request, timeout=limit_s, metadata=self._metadata()
            )
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._failure(error, "Follow") from None
        finally:
            call.cancel()

    def close(self) -> None:
        """Release the board, which ends its worker, and close the connection."""
        if self._lease and not self._gone and not self._closed.is_set():
            with contextlib.suppress(DeviceError):
                self._call("Release", pb.ReleaseRequest(), pb.Done, min(2.0, self.timeouts.answer))
        self._closed.set()
        self._drop()

    # --- calls ---

    def _open(self) -> grpc.Channel:
        with self._lock:
            if self._gone:
                raise BoardLost(self._gone, board=self.name)
            if self._channel is None:
                self._channel = self._open_channel(self._credentials.target, self._credentials.certificate)
            return self._channel

    def _drop(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _method(self, method: str, reply: Any, kind: str = "unary_unary") -> Callable[..., Any]:
        make = getattr(self._open(), kind)
        called: Callable[..., Any] = make(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return called

    def _call(
        self, method: str, request: Any, reply: Any, timeout_s: float | None = None, kind: str = "unary_unary"
    ) -> Any:
        limit = self.timeouts.answer if timeout_s is None else timeout_s
        try:
            with self._closed_means_lost():
                return self._method(method, reply, kind)(request, timeout=limit, metadata=self._metadata())
        except grpc.RpcError as error:
            raise self._failure(error, method, limit) from None

    @contextlib.contextmanager
    def _closed_means_lost(self) -> Iterator[None]:
        """Raise ``BoardLost`` if another thread has closed the channel, for which gRPC raises ``ValueError``."""
        try:
            yield
        except ValueError as error:
            raise BoardLost(self._gone or f"{self._who()}: {error}", board=self.name) from None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = (("authorization", f"Bearer {self._credentials.token}"),) if self._credentials.token else ()
        return (*token, (LEASE, self._lease)) if self._lease else token

    def _failure(self, error: grpc.RpcError, method: str, limit_s: float | None = None) -> DeviceError:
        if self._gone:
            return BoardLost(self._gone, board=self.name)
        return failure(error, self.name, self._who(), method, limit_s)

    def _who(self) -> str:
        return f"{self.name} ({self._credentials.target})"

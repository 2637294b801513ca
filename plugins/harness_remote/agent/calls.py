"""The calls of the control plane, after their token and message have been checked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import harness
from harness.errors import BoardLost, DeviceError
from harness.plugins import Plugins
from harness_remote import agent_pb2 as pb
from harness_remote.agent import board
from harness_remote.agent.blobs import Blobs
from harness_remote.agent.forward import Buffer, Forwarder, Frame
from harness_remote.agent.jobs import Job
from harness_remote.agent.lease import Leases
from harness_remote.agent.session import LeaseSession
from harness_remote.wire import codec
from harness_remote.wire.commands import command_of
from harness_remote.wire.wire import CHUNK_BYTES, MAX_CONTROL_BYTES, MAX_MESSAGE_BYTES

__all__ = ["Call", "Calls", "Connected", "LeaseError", "TooMuchError"]

LAPSE_S = 0.5
NOBODY_WAITS = "nobody waits for this lease any longer"
Reply = Callable[[Frame], None]
Farewell = Callable[[str], None]


class LeaseError(DeviceError):
    """The caller does not hold the board, or no longer holds it."""


class TooMuchError(DeviceError):
    """A request is larger or more frequent than the agent allows."""


class Connected(Protocol):
    """A call or connection. It lasts while its caller is there, and the end of the session cancels it."""

    def on_end(self, then: Callable[[], None]) -> Any:
        """Call ``then`` when the call or connection ends, or at once if it has ended."""
        ...

    def cancel(self) -> Any:
        """End the call or connection."""
        ...


class Call(Connected, Protocol):
    """A call of the control plane."""

    def lease(self) -> str:
        """Return the lease's id that the caller sent, or an empty string."""
        ...


class Calls:
    """The calls to one board: its lease, and the session of its holder. Any thread may use the object.

    Every method raises ``DeviceError`` if the request cannot be done, and :class:`LeaseError` if the lease is not
    valid.
    """

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        plugins: Plugins,
        name: str,
        leases: Leases,
        heartbeat_s: float = 2.0,
        wrapper: str = "",
    ) -> None:
        self._folder, self._blobs, self._plugins, self._name = folder, blobs, plugins, name
        self._leases, self._heartbeat_s = leases, heartbeat_s
        self._wrapper = wrapper
        self.frames_port = 0
        self._changing = threading.Lock()
        self._session: LeaseSession | None = None
        self._holder = ""
        self._board: pb.DescribeReply | None = None
        self._open: set[Connected] = set()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="leases", daemon=True)
        self._watcher.start()

    # --- anyone with the token ---

    def health(self, request: pb.HealthRequest, call: Call) -> pb.HealthReply:
        """Return the agent's monotonic time in ns, its version, and whether the board is leased."""
        return pb.HealthReply(
            monotonic_ns=time.monotonic_ns(), version=harness.__version__, leased=self._leases.held()
        )

    def describe(self, request: pb.DescribeRequest, call: Call) -> pb.DescribeReply:
        """Return the board's description. Every sensor is read, unless that would disturb a measurement."""
        session = self._session
        if session is None or session.idle:
            self._board = pb.DescribeReply(board=json.dumps(asdict(board.describe(self._plugins))))
        if self._board is None:
            raise DeviceError(f"{self._name} is measuring: ask again later")
        return self._board

    def acquire(self, request: pb.AcquireRequest, call: Call) -> pb.Lease:
        """Give the caller the lease.

        Ending the last holder's worker takes some time. A caller that disconnects meanwhile gets no lease.
        """
        left = _left(call)
        with self._changing:
            if self._stopped.is_set():
                raise DeviceError(f"the agent on {self._name} is stopping")
            if left.is_set():
                raise DeviceError(NOBODY_WAITS)
            id, seconds = self._leases.acquire(request.holder, request.seconds)
            self._end_session()  # the session of the last holder
            try:
                self._session = LeaseSession(
                    self._folder / "session",
                    self._blobs,
                    self._plugins,
                    self._name,
                    self.frames_port,
                    self._wrapper,
                )
            except OSError as error:
                self._leases.release(id)
                raise DeviceError(f"{self._name} cannot write its folder: {error.strerror}") from None
            if left.is_set():
                self._end_session()
                self._leases.release(id)
                raise DeviceError(NOBODY_WAITS)
            self._holder = id
            return pb.Lease(id=id, seconds=seconds)

    # --- the lease's holder ---

    def renew(self, request: pb.RenewRequest, call: Call) -> pb.Lease:
        """Let the lease last for the requested seconds from now, and return the seconds that were granted."""
        left = _left(call)
        self._held(call)
        if left.is_set():  # the caller may meanwhile have asked for another duration
            raise DeviceError(NOBODY_WAITS)
        return pb.Lease(id=call.lease(), seconds=self._leases.renew(call.lease(), request.seconds))

    def release(self, request: pb.ReleaseRequest, call: Call) -> pb.Done:
        """End the session with its worker, then the lease."""
        with self._changing:
            self._held(call)
            self._open.discard(call)
            self._end_session()
            self._leases.release(call.lease())
        return pb.Done()

    def stat(self, request: pb.StatRequest, call: Call) -> pb.StatReply:
        """Return the number of bytes of a file that the board holds."""
        self._held(call)
        return pb.StatReply(held=self._blobs.held(request.sha256, request.size))

    def put(self, requests: Iterable[pb.PutRequest], call: Call) -> pb.StatReply:
        """Write the pieces of a file. They are kept if the sender stops before the end."""
        first: pb.PutRequest | None = None
        at = 0
        for request in requests:
            self._held(call)
            if first is None:
                first, at = request, request.offset
            if request.ByteSize() > MAX_CONTROL_BYTES:
                raise TooMuchError(f"a chunk of {request.ByteSize()} bytes; allowed are {MAX_CONTROL_BYTES}")
            at = self._blobs.write(first.sha256, first.size, at, request.data)
        return pb.StatReply(held=at)

    def work(self, request: pb.WorkRequest, call: Call) -> pb.WorkReply:
        """Run a command in the board's worker and return its answer.

        A command over images starts a job, and the answer is its id.
        """
        answer = self._held(call).work(command_of(request.kind, request.value))
        return (
            pb.WorkReply(job=answer.id)
            if isinstance(answer, Job)
            else pb.WorkReply(answer=codec.pack(answer))
        )

    def follow(self, request: pb.FollowRequest, call: Call) -> Iterator[pb.FollowReply]:
        """Yield a heartbeat until a job ends, then its answer in pieces from the requested offset, or its error."""
        job = self._held(call).job(request.id)
        gone = _left(call)
        while not job.done.wait(self._heartbeat_s):
            if gone.is_set():
                return
            yield pb.FollowReply(running=True)
        plugin = None if job.error is None else self.blame(job.error)
        yield from _result(job, request.offset, plugin)

    def cancel(self, request: pb.CancelRequest, call: Call) -> pb.Done:
        """End a running job, with its worker."""
        self._held(call).cancel(request.id)
        return pb.Done()

    def blame(self, error: BaseException) -> str | None:
        """Return the plugin in whose code the worker failed, or ``None`` where no worker failed or it is unknown."""
        failed = isinstance(error, DeviceError) and (error.files or error.plugin)
        return self._plugins.blame(error) if failed else None

    # --- frames of other boards ---

    def admit(self, ticket: str) -> LeaseSession:
        """Return the session of the worker to which another board may send frames, if its ticket is right.

        Raises:
            LeaseError: the ticket is wrong or no longer valid.
        """
        session = self._session
        if session is None or not session.admits(ticket):
            raise LeaseError(
                "the ticket is wrong, or not valid any more because the board's worker was ended or opened again"
            )
        return session

    def frames(
        self,
        session: LeaseSession,
        frames: Iterable[Buffer],
        guest: Connected,
        reply: Reply,
        farewell: Farewell,
    ) -> None:
        """Process the frames of an admitted board until no more arrive.

        Answers go to ``reply``. If the worker ends, ``farewell`` gets the reason why no more answers follow.
        """

        def over(fault: str) -> None:
            if fault:
                farewell(session.death() or fault)

        self._during(guest)
        try:
            forwarder = Forwarder(session.listening(), MAX_MESSAGE_BYTES, reply, over)
        except DeviceError as error:
            raise DeviceError(session.death() or error) from None
        guest.on_end(forwarder.end)
        try:
            all(map(forwarder.feed, frames))
        finally:
            forwarder.end()
            forwarder.join()

    # --- leases end ---

    def stop(self) -> None:
        """End the session, and refuse new ones."""
        with self._changing:
            self._stopped.set()
            self._end_session()
        self._watcher.join(5)

    def _held(self, call: Call) -> LeaseSession:
        """Return the session of the call's lease, and let the end of the session cancel the call.

        Raises:
            LeaseError: the lease is not valid.
        """
        session = self._session
        if session is None or self._holder != call.lease() or not self._leases.holds(call.lease()):
            raise LeaseError(f"{self._name} is not held by this lease (any more): acquire it again")
        self._during(call)
        return session

    def _during(self, call: Connected) -> None:
        """Cancel the call when the session ends."""
        if call not in self._open:
            self._open.add(call)
            call.on_end(lambda: self._open.discard(call))

    def _end_session(self) -> None:
        session, self._session, self._holder = self._session, None, ""
        if session is not None:
            session.close()
            for call in list(self._open):
                call.cancel()

    def _watch(self) -> None:
        while not self._stopped.wait(LAPSE_S):
            if self._session is not None and self._leases.lapsed():
                with self._changing:
                    if self._leases.lapsed():
                        self._end_session()


def _left(call: Call) -> threading.Event:
    """Return an event that is set as soon as the caller no longer waits."""
    left = threading.Event()
    call.on_end(left.set)
    return left


def _result(job: Job, offset: int, plugin: str | None) -> Iterator[pb.FollowReply]:
    """Yield the answer of a job that has ended, from ``offset`` on, or its error with the ``plugin`` to blame."""
    if job.error is not None:
        lost = job.error.board if isinstance(job.error, BoardLost) else ""
        kind = type(job.error).__name__
        yield pb.FollowReply(error=str(job.error), kind=kind, lost=lost, plugin=plugin)
        return
    if job.result is None:
        raise DeviceError("the job has no answer (yet, or any more)")
    with job.result.open("rb") as file:
        size = file.seek(0, 2)
        if not 0 <= offset <= size:
            raise DeviceError(f"the answer has {size} bytes, so nothing is at byte {offset}")
        file.seek(offset)
        while data := file.read(CHUNK_BYTES):
            yield pb.FollowReply(size=size, data=data)
        if offset == size:
            yield pb.FollowReply(size=size)

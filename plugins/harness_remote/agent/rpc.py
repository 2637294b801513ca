"""The agent's calls as gRPC handlers, and the interceptor that checks the token.

A call without the token is refused before it is read, and occupies no thread while it waits.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from harness.errors import BoardLost, HarnessError
from harness.worker.frames import FrameError
from harness_remote import agent_pb2 as pb
from harness_remote.agent.calls import Calls, LeaseError, TooMuchError
from harness_remote.wire.secrets import Identity
from harness_remote.wire.wire import LEASE, LOST, MAX_CONTROL_BYTES, PLUGIN, SERVICE

__all__ = ["Gate", "handlers"]

_LOG = logging.getLogger(__name__)

Blame = Callable[[BaseException], "str | None"]
"""Returns the plugin in whose code an error arose, if it is known."""


class Gate(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets calls pass that have the token, and every call for health."""

    def __init__(self, identity: Identity | None) -> None:
        self._expected = None if identity is None else f"Bearer {identity.token}".encode()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of a call, or a handler that refuses it if the token is missing or wrong."""
        if self._expected is None or details.method == f"/{SERVICE}/Health":
            return continuation(details)
        shown = _texts(details.invocation_metadata)
        if hmac.compare_digest(shown.get("authorization", "").encode(errors="replace"), self._expected):
            return continuation(details)
        return _REFUSED


def _refuse(frames: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the agent's token is missing or wrong")
    yield b""  # makes this a handler of a stream, which answers without reading the request


_REFUSED = grpc.stream_stream_rpc_method_handler(_refuse)


class _Call:
    """A call of gRPC as a :class:`harness_remote.agent.calls.Call`."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._metadata = _texts(context.invocation_metadata())

    def lease(self) -> str:
        return self._metadata.get(LEASE, "")

    def on_end(self, then: Callable[[], None]) -> None:
        if not self._context.add_callback(then):  # it has ended
            then()

    def cancel(self) -> None:
        self._context.cancel()


def handlers(calls: Calls) -> grpc.GenericRpcHandler:
    """Return the handlers of every method of the service."""
    blame = calls.blame

    def health(frames: Any, call: _Call) -> Iterator[pb.HealthReply]:
        yield calls.health(pb.HealthRequest(), call)

    def put(requests: Iterator[Any], call: _Call) -> pb.StatReply:
        return calls.put(map(_good, requests), call)

    def unary(call: Callable[[Any, _Call], Any], request: Any, reply: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            _answer(call, blame), _reader(request), reply.SerializeToString
        )

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            # as a stream, so that it is answered without waiting for the request
            "Health": grpc.stream_stream_rpc_method_handler(
                _answers(health, blame), None, pb.HealthReply.SerializeToString
            ),
            "Describe": unary(calls.describe, pb.DescribeRequest, pb.DescribeReply),
            "Acquire": unary(calls.acquire, pb.AcquireRequest, pb.Lease),
            "Renew": unary(calls.renew, pb.RenewRequest, pb.Lease),
            "Release": unary(calls.release, pb.ReleaseRequest, pb.Done),
            "Stat": unary(calls.stat, pb.StatRequest, pb.StatReply),
            "Put": grpc.stream_unary_rpc_method_handler(
                _answer(put, blame), _reader(pb.PutRequest), pb.StatReply.SerializeToString
            ),
            "Work": unary(calls.work, pb.WorkRequest, pb.WorkReply),
            "Follow": grpc.unary_stream_rpc_method_handler(
                _answers(calls.follow, blame), _reader(pb.FollowRequest), pb.FollowReply.SerializeToString
            ),
            "Cancel": unary(calls.cancel, pb.CancelRequest, pb.Done),
        },
    )


def _reader(request: Any) -> Callable[[bytes], Any]:
    """Return a function that parses a message, or returns the error for a message that is too long or broken.

    The function must not raise. gRPC would then keep the call in its connection forever.
    """

    def read(data: bytes) -> Any:
        if len(data) > MAX_CONTROL_BYTES:
            return TooMuchError(f"a message of {len(data)} bytes; allowed are {MAX_CONTROL_BYTES}")
        try:
            return request.FromString(data)
        except DecodeError:
            return FrameError(f"{len(data)} bytes that are no {request.DESCRIPTOR.name}")

    return read


def _good(request: Any) -> Any:
    """Return the message, or raise the error that :func:`_reader` returned in its place."""
    if isinstance(request, Exception):
        raise request
    return request


def _answer(call: Callable[[Any, _Call], Any], blame: Blame) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Return a gRPC handler for a call with one answer."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(_good(request), _Call(context))
        except Exception as error:  # noqa: BLE001 - the caller gets the error
            return _abort(context, error, blame)

    return answer


def _answers(call: Callable[[Any, _Call], Iterator[Any]], blame: Blame) -> Callable[..., Iterator[Any]]:
    """Return a gRPC handler for a call with a stream of answers."""

    def answers(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from call(_good(request), _Call(context))
        except Exception as error:  # noqa: BLE001 - the caller gets the error
            _abort(context, error, blame)

    return answers


def _abort(context: grpc.ServicerContext, error: Exception, blame: Blame) -> None:
    """End a call with a one-line error, never a traceback."""
    code = grpc.StatusCode.FAILED_PRECONDITION
    text = str(error)
    if isinstance(error, BoardLost):
        context.set_trailing_metadata(((LOST, quote(error.board)),))
    elif plugin := blame(error):
        context.set_trailing_metadata(((PLUGIN, quote(plugin)),))
    elif isinstance(error, LeaseError):
        code = grpc.StatusCode.PERMISSION_DENIED
    elif isinstance(error, (TooMuchError, MemoryError)):
        code, text = grpc.StatusCode.RESOURCE_EXHAUSTED, text or "the board is out of memory"
    elif isinstance(error, FrameError):
        code = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, grpc.RpcError):  # the caller went away while it sent
        error.__traceback__ = None  # gRPC keeps the error, and its stack frames would keep the call
        code = grpc.StatusCode.CANCELLED
    elif not isinstance(error, HarnessError):
        code, text = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
        _LOG.warning("a call failed: %s", text, exc_info=error)
    context.abort(code, " ".join(text.split())[:2000])


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}

"""Convert gRPC's errors to errors of the harness with one line each. They tell whether the board is lost."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import grpc

from harness.errors import BoardLost, DeviceError
from harness_remote.wire.secrets import refusal
from harness_remote.wire.wire import LOST, PLUGIN

__all__ = ["LeaseLost", "failure", "plugin_name"]


class LeaseLost(BoardLost):
    """The board answers, but this client no longer holds it."""


def failure(error: Any, board: str, who: str, method: str, limit_s: float | None = None) -> DeviceError:
    """Return the harness's error for a call that gRPC ended with ``error``. Its message says what a person can do.

    Args:
        error: a ``grpc.RpcError`` that is also the call.
        board: the board's name.
        who: the board's name and address, for messages.
        method: the call's name.
        limit_s: the call's deadline in seconds, if it had one.
    """
    code, details = error.code(), " ".join((error.details() or "").split())
    if code is grpc.StatusCode.UNAVAILABLE:
        if refused := refusal(details):
            return DeviceError(f"{who}: {refused}")
        return BoardLost(f"{who} does not answer: {_reason(details)}", board=board)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        within = f" within {limit_s:g} s" if limit_s is not None else ""
        return BoardLost(f"{who} did not answer {method}{within}", board=board)
    if code is grpc.StatusCode.CANCELLED:
        return BoardLost(f"{who}: the connection was closed", board=board)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return DeviceError(f"{who} does not take the token: copy it from the board again")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return LeaseLost(
            f"{who} is no longer held by us: its agent was started again, or our lease ran out", board=board
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return DeviceError(f"{who} does not know {method}: it is no agent, or one of another version")
    trailing = dict(error.trailing_metadata() or ())
    if lost := trailing.get(LOST):
        return BoardLost(details, board=unquote(str(lost)))
    return DeviceError(
        f"{who}: {details or code.name}", plugin=plugin_name(unquote(str(trailing.get(PLUGIN, ""))))
    )


def plugin_name(sent: str) -> str | None:
    """Return a plugin's name that a board sent, or ``None`` if it is none. An older agent sends none."""
    return sent if re.fullmatch(r"[\w.-]{1,100}", sent) else None


def _reason(details: str) -> str:
    """Return the operating system's reason from gRPC's text, which also lists every address that was tried."""
    for word in (
        "Connection refused",
        "No route to host",
        "Network is unreachable",
        "Connection reset",
        "Socket closed",
    ):
        if word.lower() in details.lower():
            return word.lower()
    if "name resolution" in details.lower() or "dns" in details.lower():
        return "its host's name cannot be resolved"
    return details[:200] or "no connection"

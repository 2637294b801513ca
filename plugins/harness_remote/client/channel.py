"""gRPC channels to agents: pinned certificate, options tuned for frames, no retries behind our back."""

from __future__ import annotations

from typing import Any

import grpc

from harness_remote.wire.secrets import NAME
from harness_remote.wire.wire import OPTIONS

__all__ = ["open_channel"]

_OWN: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_http_proxy", 0),  # a board is on the local network
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connection
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def open_channel(target: str, certificate: bytes, *extra: tuple[str, Any]) -> grpc.Channel:
    """A channel to ``host:port``; an agent that shows another certificate is not talked to."""
    if not certificate:
        return grpc.insecure_channel(target, [*OPTIONS, *_OWN, *extra])
    named = ("grpc.ssl_target_name_override", NAME)
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(certificate), [*OPTIONS, *_OWN, *extra, named]
    )

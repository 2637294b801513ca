"""Open gRPC channels to agents, with a pinned certificate, without a proxy and without retries by gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from harness_remote.wire.secrets import NAME
from harness_remote.wire.wire import MAX_MESSAGE_BYTES, OPTIONS

__all__ = ["open_channel"]

_OWN: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # a report contains the raw samples of meters
    ("grpc.enable_http_proxy", 0),  # a board is on the local network
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connection
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def open_channel(target: str, certificate: bytes, *extra: tuple[str, Any]) -> grpc.Channel:
    """Return a channel to ``host:port``. It connects only to an agent that shows the certificate.

    An empty certificate gives an unencrypted channel.
    """
    if not certificate:
        return grpc.insecure_channel(target, [*OPTIONS, *_OWN, *extra])
    named = ("grpc.ssl_target_name_override", NAME)
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(certificate), [*OPTIONS, *_OWN, *extra, named]
    )

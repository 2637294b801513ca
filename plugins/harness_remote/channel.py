"""gRPC channels to agents: pinned certificate, options tuned for frames, no retries behind our back."""

from __future__ import annotations

from typing import Any

import grpc

from harness_remote.secrets import NAME

__all__ = ["MAX_MESSAGE", "OPTIONS", "SERVICE", "STREAM", "open_channel", "refusal"]

SERVICE = "/harness.agent.v1.Agent/"
STREAM = f"{SERVICE}Stream"
MAX_MESSAGE = 64 * 2**20

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.http2.max_frame_size", 2**20),
    ("grpc.http2.lookahead_bytes", 8 * 2**20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.write_buffer_size", 4 * 2**20),
    ("grpc.experimental.tcp_read_chunk_size", 2**20),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # a board is on the local network
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connection
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
"""What each of the tuned ones gains is in docs/boards.md."""


def open_channel(target: str, certificate: bytes, *extra: tuple[str, Any]) -> grpc.Channel:
    """A channel to ``host:port``; an agent that shows another certificate is not talked to."""
    if not certificate:
        return grpc.insecure_channel(target, [*OPTIONS, *extra])
    named = ("grpc.ssl_target_name_override", NAME)
    return grpc.secure_channel(
        target, grpc.ssl_channel_credentials(certificate), [*OPTIONS, *extra, named]
    )


def refusal(details: str) -> str:
    """What a TLS handshake that failed comes to; empty where it is none."""
    told = details.lower()
    if "certificate has expired" in told or "certificate is not yet valid" in told:
        return "its certificate is not valid at this date: set both clocks, or make it anew (`harness agent init`)"
    if "certificate_verify_failed" in told or "certificate verify failed" in told or "hostname verification" in told:
        return (
            "it shows another certificate than the one in the inventory: it was made anew, or this is another machine"
        )
    if "wrong_version_number" in told or "handshake failed" in told or "ssl_error" in told or "tsi_" in told:
        return "it does not speak TLS, or is no agent"
    return ""

"""The constants that the agent and its clients share beside ``agent.proto``: names, limits, options of gRPC."""

from __future__ import annotations

from typing import Any

__all__ = [
    "CHUNK_BYTES",
    "LEASE",
    "LOST",
    "MAX_CONTROL_BYTES",
    "MAX_GREETING_BYTES",
    "MAX_MESSAGE_BYTES",
    "OPTIONS",
    "PEER",
    "PLUGIN",
    "SERVICE",
]

SERVICE = "harness.agent.v1.Agent"
LEASE, LOST, PLUGIN = "harness-lease", "harness-lost", "harness-plugin"

PEER = "harness_remote.client.peer:open_peer"
"""The function with which a worker opens another board's frame port. It is never sent over the network."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""The largest frame, in bytes."""

MAX_GREETING_BYTES = 4096
"""The largest greeting, in bytes. A greeting is the frame with the ticket of another board."""

MAX_CONTROL_BYTES = 4 * 2**20
"""The largest request of the control plane, in bytes."""

CHUNK_BYTES = 2**20
"""The size of the pieces in which files and answers are sent, in bytes."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.http2.max_frame_size", 2**20),
    ("grpc.http2.lookahead_bytes", 8 * 2**20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.write_buffer_size", 4 * 2**20),
    ("grpc.experimental.tcp_read_chunk_size", 2**20),
    ("grpc.enable_retries", 0),
)
"""Options of channels and servers. They let gRPC send a piece of a file in few parts."""

"""What the agent and its clients agree on beside ``agent.proto``: names, limits, and how gRPC is tuned."""

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
"""What a worker opens another board's frame port with; it never comes over the network."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""The largest frame."""

MAX_GREETING_BYTES = 4096
"""The largest greeting: what another board shows before it is let in."""

MAX_CONTROL_BYTES = 4 * 2**20
"""The largest request of the control plane."""

CHUNK_BYTES = 2**20
"""The size of the pieces in which files and answers are sent."""

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.http2.max_frame_size", 2**20),
    ("grpc.http2.lookahead_bytes", 8 * 2**20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.write_buffer_size", 4 * 2**20),
    ("grpc.experimental.tcp_read_chunk_size", 2**20),
    ("grpc.enable_retries", 0),
)
"""Options of channels and servers, so that a piece of a file goes in few parts."""

"""Boards over the network: the agent, its client, the Raspberry Pi and Jetson backends, the virtual lab."""

import os

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # before gRPC is imported, since it prints errors that we report ourselves

PORT = 50151
"""The default port of an agent."""

"""Boards over the network: the agent, its client, the Raspberry Pi and Jetson backends, the virtual lab."""

import os

# Set before gRPC is imported, because gRPC prints errors that the harness reports itself.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

PORT = 50151
"""The default port of an agent."""

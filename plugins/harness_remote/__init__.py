"""Boards over the network: the agent, its client, the Raspberry Pi and Jetson backends, the virtual lab."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is imported: errors are told in our own words

PORT = 50151  # where an agent listens unless told otherwise

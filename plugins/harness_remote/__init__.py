"""Boards over the network: the agent, its client, the Raspberry Pi and Jetson backends, the virtual lab."""

PORT = 50151  # where an agent listens unless told otherwise

"""Boards over the network: the agent, its client, the Raspberry Pi and Jetson backends, the virtual lab."""

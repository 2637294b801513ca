"""The client: devices of this host that are boards, reached over the network."""

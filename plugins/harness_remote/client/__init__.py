"""This host's half: devices that are boards, reached over the network."""

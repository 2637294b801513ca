"""The board's half: a server that runs workers for a client."""

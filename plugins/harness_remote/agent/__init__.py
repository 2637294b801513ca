"""The agent: the server on a board, which runs workers for a client."""

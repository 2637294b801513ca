"""The installation of the agent on a board over ssh."""

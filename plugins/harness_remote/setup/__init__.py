"""Installing the agent on a board over ssh."""

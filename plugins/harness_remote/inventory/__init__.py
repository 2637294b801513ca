"""The boards that a user has added, and how they answer."""

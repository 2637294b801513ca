"""The inventory: the boards that a user has added, and their answers."""

"""A plugin that profiles devices: it times operations on any backend."""

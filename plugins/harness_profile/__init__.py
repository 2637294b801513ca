"""A plugin that profiles devices: it times operations and small models on any backend."""

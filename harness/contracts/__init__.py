"""Contracts of plugins: each value that a plugin returns is checked once, where it enters the harness."""

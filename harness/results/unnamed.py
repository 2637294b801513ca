"""Which plugin the line of a failure must name."""

from __future__ import annotations

__all__ = ["unnamed"]


def unnamed(plugin: str | None, reason: str) -> str | None:
    """Return ``plugin``, or None if ``reason`` names it already, as the message of a broken contract does."""
    return None if reason.startswith(f"plugin {plugin} ") else plugin

"""Whether a value goes through JSON unchanged in meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["is_json", "is_json_object"]


def is_json(value: Any) -> bool:
    """Return whether ``value`` consists of JSON's types, with finite numbers."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def is_json_object(value: Any) -> bool:
    """Return whether ``value`` is a mapping from texts to JSON."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and is_json(dict(value))

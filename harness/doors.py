"""Doors: modules that re-export names of others, each imported when it is first used.

Importing a door therefore costs nothing: planning loads no numpy for a method that only trains with it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["door"]


def door(
    name: str, modules: Mapping[str, Sequence[str]], namespace: dict[str, object]
) -> Callable[[str], Any]:
    """Return the ``__getattr__`` (PEP 562) of the door called ``name``.

    ``modules``: module -> the names that it gives to the door. ``namespace``: the door's globals, which keep a name
    after its first use.
    """
    module_of = {exported: module for module, names in modules.items() for exported in names}

    def load(exported: str) -> Any:
        if exported not in module_of:
            raise AttributeError(f"module {name!r} has no attribute {exported!r}")
        value = namespace[exported] = pkgutil.resolve_name(f"{module_of[exported]}.{exported}")
        return value

    return load

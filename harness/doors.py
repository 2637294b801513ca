"""Doors: modules that re-export names of other modules and import each name when it is first used.

Importing a door therefore costs nothing. For example, planning loads no numpy for a method that needs it only in
training.
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

    ``modules`` maps each module to the names that the door re-exports from it. ``namespace`` is the globals of the
    door, which keep a name after its first use.
    """
    module_of = {exported: module for module, names in modules.items() for exported in names}

    def load(exported: str) -> Any:
        if exported not in module_of:
            raise AttributeError(f"module {name!r} has no attribute {exported!r}")
        value = namespace[exported] = pkgutil.resolve_name(f"{module_of[exported]}.{exported}")
        return value

    return load

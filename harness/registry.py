"""Entries by name, each with the plugin that provides it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from harness.contracts.need import Need, calling, needing
from harness.errors import PluginError, UnknownEntry, nearest
from harness.extras import install_command
from harness.types.params import Entry

__all__ = ["E_co", "Origin", "Problem", "Registered", "Registry", "SlowImport"]


E_co = TypeVar("E_co", bound=Entry, covariant=True)


@dataclass(frozen=True)
class Origin:
    """The plugin, distribution and version from which an entry comes."""

    plugin: str
    distribution: str
    version: str
    module: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Problem:
    """A plugin that could not be used, and the reason."""

    origin: Origin
    hook: str
    reason: str

    def __str__(self) -> str:
        return (
            f"plugin {self.origin}: {self.hook}: {self.reason} (--block {self.origin.plugin} leaves it out)"
        )


@dataclass(frozen=True)
class SlowImport:
    """A plugin that imports a slow module (one that takes seconds) while it is loaded or lists its entries."""

    origin: Origin
    module: str

    def __str__(self) -> str:
        return (
            f"plugin {self.origin} imports {self.module} when it is loaded, which makes every command slow: "
            f"import {self.module} inside the function that uses it"
        )


@dataclass(frozen=True)
class Registered(Generic[E_co]):
    """An entry and the plugin that provides it."""

    entry: E_co
    origin: Origin

    @property
    def absent(self) -> list[str]:
        """Return the modules that the entry requires and that are not installed."""
        return [name for name in self.entry.requires if not _importable(name)]

    @property
    def advice(self) -> str:
        """Return how to install what the entry requires."""
        extra = self.entry.extra
        return install_command(extra) if extra else "install the packages that contain them"

    @property
    def not_installed(self) -> str | None:
        """Return which requirements are not installed and how to install them, or ``None`` if all are."""
        absent = self.absent
        return f"{self.entry.name} needs {', '.join(absent)}: {self.advice}" if absent else None


class Registry(Generic[E_co]):
    """Entries of one kind by name."""

    def __init__(
        self,
        kind: str,
        items: Iterable[Registered[E_co]],
        problems: Iterable[Problem] = (),
        blocked: Iterable[str] = (),
    ) -> None:
        self.kind = kind
        self._items: dict[str, Registered[E_co]] = {}
        self._broken = sorted({problem.origin.plugin for problem in problems})
        self._blocked = sorted(blocked)
        for item in items:
            name = item.entry.name
            if name in self._items:
                first = self._items[name].origin
                raise PluginError(
                    f"{kind} {name!r} is given by two plugins: {first} and {item.origin}; "
                    f"leave one out with --block {first.plugin} or --block {item.origin.plugin}"
                )
            self._items[name] = item

    def get(self, name: str, where: str = "") -> Registered[E_co]:
        """Return the entry called ``name``.

        Raises:
            UnknownEntry: there is no such entry. The message begins with ``where`` (file:line: key).
        """
        if name in self._items:
            return self._items[name]
        absent = f" (blocked: {', '.join(self._blocked)})" if self._blocked else ""
        if self._broken:
            absent += f" (not loaded: {', '.join(self._broken)}; see `harness plugins list`)"
        raise UnknownEntry(
            f"{where + ': ' if where else ''}unknown {self.kind} {name!r}: {nearest(name, self._items)}{absent}"
        )

    def need(self, name: str) -> Need:
        """Return the function that checks what the entry ``name`` returns, and names it in its message."""
        origin = self._items[name].origin
        return needing(self._who(name), origin.plugin)

    def calling(self, name: str, function: str, *, may_refuse: bool = True) -> AbstractContextManager[None]:
        """Return a context that reports an exception of a planning-time function of the entry ``name`` in one line.

        With ``may_refuse`` a ``ValueError`` passes (:func:`harness.contracts.need.calling`).
        """
        plugin = self._items[name].origin.plugin
        return calling(self._who(name), function, plugin, may_refuse=may_refuse)

    def _who(self, name: str) -> str:
        return f"plugin {self._items[name].origin}: {self.kind} {name!r}"

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[Registered[E_co]]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)


@cache
def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (Exception, SystemExit):  # noqa: BLE001 - the package of a submodule is imported, and may raise anything
        return False

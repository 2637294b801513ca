"""The entries that a suite names: look them up in the plugins, check their parameters, and note their use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from harness.contracts.entries import check_params
from harness.errors import SuiteError, UnknownEntry
from harness.registry import Origin, Registered, Registry
from harness.suite.entry_ref import NamedEntry
from harness.suite.validate import validated
from harness.suite.yamlfile import KeyPath, Source
from harness.types.params import Entry, Params

__all__ = ["ChosenEntry", "Entries"]

E_co = TypeVar("E_co", bound=Entry, covariant=True)
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class ChosenEntry(Generic[E_co]):
    """An entry, its plugin, and its checked parameters."""

    entry: E_co
    origin: Origin
    params: Params


@dataclass
class Entries:
    """The entries of one suite.

    ``missing`` has the entries and the modules that are not installed, by the advice how to install them.
    """

    source: Source
    missing: dict[str, tuple[dict[str, None], dict[str, None]]] = field(default_factory=dict)

    def get(self, registry: Registry[E], name: str, path: KeyPath) -> Registered[E]:
        """Return the entry that is named at ``path`` of the suite.

        Raises:
            SuiteError: there is no such entry.
        """
        try:
            return registry.get(name)
        except UnknownEntry as error:
            raise SuiteError(f"{self.source.where(*path)}: {error}") from None

    def choose(self, registry: Registry[E], ref: NamedEntry, path: KeyPath) -> ChosenEntry[E]:
        """Return the entry of a reference at ``path``, with its checked parameters, and note its use.

        Raises:
            SuiteError: there is no such entry, or a parameter is wrong.
            BrokenContract: the entry's parameters do not go through JSON.
        """
        registered = self.get(registry, ref.name, path)
        params = self.params(registry, ref.name, ref.params, (*path, ref.name))
        self.use(registered)
        return ChosenEntry(registered.entry, registered.origin, params)

    def params(self, registry: Registry[E], name: str, values: Mapping[str, object], path: KeyPath) -> Params:
        """Return the checked parameters of the entry ``name`` from the ``values`` at ``path`` of the suite.

        Raises:
            SuiteError: a parameter is wrong.
            BrokenContract: the entry's parameters do not go through JSON.
        """
        entry = registry.get(name).entry
        with registry.calling(name, "a check of its parameters"):
            params = validated(entry.params, dict(values), self.source, path)
        check_params(registry.need(name), entry, params)
        return params

    def use(self, registered: Registered[Entry]) -> None:
        """Note the extra that an entry needs and that is not installed.

        Backends and meters report theirs themselves.
        """
        if absent := registered.absent:
            names, modules = self.missing.setdefault(registered.advice, ({}, {}))
            names[registered.entry.name] = None
            modules.update(dict.fromkeys(absent))

    @property
    def missing_extras(self) -> tuple[str, ...]:
        """Return a line for each extra that must be installed before all entries in use can run."""
        return tuple(
            f"{', '.join(names)} {'need' if len(names) > 1 else 'needs'} {', '.join(modules)}: {advice}"
            for advice, (names, modules) in self.missing.items()
        )

"""Find, load and block plugins, and hash the source of each."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from harness import hookspecs
from harness.contracts.entries import check_entry
from harness.contracts.need import needing
from harness.errors import (
    BrokenContract,
    DeviceError,
    HarnessError,
    PluginError,
    first_line,
    nearest,
    source_files,
)
from harness.extras import missing_module
from harness.registry import Origin, Problem, Registered, Registry, SlowImport
from harness.store.sources import distribution_files, imported_files, module_files, source_hash, versions_of
from harness.types import (
    BackendEntry,
    CompressorEntry,
    DatasetEntry,
    MeterEntry,
    ModelEntry,
    PartitionerEntry,
    PlacerEntry,
    RuntimeEntry,
)
from harness.types.origin import EntryOrigin
from harness.types.params import Entry

__all__ = ["GROUP", "Plugins", "load_plugins"]

GROUP = "harness"
SHIPPED = "edge-harness"
"""The distribution that ships the harness. Each of its plugins is a separate package."""

SLOW = ("torch",)
"""Modules that take seconds to import, so that no plugin may import them while it is loaded."""


_KINDS = {
    "harness_models": "model",
    "harness_compressors": "compressor",
    "harness_partitioners": "partitioner",
    "harness_placers": "placer",
    "harness_datasets": "dataset",
    "harness_backends": "backend",
    "harness_runtimes": "runtime",
    "harness_meters": "meter",
}


@dataclass
class Plugins:
    """The entries of all loaded plugins, and the plugins that could not be used."""

    manager: pluggy.PluginManager
    models: Registry[ModelEntry]
    compressors: Registry[CompressorEntry]
    partitioners: Registry[PartitionerEntry]
    placers: Registry[PlacerEntry]
    datasets: Registry[DatasetEntry]
    backends: Registry[BackendEntry]
    runtimes: Registry[RuntimeEntry]
    meters: Registry[MeterEntry]
    origins: tuple[Origin, ...] = ()
    problems: tuple[Problem, ...] = ()
    blocked: tuple[str, ...] = ()
    slow: tuple[SlowImport, ...] = ()
    observed: list[Problem] = field(default_factory=list)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    _files: dict[str, dict[str, Path]] = field(default_factory=dict)
    _hashes: dict[str, str] = field(default_factory=dict)
    _required: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def registries(self) -> tuple[Registry[Any], ...]:
        """Return the registries of all kinds of entries."""
        return (
            self.models,
            self.compressors,
            self.partitioners,
            self.placers,
            self.datasets,
            self.backends,
            self.runtimes,
            self.meters,
        )

    def origin_of(self, kind: str, registered: Registered[Any]) -> EntryOrigin:
        """Return where an entry comes from, with the hash of its plugin's source.

        Raises:
            PluginError: the plugin's source cannot be hashed.
        """
        origin = registered.origin
        return EntryOrigin(
            kind=kind,
            name=registered.entry.name,
            plugin=origin.plugin,
            distribution=origin.distribution,
            version=origin.version,
            source=self.source_of(origin),
            requires=self._versions(registered.entry.requires),
        )

    def code_of(self, entry: Any, origin: Origin) -> str:
        """Return a text that identifies the code of an entry: its plugin's hash and the versions that it requires.

        Raises:
            PluginError: the plugin's source cannot be hashed.
        """
        versions = (f"{name}=={version}" for name, version in self._versions(entry.requires).items())
        return " ".join([self.source_of(origin), *versions])

    def _versions(self, modules: tuple[str, ...]) -> Mapping[str, str]:
        """Return the installed versions of the modules that an entry requires. They are looked up once."""
        if modules not in self._required:
            self._required[modules] = versions_of(modules)
        return self._required[modules]

    def source_of(self, origin: Origin) -> str:
        """Return the hash of a plugin's source, 32 hex digits. It is computed once.

        Raises:
            PluginError: its files cannot be listed or read.
        """
        if origin.plugin not in self._hashes:
            try:
                self._hashes[origin.plugin] = source_hash(self.files_of(origin))
            except PluginError as error:
                raise PluginError(
                    f"plugin {origin}: its source cannot be hashed, so its results could not be distinguished from those "
                    f"of other code: {error}"
                ) from None
        return self._hashes[origin.plugin]

    def blame(self, error: BaseException) -> str | None:
        """Return the plugin whose code raised ``error``, or ``None`` if it was not a plugin's code.

        It is the plugin of the innermost frame that belongs to a plugin. An error in a worker names its frames itself,
        and an error on another machine names the plugin
        (:class:`~harness.errors.DeviceError`). A broken contract names the plugin, too.
        """
        if isinstance(error, DeviceError | BrokenContract) and error.plugin is not None:
            return error.plugin
        owners = {path: name for name, files in self._owned_files().items() for path in files}
        blamed = [owners[file] for file in source_files(error) if file in owners]
        return blamed[-1] if blamed else None

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Turn an error that a plugin's code raises into one line that names the plugin.

        Raises:
            PluginError: the code of a plugin raised anything that is not a :class:`~harness.errors.HarnessError`.
        """
        try:
            yield
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:
            origin = next((o for o in self.origins if o.plugin == self.blame(error)), None)
            if origin is None:
                raise
            reason = missing_module(error) or first_line(error, kind=True)
            raise PluginError(f"plugin {origin}: {reason}") from error

    def _owned_files(self) -> dict[str, set[str]]:
        """Return the files of each plugin, without those of other plugins that it imports."""
        owned = {}
        for origin in self.origins:
            try:
                files = self._own_files(origin)
            except PluginError:  # it cannot be hashed, but its module still belongs to it
                files = None
            owned[origin.plugin] = {str(path) for path in (files or module_files(origin.module)).values()}
        return owned

    def files_of(self, origin: Origin) -> Mapping[str, Path]:
        """Return the files of a plugin's source by name, including those of shipped plugins that it imports.

        Raises:
            PluginError: the files cannot be listed.
        """
        if origin.plugin not in self._files:
            self._files[origin.plugin] = self._find_files(origin)
        return self._files[origin.plugin]

    def _find_files(self, origin: Origin) -> dict[str, Path]:
        shipped = {o.module.partition(".")[0] for o in self.origins if o.distribution == SHIPPED}
        return imported_files(self._own_files(origin), shipped)

    def _own_files(self, origin: Origin) -> dict[str, Path]:
        """Return the files of a plugin, without those of shipped plugins that it imports."""
        if origin.distribution == SHIPPED:
            return module_files(origin.module)
        distribution = self.distributions.get(origin.plugin)
        if distribution is None:
            return _object_files(self.manager.get_plugin(origin.plugin)) or module_files(origin.module)
        files = distribution_files(distribution)
        listed = {path.resolve() for path in files.values()}
        own = importlib.import_module(origin.module).__file__
        if own is None or Path(own).resolve() not in listed:
            raise PluginError(
                f"{origin.distribution} does not list the file of its module {origin.module}: install it with pip"
            )
        return files

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook of every plugin. An exception is appended to ``observed``, and the run continues."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - any plugin may raise anything
                origin = next((o for o in self.origins if o.plugin == implementation.plugin_name), None)
                self.observed.append(
                    Problem(
                        origin or Origin(implementation.plugin_name, "?", "?", "?"),
                        hook,
                        first_line(error, kind=True),
                    )
                )


def load_plugins(
    block: Iterable[str] = (), extra: Mapping[str, ModuleType | object] | None = None
) -> Plugins:
    """Load every plugin of the group ``harness`` that is not blocked, sorted by name.

    ``extra`` maps names to plugin modules or objects that are not installed (for tests). A plugin that cannot be
    loaded, or whose hook raises, becomes a :class:`~harness.registry.Problem`, and the other plugins still work.

    Raises:
        PluginError: two plugins have the same name, or give an entry of the same kind and name.
    """
    blocked = tuple(sorted({name for name in block if name}))
    manager = pluggy.PluginManager("harness")
    manager.add_hookspecs(hookspecs)
    problems: list[Problem] = []
    origins: list[Origin] = []
    slow: list[SlowImport] = []
    seen: dict[str, Origin] = {}
    present: set[str] = set()
    for name, origin, load in _candidates(extra or {}):
        if name in blocked:
            present.add(name)
            continue
        if name in seen:
            if seen[name].module == origin.module:  # one distribution can be on the path twice
                continue
            raise PluginError(
                f"two plugins are named {name!r}: {seen[name]} and {origin}; uninstall one, or --block {name}"
            )
        seen[name] = origin
        try:
            with _noting(origin, slow):
                plugin = load()
            manager.register(plugin, name=name)
            _check_hook_names(plugin)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any plugin may raise anything
            if manager.has_plugin(name):
                manager.unregister(name=name)
            problems.append(Problem(origin, "import", first_line(error, kind=True)))
            continue
        origins.append(origin)

    collected = {hook: _collect(manager, hook, origins, problems, slow) for hook in hookspecs.COLLECTING}
    registries = {
        kind + "s": Registry(kind, collected[hook], problems, present) for hook, kind in _KINDS.items()
    }
    distributions: dict[str, Distribution] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.module)):
        if point.dist:
            distributions.setdefault(point.name, point.dist)  # the distribution whose plugin was loaded
    return Plugins(
        manager=manager,
        distributions=distributions,
        origins=tuple(origins),
        problems=tuple(problems),
        blocked=blocked,
        slow=tuple(slow),
        **registries,  # type: ignore[arg-type]
    )


def _candidates(
    extra: Mapping[str, ModuleType | object],
) -> Iterator[tuple[str, Origin, Callable[[], object]]]:
    points: list[tuple[str, Origin, Callable[[], object]]] = []
    for point in entry_points(group=GROUP):
        points.append((point.name, _origin(point), point.load))
    for name, plugin in extra.items():
        points.append((name, Origin(name, "(not installed)", "", name), lambda plugin=plugin: plugin))  # type: ignore[misc]
    yield from sorted(points, key=lambda item: (item[0], item[1].module))


def _origin(point: EntryPoint) -> Origin:
    distribution = point.dist
    return Origin(
        point.name,
        distribution.metadata["Name"] if distribution else "?",
        distribution.version if distribution else "?",
        point.module,
    )


@contextmanager
def _noting(origin: Origin, slow: list[SlowImport]) -> Iterator[None]:
    """Append the modules of :data:`SLOW` that the code inside imports, with the plugin whose code it is."""
    absent = [name for name in SLOW if name not in sys.modules]
    try:
        yield
    finally:
        slow += [SlowImport(origin, name) for name in absent if name in sys.modules]


def _check_hook_names(plugin: object) -> None:
    known = {*hookspecs.COLLECTING, *hookspecs.OBSERVERS}
    for name in dir(plugin):
        if (
            name.startswith("harness_")
            and hasattr(getattr(plugin, name), "harness_impl")
            and name not in known
        ):
            raise PluginError(f"unknown hook {name!r}: {nearest(name, known)}")


def _collect(
    manager: pluggy.PluginManager,
    hook: str,
    origins: list[Origin],
    problems: list[Problem],
    slow: list[SlowImport],
) -> list[Registered[Any]]:
    by_name = {origin.plugin: origin for origin in origins}
    found: list[Registered[Any]] = []
    implementations = getattr(manager.hook, hook).get_hookimpls()
    for implementation in sorted(implementations, key=lambda item: str(item.plugin_name)):
        origin = by_name[implementation.plugin_name]
        try:
            with _noting(origin, slow):
                entries: list[Any] = list(implementation.function())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any plugin may raise anything
            problems.append(Problem(origin, hook, first_line(error, kind=True)))
            continue
        for entry in entries:
            try:
                _check(entry, hook)
            except BrokenContract as error:  # the plugin's other entries may be used
                problems.append(Problem(origin, hook, str(error)))
            else:
                found.append(Registered(entry, origin))
    return found


def _check(entry: object, hook: str) -> None:
    """Check an entry that a hook gave.

    Raises:
        BrokenContract: it is of another type, or a field is wrong.
    """
    wanted = hookspecs.COLLECTING[hook]
    if not isinstance(entry, wanted):
        raise BrokenContract(f"gave {type(entry).__name__}, not {wanted.__name__}")
    assert isinstance(entry, Entry)
    check_entry(needing(f"{_KINDS[hook]} {entry.name!r}"), entry, hook)


def _object_files(plugin: object) -> dict[str, Path]:
    """Return the source file of a plugin that is not installed: the file of its module, or of its object's class."""
    try:
        file = inspect.getsourcefile(plugin if inspect.ismodule(plugin) else type(plugin))
    except TypeError:
        file = None
    return {Path(file).name: Path(file)} if file else {}

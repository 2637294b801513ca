"""The source of a plugin: the files of its code and data, and one hash of them.

The source of a third party's plugin is its whole distribution. Its files are those of RECORD (PEP 376), or the tree
of an editable install (PEP 610), or the tree of a project that contains its metadata. The distribution that ships the
harness contains many plugins. The source of such a plugin is its own package and the shipped packages that it
imports. If the files of a plugin cannot be listed or read, the plugin is refused, since results of different code
would have the same key.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.errors import PluginError
from harness.store.hashing import hash_files

__all__ = ["distribution_files", "imported_files", "module_files", "source_hash", "versions_of"]

MAX_FILES = 20_000
MAX_BYTES = 2**31

LEFT_OUT = frozenset(
    [
        "benchmarks",
        "build",
        "dist",
        "docs",
        "examples",
        "node_modules",
        "results",
        "site-packages",
        "test",
        "tests",
        "venv",
    ]
)
"""Folders in the tree of an editable install that an install would not contain, or that contain results."""

RUN_FILE = "records.jsonl"
"""The file that marks a folder with the results of a run."""

VERSION_FILES = ("__init__", "_version", "version", "__about__")
"""Modules of a package that may assign its version, in the order in which they are read."""

UNKNOWN = "unknown"
"""The version of a library that states none."""

_LOG = logging.getLogger(__name__)
_CODE = (".py", *EXTENSION_SUFFIXES)
_NAME = re.compile(r"\w+")


def source_hash(files: Mapping[str, Path]) -> str:
    """Return one hash of the names and contents of ``files`` (name -> path), 32 hex digits.

    Raises:
        PluginError: there are no files, there are too many or too large ones, or one cannot be read.
    """
    if not files:
        raise PluginError("no source file was found")
    if len(files) > MAX_FILES:
        raise PluginError(f"{len(files)} source files; at most {MAX_FILES} are hashed")
    try:
        size = sum(path.stat().st_size for path in files.values())
        if size > MAX_BYTES:
            raise PluginError(f"{size} bytes of source files; at most {MAX_BYTES} are hashed")
        return hash_files(files)
    except OSError as error:
        raise PluginError(f"{error.filename}: {error.strerror or error}") from None


def imported_files(files: Mapping[str, Path], shipped: Collection[str]) -> dict[str, Path]:
    """Return ``files``, and the files of those packages in ``shipped`` that they import, directly or indirectly.

    ``shipped`` has names of top-level packages. A package counts as imported if a file contains its name, since an
    import can also be a string such as ``"package.module:function"``.
    """
    every: dict[str, Path] = dict(files)
    waiting, seen = list(files.values()), set[str]()
    while waiting:
        path = waiting.pop()
        if path.suffix != ".py":
            continue
        for package in set(_NAME.findall(path.read_text("utf-8", "replace"))) & set(shipped) - seen:
            seen.add(package)
            own = module_files(package)
            every |= own
            waiting += own.values()
    return every


def module_files(module: str) -> dict[str, Path]:
    """Return the files of the top-level module or package of ``module``. A package may have no ``__init__.py``."""
    package = module.partition(".")[0]
    spec = _spec(package)
    if spec is None:
        return {}
    if spec.submodule_search_locations is not None:
        roots = [Path(location) for location in spec.submodule_search_locations]
        return {f"{package}/{name}": path for root in roots for name, path in _walk(root)}
    if spec.origin is None or not Path(spec.origin).is_file():
        return {}
    return {Path(spec.origin).name: Path(spec.origin)}


def _spec(module: str) -> ModuleSpec | None:
    """Return where a top-level module is, or ``None`` if it is not installed."""
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def distribution_files(distribution: metadata.Distribution) -> dict[str, Path]:
    """Return the files of an installed distribution, without its metadata and byte code.

    Raises:
        PluginError: the distribution has no list of its files, or a folder cannot be read.
    """
    try:
        if (tree := _project_tree(distribution)) is not None:
            return _tree_files(tree)
        listed = _listed_files(distribution)
        if (tree := _editable_tree(distribution)) is not None:
            # a compiled module may be installed from another build folder
            built = {name: path for name, path in listed.items() if name.endswith(tuple(EXTENSION_SUFFIXES))}
            return {**_tree_files(tree), **built}
    except OSError as error:
        raise PluginError(f"{error.filename}: {error.strerror or error}") from None
    if not listed:
        raise PluginError(f"{distribution.metadata['Name']} lists no files (no RECORD): install it with pip")
    return listed


def _listed_files(distribution: metadata.Distribution) -> dict[str, Path]:
    files = {}
    for listed in distribution.files or ():
        if ".dist-info" in listed.parts[0] or ".egg-info" in listed.parts[0] or "__pycache__" in listed.parts:
            continue
        if listed.parts[0] == "..":  # scripts are left out, since they only call the package
            continue
        files[listed.as_posix()] = Path(str(listed.locate()))
    return files


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """Return the version of each installed distribution that provides one of ``modules``.

    Names are normalised (PEP 503), since a release may change their case, as in Pillow and pillow. A library without
    metadata, such as a package of the operating system, has the version that its source states, under the name of its
    module. If the source states none, the version is ``"unknown"``, and a warning says so once.
    """
    versions: dict[str, str] = {}
    for module in modules:
        top = module.partition(".")[0]
        providers = _providers(top)
        stated = {name: metadata.version(name) for name in providers} if providers else _stated_version(top)
        versions |= {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in stated.items()}
    return dict(sorted(versions.items()))


@cache
def _stated_version(module: str) -> Mapping[str, str]:
    """Return the version of a top-level module from its source, which is not run; empty if it is not installed.

    A module of Python itself has no version of its own.
    """
    spec = None if module in sys.stdlib_module_names else _spec(module)
    if spec is None:
        return {}
    folders = spec.submodule_search_locations or ()
    files = [Path(folder, f"{name}.py") for name in VERSION_FILES for folder in folders]
    for file in files or [Path(spec.origin or "")]:
        if file.suffix == ".py" and (version := _assigned_version(file)) is not None:
            return {module: version}
    _LOG.warning(
        "%s: its version is unknown, for it has no metadata and its source assigns no __version__; results of "
        "different versions of it have the same key",
        module,
    )
    return {module: UNKNOWN}


def _assigned_version(file: Path) -> str | None:
    """Return the text that a Python file assigns to ``__version__``, or to ``version``, if it assigns one."""
    try:
        statements = ast.parse(file.read_text("utf-8", "replace")).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    texts: dict[str, str] = {}
    for statement in statements:
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}
    return texts.get("__version__", texts.get("version"))


def _providers(module: str) -> tuple[str, ...]:
    """Return the distributions that provide a top-level module. The distribution of the same name is tried first."""
    try:
        distribution = metadata.distribution(module)
    except metadata.PackageNotFoundError:
        pass
    else:
        if Path(str(distribution.locate_file(module))).is_dir():
            return (str(distribution.metadata["Name"]),)
    return tuple(sorted(set(_all_providers().get(module, ()))))


@cache
def _all_providers() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _editable_tree(distribution: metadata.Distribution) -> Path | None:
    """Return the project folder of an editable install (``direct_url.json`` of PEP 610), else ``None``."""
    try:
        direct_url = json.loads(distribution.read_text("direct_url.json") or "{}")
        if not direct_url.get("dir_info", {}).get("editable"):
            return None
        return Path(unquote(urlsplit(direct_url["url"]).path))
    except (ValueError, KeyError, AttributeError):
        return None


def _project_tree(distribution: metadata.Distribution) -> Path | None:
    """Return the project folder that contains the metadata, else ``None``.

    ``setup.py develop`` and a build in that folder put them there. The list of files in the metadata is then that of
    the last build, so it is not used.
    """
    if distribution.read_text("RECORD") is not None or distribution.read_text("SOURCES.txt") is None:
        return None
    base = Path(str(distribution.locate_file("")))
    above = (base, base.parent)  # in a layout with `src`
    return next((d for d in above if any((d / n).is_file() for n in ("pyproject.toml", "setup.py"))), base)


def _tree_files(tree: Path) -> dict[str, Path]:
    """Return the files of a project's tree that an install would contain: all folders with a module.

    At the top of the tree only modules and ``pyproject.toml`` count, since a run can write its results there.
    """
    files: dict[str, Path] = {}
    for entry in sorted(tree.iterdir()):
        if entry.is_file():
            if entry.name.endswith(_CODE) or entry.name == "pyproject.toml":
                files[entry.name] = entry
        elif not _is_left_out(entry) and entry.name not in LEFT_OUT:
            below = dict(_walk(entry))
            if any(name.endswith(_CODE) for name in below):
                files |= {f"{entry.name}/{name}": path for name, path in below.items()}
    return files


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file below ``root`` with its relative name. Links to folders are followed, each folder once.

    It leaves out byte code that Python made, hidden files and folders, backup copies of editors, venvs and results of
    runs.

    Raises:
        OSError: a folder cannot be read.
        PluginError: there are too many files.
    """
    seen: set[str] = set()
    count = 0
    for folder, folders, names in os.walk(root, onerror=_raise, followlinks=True):
        here = Path(folder)
        seen.add(os.path.realpath(here))
        folders[:] = sorted(
            name
            for name in folders
            if not _is_left_out(here / name) and os.path.realpath(here / name) not in seen
        )
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and not name.endswith("~") and path.is_file():
                count += 1
                if count > MAX_FILES:
                    raise PluginError(f"{root} holds more than {MAX_FILES} files")
                yield path.relative_to(root).as_posix(), path


def _raise(error: OSError) -> None:
    raise error


def _is_left_out(folder: Path) -> bool:
    name = folder.name
    return (
        name.startswith(".")
        or name == "__pycache__"
        or name.endswith((".egg-info", ".dist-info"))
        or (folder / "pyvenv.cfg").exists()
        or (folder / RUN_FILE).exists()
    )

"""Tests of the shape of the code: what the linter's contracts cover, lengths of files, docstrings, private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from importlinter.api import read_configuration

import harness.devices
import harness.methods

ROOT = Path(__file__).parents[2]
LONGEST = 400
"""Lines of a file. CONTRIBUTING.md says so."""

OPEN = {"devices", "errors", "hookspecs", "methods", "testing", "types"}
"""The modules of the core that every plugin may import."""

GENERATED = ("agent_pb2.py", "agent_pb2.pyi")
SOURCE = sorted(
    path
    for top in ("harness", "plugins")
    for path in (ROOT / top).rglob("*.py")
    if path.name not in GENERATED
)
TESTS = sorted(path for top in ("tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))

CONTRACTS = read_configuration(str(ROOT / "pyproject.toml"))


def contracts(prefix: str) -> list[dict[str, list[str]]]:
    """Return the contracts whose name starts with ``prefix``."""
    return [each for each in CONTRACTS["contracts_options"] if each["name"].startswith(prefix)]


def plugins() -> set[str]:
    """Return the names of all packages in ``plugins/``."""
    return {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}


def core() -> set[str]:
    """Return the names of the packages and files of ``harness/``."""
    files = {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__", "__main__"}
    return files | {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def definitions(
    node: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield (name, definition) of the public classes, functions and methods in ``node``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from definitions(child, prefix)
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


# --- contracts ------------------------------------------------------------------------------------


def test_every_plugin_is_under_the_contracts() -> None:
    assert set(CONTRACTS["session_options"]["root_packages"]) == {"harness", *plugins()}
    (unknown,) = contracts("the core knows no plugin")
    assert set(unknown["forbidden_modules"]) == plugins()
    (circles,) = contracts("no circles inside a package")
    assert set(circles["ancestors"]) == {"harness", *plugins()}
    beyond = {name for each in contracts("what harness_") for name in each["source_modules"]}
    (doors,) = contracts("plugins use the doors")
    assert set(doors["source_modules"]) == plugins() - beyond


def test_every_plugin_is_in_the_wheel_and_checked_by_mypy() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for name in plugins():
        assert lines.count(f'  "plugins/{name}",') == 2, name


@pytest.mark.parametrize("prefix", ["what harness_remote", "what harness_profile", "plugins use the doors"])
def test_every_other_module_of_the_core_is_closed_to_plugins(prefix: str) -> None:
    (contract,) = contracts(prefix)
    assert set(contract["forbidden_modules"]) == {f"harness.{name}" for name in core() - OPEN}


def test_imports_for_type_checkers_count() -> None:
    assert not CONTRACTS["session_options"].get("exclude_type_checking_imports")


@pytest.mark.parametrize("door", [harness.methods, harness.devices], ids=lambda module: module.__name__)
def test_the_names_of_a_door_are_imports_that_the_linter_sees(door: ModuleType) -> None:
    """A door imports its names by string, so the same imports stand under TYPE_CHECKING."""
    source = ast.parse(Path(str(door.__file__)).read_text())
    (block,) = (node for node in source.body if isinstance(node, ast.If))
    seen = {
        f"{node.module}.{name.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    values = {name: getattr(door, name) for name in door.__all__}
    assert {path.rpartition(".")[2] for path in seen} == set(values)
    for path in seen:
        module, _, name = path.rpartition(".")
        value = values[name]
        assert getattr(value, "__module__", module) == module or not callable(value), path


# --- files ----------------------------------------------------------------------------------------


def test_no_file_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCE}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_the_formatter_is_never_switched_off() -> None:
    words = [f"# fmt: {word}" for word in ("skip", "off")]
    texts = {relative(path): path.read_text() for path in [*SOURCE, *TESTS]}
    assert [path for path, text in texts.items() if any(word in text for word in words)] == []


@pytest.mark.parametrize("top", ["harness", "plugins"])
def test_every_file_and_public_definition_has_a_docstring(top: str) -> None:
    files = [path for path in SOURCE if path.is_relative_to(ROOT / top)]
    trees = {relative(path): ast.parse(path.read_text()) for path in files}
    assert [path for path, tree in trees.items() if ast.get_docstring(tree) is None] == []
    missing = [
        f"{path}: {name}"
        for path, tree in trees.items()
        for name, node in definitions(tree)
        if ast.get_docstring(node) is None
    ]
    assert missing == []


def test_tests_import_no_private_name() -> None:
    found = [
        f"{relative(path)}: {node.module}.{name.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness")
        for name in node.names
        if any(part.startswith("_") for part in [*(node.module or "").split("."), name.name])
    ]
    assert found == []

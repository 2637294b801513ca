"""Tests of docs/architecture.md: it names every package and top-level file, and no path that does not exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
TOP = ("harness/", "plugins/", "suites/", "docs/", "tests/", ".ci/")


def packages(root: str) -> set[str]:
    """Return every folder below ``root`` that holds Python files, as a path relative to the repository."""
    return {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / root).rglob("*.py")}


def paths(text: str) -> set[str]:
    """Return every path of the repository that ``text`` has in backticks."""
    spans = {span.rstrip("/") for span in re.findall(r"`([^`\s]+)`", text)}
    return {span for span in spans if span.startswith(TOP) or span in ("Makefile", "pyproject.toml")}


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def picture() -> str:
    (block,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    return block


@pytest.mark.parametrize("root", ["harness", "plugins"])
def test_every_package_is_mentioned(root):
    assert packages(root) - {root} <= paths(PAGE)


def test_every_file_at_the_top_of_the_core_is_mentioned():
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "harness").glob("*.py")}
    assert files - {"harness/__init__.py"} <= paths(PAGE)


def test_every_path_exists():
    assert [path for path in paths(PAGE) if not (ROOT / path).exists()] == []


def test_the_last_table_names_paths_in_each_row():
    rows = [
        line.split("|")
        for line in section("If you want to change X, open Y").splitlines()
        if line.startswith("| ")
    ]
    assert len(rows) > 30
    for row in rows[1:]:
        assert paths(row[2]), row


def test_the_picture_names_packages_and_files_that_exist():
    named = set(re.findall(r"harness/[\w/.]+", picture()))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_packages_stand_in_the_order_of_the_layers():
    """The order of the paragraphs is that of the linter's layers. Packages of one layer may be in any order."""
    layers = re.findall(
        r'^  "([\w |]+)",$',
        (ROOT / "pyproject.toml").read_text().split("\nlayers = [\n")[1].split("\n]")[0],
        re.MULTILINE,
    )
    level = {name: depth for depth, layer in enumerate(layers) for name in layer.split(" | ")}
    order = re.findall(r"^\*\*`harness/(\w+)`\*\*", PAGE, re.MULTILINE)
    assert {name for name in level if (ROOT / "harness" / name).is_dir()} == set(order)
    assert [level[name] for name in order] == sorted(level[name] for name in order)


METHODS = ("harness_devit", "harness_edgevit", "harness_edvit", "harness_tformer")
FURTHER = [
    path
    for method in METHODS
    for path in sorted((ROOT / "plugins" / method).glob("*.py"))
    if path.name not in ("__init__.py", "plugin.py", "paper.py", "sketch.py")
]


@pytest.mark.parametrize("path", FURTHER, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_methods_further_file_is_a_section_of_its_paper_or_another_network(path: Path) -> None:
    """The first line names the section, or the docstring cites the network's own paper."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    section = re.search(r"\(section (\d|[IV]+-)", text.splitlines()[0])
    paper = re.search(r'et al\., 20\d\d|", [A-Z]\. [^"]*, 20\d\d', text)
    assert section or paper

"""The suites that ship with the harness."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harness.errors import SuiteError, nearest

__all__ = ["find_suite", "shipped_files", "shipped_suites"]


def shipped_suites() -> dict[str, Path]:
    """Return the suites that ship with the harness: name -> file."""
    beside = (".claims", ".published")  # files of claims and published figures are no suites
    return {
        name: path
        for name, path in shipped_files(".yaml").items()
        if not (name.endswith(beside) or name.startswith("labs/"))
    }


def shipped_files(suffix: str) -> dict[str, Path]:
    """Return the files with ``suffix`` in the folder of suites: name without ``suffix`` -> file."""
    package = Path(str(files("harness")))
    folder = package / "_suites"
    if not folder.is_dir():  # an editable install reads the folder of the checkout
        folder = package.parent / "suites"
    return {
        path.relative_to(folder).as_posix().removesuffix(suffix): path
        for path in sorted(folder.rglob(f"*{suffix}"))
    }


def find_suite(name: str) -> Path:
    """Return the file of a suite. ``name`` is a path, or the name of a shipped suite.

    Raises:
        SuiteError: there is no such file or shipped suite.
    """
    if not name:
        raise SuiteError("no suite is named: its name is empty (a shell variable that is not set?)")
    path = Path(name)
    if path.exists():
        return path
    shipped = shipped_suites()
    if name in shipped:
        return shipped[name]
    word = name.removeprefix("suites/").removesuffix(".yml").removesuffix(".yaml")
    raise SuiteError(f"{name}: no such file or shipped suite; {nearest(word, shipped)}")

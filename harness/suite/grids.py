"""Change the tree of a suite before it is checked: ``--set key=value``, and grids of methods."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from harness.errors import SuiteError, nearest
from harness.suite.yamlfile import Source, Tree, YamlBlock, parse_value

__all__ = ["expand_grids", "set_value", "split_overrides"]


def split_overrides(tree: YamlBlock, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the overrides in two lists.

    The first has those of keys that are in the file. The second has those of methods that a grid will add.
    """
    methods = tree.get("methods")
    written: list[str] = []
    expanded: list[str] = []
    for override in overrides:
        path = override.partition("=")[0].strip().split(".")
        made = path[0] == "methods" and len(path) > 1 and isinstance(methods, dict) and path[1] not in methods
        (expanded if made else written).append(override)
    return written, expanded


def set_value(tree: Tree, source: Source, override: str, top_keys: Collection[str]) -> None:
    """Apply ``key.path=value`` to a tree. Keys that the schema lacks are refused later, when the suite is checked.

    Raises:
        SuiteError: the override is malformed, or names a method or device that the suite does not have.
    """
    key, equals, text = override.partition("=")
    path = [part for part in key.strip().split(".") if part]
    place = f"--set {key.strip()}"
    if not equals or not path:
        raise SuiteError(f"--set {override}: write key.path=value")
    value = parse_value(text, place)
    if path[0] not in top_keys:
        raise SuiteError(f"{place}: unknown key {path[0]!r}; {nearest(path[0], top_keys)}")
    target: Any = tree
    done: list[str | int] = []
    for part in path[:-1]:
        target = _step(target, part, done, place)
    last = path[-1]
    if isinstance(target, list):
        index = _index(target, last, done, place)
        target[index] = value
        done.append(index)
    elif isinstance(target, dict):
        _known_child(target, last, done, place)
        target[last] = value
        done.append(last)
    else:
        raise SuiteError(f"{place}: {'.'.join(map(str, done))} is a single value, it has no {last!r}")
    for stale in [known for known in source.places if known[: len(done)] == tuple(done)]:
        del source.places[stale]
    source.places[tuple(done)] = place


def _step(target: Any, part: str, done: list[str | int], place: str) -> Any:
    if isinstance(target, list):
        index = _index(target, part, done, place)
        done.append(index)
        return target[index]
    if not isinstance(target, dict):
        raise SuiteError(f"{place}: {'.'.join(map(str, done))} is a single value, it has no {part!r}")
    _known_child(target, part, done, place)
    done.append(part)
    if target.get(part) is None:
        target[part] = {}
    return target[part]


def _known_child(target: Tree, part: str, done: list[str | int], place: str) -> None:
    """Refuse a method or device that the suite does not have. ``--set`` changes entries and adds none."""
    if done in (["methods"], ["devices"]) and part not in target:
        raise SuiteError(f"{place}: no {str(done[0])[:-1]} {part!r}; {nearest(part, target)}")


def _index(target: list[Any], part: str, done: list[str | int], place: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part) >= len(target):
        raise SuiteError(
            f"{place}: {'.'.join(map(str, done))} is a list of {len(target)}: 0 to {len(target) - 1}"
        )
    return int(part)


def expand_grids(tree: Tree, source: Source) -> None:
    """Replace each method that has ``grid:`` by one method for each point of the grid.

    Raises:
        SuiteError: a grid or a method's name is wrong.
    """
    methods = tree.get("methods")
    if not isinstance(methods, dict):
        return
    expanded: Tree = {}
    for template, body in methods.items():
        for name, method in _grid(template, body, source):
            if name in expanded:
                raise SuiteError(f"{source.where('methods', template)}: two methods are named {name!r}")
            expanded[name] = method
            if name != template:
                source.copy_branch(("methods", template), ("methods", name))
    tree["methods"] = expanded


def _grid(template: str, body: Any, source: Source) -> Iterable[tuple[str, Any]]:
    where = source.where("methods", template)
    if not isinstance(body, dict) or "grid" not in body:
        if "${" in template:
            raise SuiteError(f"{where}: {template!r} has a variable but no grid:")
        yield template, body
        return
    grid = body["grid"]
    if not isinstance(grid, dict) or not grid or not all(isinstance(v, list) and v for v in grid.values()):
        raise SuiteError(f"{source.where('methods', template, 'grid')}: write {{variable: [value, value]}}")
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > 10_000:
        raise SuiteError(f"{where}: the grid has {count:,} points; at most 10,000")
    unused = [variable for variable in grid if f"${{{variable}}}" not in template]
    if unused:
        raise SuiteError(f"{where}: the name must hold ${{{unused[0]}}}, so that each point has its own")
    rest = {key: value for key, value in body.items() if key != "grid"}
    for point in itertools.product(*grid.values()):
        values = dict(zip(grid, point, strict=True))
        yield _substitute(template, values, where), _substitute(rest, values, where)


def _substitute(value: Any, variables: YamlBlock, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, variables, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, variables, where) for item in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{(\w+)\}", value)
    if whole and whole[1] in variables:
        return variables[whole[1]]

    def replace(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise SuiteError(f"{where}: ${{{match[1]}}} is not in the grid; {nearest(match[1], variables)}")
        return str(variables[match[1]])

    return re.sub(r"\$\{(\w+)\}", replace, value)

"""Contracts of entries: the types of their fields, functions that other processes import, and parameters."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from typing import Any

from harness.contracts.need import Need
from harness.errors import first_line
from harness.types import Params
from harness.types.fields import NAME
from harness.types.params import Entry

__all__ = ["check_entry", "check_params"]

OPTIONAL = frozenset({"describe", "files", "watch"})
"""Fields that hold a function or ``None``."""
FUNCTIONS = OPTIONAL | {
    "build",
    "compress",
    "export",
    "load",
    "open",
    "partition",
    "place",
    "precision",
    "probe",
    "sketch",
    "tolerance",
}
TRAVELLING = {"harness_runtimes": ("load",), "harness_meters": ("open", "watch")}
"""Fields whose functions another process imports by name, by hook."""
CHANGES = {"data", "classes", "input"}


def check_entry(need: Need, entry: Entry, hook: str) -> None:
    """Check the fields of an entry that ``hook`` gave. Nothing is called or imported."""
    params = entry.params
    is_params = isinstance(params, type) and issubclass(params, Params)
    need(is_params, f"params is {params!r}", "params must be a subclass of harness.types.Params")
    is_name = isinstance(entry.name, str) and re.fullmatch(NAME, entry.name) is not None
    need(is_name, f"its name is {entry.name!r}", "name: letters, digits, - and _")
    for field in ("summary", "extra", "format", "source"):
        value = getattr(entry, field, "")
        need(isinstance(value, str), f"{field} is {value!r}", f"{field}: a text")
    for field in ("requires", "preload"):
        if hasattr(entry, field):
            _check_modules(need, field, getattr(entry, field))
    if hasattr(entry, "devices"):
        _check_words(need, "devices", entry.devices, 'a set of kinds of devices, like {"cpu"}')
        need(bool(entry.devices), "devices is empty", "devices: at least one kind of device")
    if hasattr(entry, "reading"):
        _check_words(need, "reading", entry.reading, "a set of names of parameters")
        unknown = ({getattr(entry, "source", "")} - {""} | set(entry.reading)) - set(params.model_fields)
        need(
            not unknown, f"source or reading has {sorted(unknown)}", "source and reading: names of parameters"
        )
    if hasattr(entry, "changes"):
        _check_words(need, "changes", entry.changes, "a set of data, classes and input")
        unknown = set(entry.changes) - CHANGES
        need(not unknown, f"changes has {sorted(unknown)}", "changes: a set of data, classes and input")
    for field in (item.name for item in fields(entry) if item.name in FUNCTIONS):
        function = getattr(entry, field)
        if function is None and field in OPTIONAL:
            continue
        need(callable(function), f"{field} is {function!r}", f"{field}: a function")
        if field in TRAVELLING.get(hook, ()):
            need(
                _is_importable(function),
                f"{field} is {getattr(function, '__qualname__', function)!r}",
                f"{field}: a function at the top level of a module, since another process imports it by name",
            )


def check_params(need: Need, entry: Entry, params: Params | None = None) -> None:
    """Check that the parameters of an entry have a JSON Schema, and that ``params`` are the same after JSON."""
    try:
        entry.params.model_json_schema()
    except Exception as error:  # noqa: BLE001 - a parameter's own type may raise anything
        need(False, f"its parameters have no JSON Schema: {first_line(error)}", "params: types that JSON has")
    if params is None:
        return
    try:
        same = entry.params(**params.model_dump(mode="json")) == params
        problem = "its parameters are others after they went through JSON"
    except Exception as error:  # noqa: BLE001 - a parameter's own type may raise anything
        same, problem = False, f"its parameters do not go through JSON: {first_line(error)}"
    need(same, problem, "params: other processes get them as JSON")


def _check_modules(need: Need, field: str, value: Any) -> None:
    contract = f'{field}: a tuple of module names, like ("torch",)'
    is_words = isinstance(value, tuple) and all(isinstance(word, str) and word for word in value)
    need(is_words, f"{field} is {value!r}", contract)


def _check_words(need: Need, field: str, value: Any, contract: str) -> None:
    is_words = isinstance(value, frozenset | set) and all(isinstance(word, str) for word in value)
    need(is_words, f"{field} is {value!r}", f"{field}: {contract}")


def _is_importable(function: Any) -> bool:
    """Return whether the function's module has it under its name. The module is loaded, since the function exists."""
    target: Any = sys.modules.get(str(getattr(function, "__module__", "")))
    for name in str(getattr(function, "__qualname__", "")).split("."):
        target = getattr(target, name, None)
    return target is not None and target == function

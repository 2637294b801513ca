"""Check a value that a person wrote against a pydantic model. The first mistake becomes one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import SuiteError, nearest
from harness.suite.yamlfile import KeyPath, Source
from harness.types.fields import NAME

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: object, source: Source, path: KeyPath) -> M:
    """Return ``value`` as a ``model``. ``path`` is its place in ``source``.

    Raises:
        SuiteError: the value is wrong. The message has the first mistake, its place, and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise SuiteError(f"{source.where(*path)}: expected a mapping of keys, not {_kind(value)}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise SuiteError(_explain(error, model, value, source, path)) from None


def _explain(
    error: ValidationError, model: type[BaseModel], value: Any, source: Source, path: KeyPath
) -> str:
    problems = error.errors(include_url=False)
    # a mistyped key is reported before the key that is missing because of it
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    kind = problem["type"]
    loc = _written(value, problem["loc"])
    if kind == "missing":
        loc.append(problem["loc"][-1])
    where = source.where(*path, *loc)
    if kind == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        return f"{where}: unknown key; {nearest(str(loc[-1]), fields)}"
    if kind == "missing":
        return f"{where}: missing"
    if kind in ("tuple_type", "list_type"):
        return f"{where}: expected a list, like [...]"
    if kind in ("dict_type", "mapping_type", "model_type", "model_attributes_type"):
        return f"{where}: expected a mapping of keys"
    given, value = value, problem.get("input")
    message = _wanted(problem)
    others = [_wanted(p) for p in problems if p is not problem and _written(given, p["loc"]) == loc]
    if all(text.startswith("must be ") for text in (message, *others)):  # the members of a union
        message = " or ".join([message, *(text.removeprefix("must be ") for text in others)])
    if kind != "value_error" and isinstance(value, str | int | float | bool | None):
        message = f"{message}, not {value!r}"
    return f"{where}: {message}"


_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}


def _wanted(problem: ErrorDetails) -> str:
    """Return what a value must be, from pydantic's error."""
    kind, message = problem["type"], problem["msg"]
    if kind == "string_pattern_mismatch" and problem.get("ctx", {}).get("pattern") == NAME:
        return "a name has letters, digits, '-' and '_', and begins with a letter or digit"
    if kind.split("_", maxsplit=1)[0] in _TYPES and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"must be {_TYPES[kind.split('_', maxsplit=1)[0]]}"
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "value_error":
        return message
    message = message.removeprefix("Input should ").removeprefix("String should ")
    return f"must {message}" if message.startswith(("be ", "have ", "match ")) else message


def _written(value: Any, loc: Sequence[str | int]) -> list[str | int]:
    """Return the keys of pydantic's path that a person wrote.

    pydantic's path also has the names of union members that it tried.
    """
    kept: list[str | int] = []
    for part in loc:
        known = value if isinstance(value, Mapping) else {}
        if isinstance(value, list | tuple):
            known = dict(enumerate(value))
        if part in known:
            kept.append(part)
            value = known[part]
    return kept


def _fields_at(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Return the keys that are allowed at a place inside a model.

    Keys of mappings and indices of lists are skipped.
    """
    current, inside = model, False
    for part in loc:
        if inside:
            inside = False
            continue
        field = next((f for name, f in current.model_fields.items() if part in (name, f.alias)), None)
        annotations = _flatten(field.annotation) if field else []
        models = [a for a in annotations if isinstance(a, type(BaseModel))]
        if not models:
            return []
        inside = models[0] is not annotations[0]
        current = models[0]
    return [field.alias or name for name, field in current.model_fields.items()]


def _flatten(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(item for argument in arguments for item in _flatten(argument))]


def _kind(value: object) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"{value!r}")

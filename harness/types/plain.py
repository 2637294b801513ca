"""Convert values to JSON and back: dataclasses and models of strings, numbers, mappings and each other.

A function is converted to its name, by which another process imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter

__all__ = ["COMPLETE", "from_json", "function_name", "to_json"]

T = TypeVar("T")

COMPLETE = MappingProxyType({"complete": True})
"""Validation context of :func:`from_json`: every key is set, so a set key does not mean that a person wrote it."""


def to_json(value: Any) -> Any:
    """Return ``value`` in JSON's types: dataclasses and models become objects, tuples lists, paths strings."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], data: Any) -> T:
    """Return the value from which :func:`to_json` made ``data``.

    Raises:
        pydantic.ValidationError: ``data`` is not a ``kind``.
    """
    return _adapter(kind).validate_python(data, context=COMPLETE)


def function_name(function: Callable[..., Any]) -> str:
    """Return ``"module:name"`` of a function, which ``pkgutil.resolve_name`` resolves in another process."""
    return f"{function.__module__}:{function.__qualname__}"


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]

"""The harness's values as JSON and bytes, for the fields of protobuf messages between an agent and its clients.

A received value is checked against its type, and is refused with one line: a key that the type does not have, a
number instead of text, an array of another element type. Nothing is unpickled.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NewType, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import DeviceError
from harness.worker import frames

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Tensor", "from_json", "pack", "to_json", "unpack"]

T = TypeVar("T")

Array: TypeAlias = "NDArray[Any]"
Tensor = NewType("Tensor", Array)
"""An answer that is one float32 array."""


def to_json(value: object) -> str:
    """Return a value type, such as ``Workload`` or ``Graph``, or plain JSON, as text.

    Raises:
        ValueError: the value contains a number that JSON does not have.
    """
    return json.dumps(_adapter(type(value)).dump_python(value, mode="json"), allow_nan=False)


def from_json(kind: type[T], text: str) -> T:
    """Return the value of type ``kind`` that :func:`to_json` wrote.

    Raises:
        DeviceError: the text is not such a value; the message names the wrong key.
    """
    try:
        value: T = _adapter(kind).validate_json(text, strict=True)
        read, known = json.loads(text), json.loads(to_json(value))
    except ValidationError as error:
        raise DeviceError(f"not a {_name(kind)}: {_first(error)}") from None
    except (ValueError, RecursionError) as error:
        raise DeviceError(f"not a {_name(kind)}: {str(error)[:200]}") from None
    if unknown := _unknown(read, known, ""):
        raise DeviceError(f"not a {_name(kind)}: unknown key {unknown[:80]!r}")
    return value


def pack(value: object) -> bytes:
    """Return an answer as a frame: the arrays of a dataclass as tensors, and the rest as JSON in the first tensor.

    ``None`` becomes no bytes.

    Raises:
        FrameError: an array has an element type that frames do not have, or there are too many arrays.
    """
    if value is None:
        return b""
    if isinstance(value, np.ndarray):
        return b"".join(frames.pack({}, [value]))
    arrays: dict[str, Array] = {}
    plain = _split(value, "", arrays) if dataclasses.is_dataclass(value) else value
    text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    return b"".join(frames.pack({"names": list(arrays)}, [text, *arrays.values()]))


def _split(value: Any, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """Return the fields that JSON can hold, and put the others into ``arrays``.

    An array of a nested value gets the name ``FIELD.FIELD``.
    """
    plain: dict[str, Any] = {}
    for name, field in _fields(type(value)).items():
        held, at = getattr(value, name), prefix + name
        if field.nested is not None:
            plain[name] = _split(held, f"{at}.", arrays)
        elif field.adapter is not None:
            plain[name] = field.adapter.dump_python(held, mode="json")
        elif field.by_key:
            arrays |= {f"{at}:{key}": array for key, array in held.items()}
        elif held is not None:
            arrays[at] = held
    return plain


def unpack(kind: type[T], data: bytes) -> T:
    """Return the value of type ``kind`` that :func:`pack` wrote.

    Raises:
        DeviceError: the bytes are not such a value; the message says what is wrong.
    """
    try:
        if kind is type(None):
            if data:
                raise ValueError(f"{len(data)} bytes where nothing belongs")
            nothing: Any = None
            return cast(T, nothing)
        header, tensors = frames.unpack(data)
        if cast(Any, kind) is Tensor:
            (tensor,) = tensors
            if tensor.dtype != np.float32:
                raise ValueError(f"a tensor of {tensor.dtype.name}")
            return cast(T, tensor)
        return _value(kind, header.get("names"), tensors)
    except ValidationError as error:
        raise DeviceError(f"not {_name(kind)}: {_first(error)}") from None
    except (frames.FrameError, ValueError, TypeError, RecursionError) as error:
        raise DeviceError(f"not {_name(kind)}: {str(error)[:200]}") from None


def _value(kind: type[T], names: Any, tensors: list[Array]) -> T:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("arrays without names")
    text, *values = tensors
    arrays = dict(zip(names, values, strict=True))
    content = text.tobytes()
    if not dataclasses.is_dataclass(kind):
        return cast(T, _adapter(kind).validate_json(content, strict=True))
    value = _joined(kind, json.loads(content), "", arrays)
    if arrays:
        raise ValueError(f"unknown {next(iter(arrays))[:80]!r}")
    return cast(T, value)


def _joined(kind: Any, plain: Any, prefix: str, arrays: dict[str, Array]) -> Any:
    """Return the value that :func:`_split` took apart, and remove its arrays from ``arrays``."""
    known = _fields(kind)
    in_json = {name for name, field in known.items() if field.adapter is not None or field.nested is not None}
    if not isinstance(plain, dict) or not plain.keys() <= in_json:
        raise ValueError("keys that it does not have")
    values: dict[str, Any] = {}
    for name, field in known.items():
        at = prefix + name
        if field.nested is not None:
            values[name] = _joined(field.nested, plain.get(name), f"{at}.", arrays)
        elif field.adapter is not None:
            if name in plain:
                values[name] = field.checked(at, json.dumps(plain[name]))
        elif field.by_key:
            begin = f"{at}:"
            own = [key for key in arrays if key.startswith(begin)]
            values[name] = {key[len(begin) :]: field.array(key, arrays.pop(key)) for key in own}
        elif at in arrays:
            values[name] = field.array(at, arrays.pop(at))
    return kind(**values)


class _ArrayOf(Generic[T]):
    """A stand-in for ``NDArray`` in the types of fields, because numpy's own definition depends on its version."""


@dataclasses.dataclass(frozen=True)
class _Field:
    """The encoding of a field: JSON that ``adapter`` checks, an array, or a mapping of arrays (``by_key``).

    A dataclass that contains arrays is ``nested``; its fields are encoded in the same way. An array with a fixed
    element type ``dtype`` has one dimension. An array without one may have any type and shape.
    """

    adapter: TypeAdapter[Any] | None
    by_key: bool = False
    dtype: np.dtype[Any] | None = None
    nested: type[Any] | None = None

    def checked(self, name: str, text: str) -> Any:
        """Return the value of the JSON ``text``. Raises ``ValueError`` if it does not fit the type."""
        assert self.adapter is not None
        try:
            value = self.adapter.validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {_first(error)}") from None
        if unknown := _unknown(json.loads(text), self.adapter.dump_python(value, mode="json"), f"{name}."):
            raise ValueError(f"unknown key {unknown[:80]!r}")
        return value

    def array(self, name: str, array: Array) -> Array:
        """Return the array. Raises ``ValueError`` if its element type or shape is wrong."""
        if self.dtype is not None and (array.dtype != self.dtype or array.ndim != 1):
            raise ValueError(f"{name} is {array.dtype.name} {array.shape}")
        return array


def _fields_of(kind: Any) -> dict[str, _Field]:
    hints = get_type_hints(kind, localns={"np": np, "NDArray": _ArrayOf})
    return {field.name: _field(hints[field.name]) for field in dataclasses.fields(kind)}


def _field(hint: Any) -> _Field:
    if dataclasses.is_dataclass(hint) and any(field.adapter is None for field in _fields(hint).values()):
        return _Field(None, nested=cast("type[Any]", hint))
    inner = next((kind for kind in get_args(hint) if get_origin(kind) is _ArrayOf), hint)
    if get_origin(inner) is not _ArrayOf:
        return _Field(TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)))
    (element,) = get_args(inner)
    by_key = get_origin(hint) is collections.abc.Mapping
    return _Field(None, by_key, None if element is Any else np.dtype(element))


_fields: Callable[[Any], dict[str, _Field]] = cache(_fields_of)
"""Returns the encoding of each field of a dataclass."""
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _unknown(read: Any, known: Any, where: str) -> str:
    """Return the first key in ``read`` that its type does not have. pydantic ignores unknown keys of dataclasses."""
    if isinstance(read, dict) and isinstance(known, dict):
        for key, value in read.items():
            if key not in known:
                return f"{where}{key}"
            if unknown := _unknown(value, known[key], f"{where}{key}."):
                return unknown
    elif isinstance(read, list) and isinstance(known, list):
        for value, other in zip(read, known, strict=True):
            if unknown := _unknown(value, other, where):
                return unknown
    return ""


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}"[:200]

"""The harness' own values as JSON and bytes: what the agent and its clients send each other in protobuf's fields.

What comes in is checked against the value's type, and refused with one line: a key that the type does not have,
a number where text belongs, arrays that are not what they say. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import DeviceError
from harness.types import Artifact, DeviceReport, Samples, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "artifact_from_json",
    "artifact_to_json",
    "from_json",
    "pack_beside",
    "pack_samples",
    "to_json",
    "unpack_beside",
    "unpack_samples",
]

T = TypeVar("T")
_JSON = "json"  # the archive's member that holds everything but the arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shipped:
    """An :class:`~harness.types.Artifact` less what the receiving side decides: its path and runtime."""

    precision: str
    weight_bytes: int
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    meta: Mapping[str, Any]


def to_json(value: object) -> str:
    """A value type (``Workload``, ``Graph`` ...), or plain JSON, as text.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    return json.dumps(_adapter(type(value)).dump_python(value, mode="json"), allow_nan=False)


def from_json(kind: type[T], text: str) -> T:
    """What :func:`to_json` made of a ``kind``.

    Raises:
        DeviceError: it is none, and where it is not.
    """
    try:
        value: T = _adapter(kind).validate_json(text, strict=True)
        given, known = json.loads(text), json.loads(to_json(value))
    except ValidationError as error:
        raise DeviceError(f"not a {_name(kind)}: {_first(error)}") from None
    except (ValueError, RecursionError) as error:
        raise DeviceError(f"not a {_name(kind)}: {error}") from None
    if unknown := _unknown(given, known, ""):
        raise DeviceError(f"not a {_name(kind)}: unknown key {unknown[:80]!r}")
    return value


def artifact_to_json(artifact: Artifact) -> str:
    """All but path and runtime."""
    kept = {field.name: getattr(artifact, field.name) for field in dataclasses.fields(_Shipped)}
    return to_json(_Shipped(**kept))


def artifact_from_json(text: str, path: Path, runtime: str) -> Artifact:
    """What :func:`artifact_to_json` made, in the folder ``path`` and for ``runtime``."""
    told = from_json(_Shipped, text)
    kept = {field.name: getattr(told, field.name) for field in dataclasses.fields(told)}
    return Artifact(path=path, runtime=runtime, **kept)


def pack_samples(samples: Samples) -> bytes:
    return _pack(samples)


def unpack_samples(data: bytes) -> Samples:
    """Raises ``DeviceError`` for bytes that are none."""
    return _unpack(Samples, data)


def pack_beside(beside: DeviceReport) -> bytes:
    return _pack(beside)


def unpack_beside(data: bytes) -> DeviceReport:
    """Raises ``DeviceError`` for bytes that are none."""
    return _unpack(DeviceReport, data)


def _pack(value: Samples | DeviceReport) -> bytes:
    """An .npz, uncompressed: arrays as FIELD or FIELD:KEY, the rest as JSON in one more."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if not _of_arrays(field):
            plain[field.name] = held
        elif isinstance(held, Mapping):
            arrays |= {f"{field.name}:{key}": one for key, one in held.items()}
        elif held is not None:
            arrays[field.name] = held
    text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {_JSON: text, **arrays}.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())
    return stream.getvalue()


def _unpack(kind: type[T], data: bytes) -> T:
    try:
        arrays = _arrays(data)
        plain = json.loads(arrays.pop(_JSON).tobytes())
    except Exception as error:  # noqa: BLE001 - zipfile and numpy raise many kinds on bytes that are no archive
        raise DeviceError(f"not {_name(kind)}: {type(error).__name__}: {str(error)[:200]}") from None
    adapters = _fields(kind)
    values: dict[str, Any] = {}
    name = ""
    try:
        if not isinstance(plain, dict) or not set(plain) <= set(adapters):
            raise ValueError("keys that it does not have")
        for name, held in plain.items():
            values[name] = adapters[name].validate_json(json.dumps(held), strict=True)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            if _of_arrays(field):
                _take(field, arrays, values)
        if arrays:
            raise ValueError(f"unknown {next(iter(arrays))[:80]!r}")
        return kind(**values)
    except ValidationError as error:
        raise DeviceError(f"not {_name(kind)}: {name}: {_first(error)}") from None
    except (ValueError, TypeError) as error:
        raise DeviceError(f"not {_name(kind)}: {error}") from None


def _take(field: dataclasses.Field[Any], arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
    """The arrays of one field, out of ``arrays``."""
    if "Mapping" not in str(field.type):
        if field.name in arrays:
            array = arrays.pop(field.name)
            if array.dtype.name not in str(field.type) or array.ndim != 1:  # as in NDArray[np.int64]
                raise ValueError(f"{field.name} is {array.dtype.name} {array.shape}")
            values[field.name] = array
        return
    begin = f"{field.name}:"
    names = [name for name in arrays if name.startswith(begin)]
    values[field.name] = {name[len(begin) :]: arrays.pop(name) for name in names}


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """An .npz read with care: no compression, no pickle, no array larger than its bytes."""
    import numpy as np

    found: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(one.file_size for one in members) > len(data):
            raise ValueError("an archive that grows")
        for info in members:
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("a compressed archive")
            stream = io.BytesIO(archive.read(info))
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("an array in a format other than 1.0")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.kind not in "biuf" or min(shape, default=0) < 0:
                raise ValueError(f"an array of {dtype}"[:80])
            raw = stream.read()
            if len(raw) != math.prod(shape) * dtype.itemsize:
                raise ValueError("an array whose size is not what it says")
            found[info.filename.removesuffix(".npy")] = np.frombuffer(raw, dtype).reshape(shape)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _fields(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks each field that holds no arrays."""
    import numpy as np
    from numpy.typing import NDArray

    hints = get_type_hints(kind, localns={"np": np, "NDArray": NDArray})
    relaxed = ConfigDict(arbitrary_types_allowed=True)
    return {
        field.name: TypeAdapter(hints[field.name], config=relaxed)
        for field in dataclasses.fields(kind)
        if not _of_arrays(field)
    }


def _of_arrays(field: dataclasses.Field[Any]) -> bool:
    return "NDArray" in str(field.type)


def _unknown(given: Any, known: Any, where: str) -> str:
    """The first key in ``given`` that its type does not have; pydantic passes over those of dataclasses."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                return f"{where}{key}"
            if found := _unknown(value, known[key], f"{where}{key}."):
                return found
    elif isinstance(given, list) and isinstance(known, list):
        for one, other in zip(given, known, strict=True):
            if found := _unknown(one, other, where):
                return found
    return ""


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).lstrip("_")


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in one["loc"])
    return f"{where + ': ' if where else ''}{one['msg']}"[:200]

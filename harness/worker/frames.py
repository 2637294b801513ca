"""Frames: a JSON header and tensors, which workers send to each other over a socket or a network.

A frame is ``HF1\\n``, the header's length (4 bytes, little-endian), the header (JSON), and the tensors' bytes. The
header's ``tensors`` lists the dtype and shape of each tensor. Nothing is unpickled. A frame that does not match its
header is refused. :mod:`harness.worker.messages` defines the other keys of a header, which state requests and
answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import HarnessError
from harness.types.json import JsonObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "MAX_HEADER",
    "MAX_TENSORS",
    "FrameError",
    "Pieces",
    "header_of",
    "pack",
    "size_of",
    "unpack",
    "with_header",
]

MAGIC = b"HF1\n"
MAX_HEADER = 65_536
MAX_TENSORS = 1024  # a measurement of 64 parts has about 300
MAX_DIMS = 8
MAX_ELEMENTS = 2**40
_NAMES = {"<f4": "float32", "<f2": "float16", "|u1": "uint8", "|i1": "int8", "<i8": "int64", "<f8": "float64"}
DTYPES = tuple(_NAMES.values())
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

Pieces: TypeAlias = list[bytes | memoryview]
"""A frame in pieces, which must not change later."""


class FrameError(HarnessError):
    """Bytes are not a frame, or contain more than a frame may contain."""


def pack(header: JsonObject, tensors: Sequence[NDArray[Any]] = ()) -> Pieces:
    """Return a frame in pieces. The tensors are not copied.

    Raises:
        FrameError: a tensor has an element type that frames do not allow, there are too many tensors, or the header
            is too long.
    """
    import numpy as np

    if len(tensors) > MAX_TENSORS:
        raise FrameError(f"a frame of {len(tensors)} tensors; allowed are {MAX_TENSORS}")
    arrays = [np.asarray(tensor, order="C") for tensor in tensors]
    for array in arrays:
        if array.dtype.str not in _NAMES:
            raise FrameError(f"a frame holds {', '.join(DTYPES)}, not {array.dtype.name}")
    described = [{"dtype": _NAMES[array.dtype.str], "shape": array.shape} for array in arrays]
    head = _head({**header, "tensors": described})
    return [head, *(memoryview(array.data).cast("B") for array in arrays if array.size)]


def _head(header: JsonObject) -> bytes:
    """Return the bytes of a frame before its tensors."""
    text = _encode(header).encode()
    if len(text) > MAX_HEADER:
        raise FrameError(f"a header of {len(text)} bytes; allowed are {MAX_HEADER}")
    return MAGIC + len(text).to_bytes(4, "little") + text


def size_of(frame: Sequence[bytes | memoryview]) -> int:
    """Return the number of bytes of a frame in pieces."""
    return sum(len(piece) for piece in frame)


def header_of(frame: bytes | memoryview) -> tuple[JsonObject, memoryview]:
    """Return the header, and the bytes after it.

    Raises:
        FrameError: the bytes are not a frame.
    """
    view = memoryview(frame).cast("B")
    if bytes(view[:4]) != MAGIC or len(view) < 8:
        raise FrameError("not a frame")
    length = int.from_bytes(view[4:8], "little")
    if length > MAX_HEADER or 8 + length > len(view):
        raise FrameError(f"a frame of {len(view)} bytes whose header has {length}")
    try:
        header = _decode(str(view[8 : 8 + length], "utf-8"))
    except (ValueError, RecursionError):
        raise FrameError("a frame whose header is not JSON") from None
    if not isinstance(header, dict):
        raise FrameError("a frame whose header is not an object")
    return header, view[8 + length :]


def with_header(header: JsonObject, body: memoryview) -> Pieces:
    """Return a frame that has another header before the same bytes."""
    return [_head(header), body] if len(body) else [_head(header)]


def unpack(frame: bytes | memoryview) -> tuple[JsonObject, list[NDArray[Any]]]:
    """Return the header and the tensors, which are views into ``frame``. They are read-only if ``frame`` is.

    Raises:
        FrameError: the bytes are not a frame, or the tensors do not match the header.
    """
    import numpy as np

    header, body = header_of(frame)
    described = header.pop("tensors", [])
    if not isinstance(described, list) or len(described) > MAX_TENSORS:
        raise FrameError("a frame whose tensors are no list")
    arrays: list[NDArray[Any]] = []
    offset = 0
    for tensor in described:
        dtype, shape = _tensor(tensor)
        count = math.prod(shape)
        nbytes = count * np.dtype(dtype).itemsize
        if offset + nbytes > len(body):
            raise FrameError(f"a tensor of {nbytes} bytes where {len(body) - offset} are left")
        arrays.append(
            np.frombuffer(body, dtype, count, offset).reshape(shape) if count else np.empty(shape, dtype)
        )
        offset += nbytes
    if offset != len(body):
        raise FrameError(f"{len(body) - offset} bytes behind the last tensor")
    return header, arrays


def _tensor(described: Any) -> tuple[str, tuple[int, ...]]:
    """Return the dtype and shape of a tensor that the header describes."""
    known = isinstance(described, dict)
    dtype, shape = (described.get("dtype"), described.get("shape")) if known else (None, None)
    if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise FrameError("a tensor without dtype and shape that frames have")
    if not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise FrameError("a tensor whose shape is no list of sizes")
    if math.prod(max(size, 1) for size in shape) >= MAX_ELEMENTS:  # numpy refuses it, even if empty
        raise FrameError("a tensor whose shape is too large")
    return dtype, tuple(shape)

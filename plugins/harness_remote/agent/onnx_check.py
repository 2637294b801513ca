"""Check that a file is an ONNX model that a board may load. It reads protobuf's wire format without the onnx package.

Refused are files that are not models, models that could make ONNX Runtime open another file (external tensor data,
operators that name files), models that need code outside ONNX Runtime (foreign domains, model-local functions), and
models with so many fields or levels that reading them would take long. Field numbers are those of onnx.proto (ONNX
1.23); wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import DeviceError

__all__ = ["DOMAINS", "MAX_DEPTH", "MAX_FIELDS", "check", "supported"]

DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft")
MAX_DEPTH = 64  # messages within messages; protobuf's own readers stop at 100
MAX_FIELDS = 500_000  # a ViT has tens of thousands
_FILES_OR_CODE = (b"EPContext", b"PythonOp", b"PythonOpGrad", b"TritonOp", b"ATen")  # of com.microsoft
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# onnxruntime.ai/docs/reference/compatibility.html: version -> ONNX opset, IR version
_SUPPORTED = {
    (1, 10): (15, 8),
    (1, 11): (16, 8),
    (1, 12): (17, 8),
    (1, 13): (17, 8),
    (1, 14): (18, 8),
    (1, 15): (19, 8),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 19): (21, 10),
    (1, 20): (21, 10),
    (1, 21): (22, 10),
    (1, 22): (23, 11),
}


def supported(onnxruntime_version: str) -> tuple[int, int]:
    """Return the highest opset and IR version that an ONNX Runtime loads.

    A version newer than the table has the values of the table's last entry.

    Raises:
        DeviceError: the text is not a version, or the version is older than 1.10.
    """
    numbers = onnxruntime_version.split(".")[:2]
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise DeviceError(f"onnxruntime: {onnxruntime_version!r} is no version")
    version = (int(numbers[0]), int(numbers[1]))
    if version < min(_SUPPORTED):
        raise DeviceError(f"onnxruntime {onnxruntime_version} is too old: 1.10 or newer")
    return _SUPPORTED[min(version, max(_SUPPORTED))]


def check(path: Path) -> dict[str, Any]:
    """Return ``ir_version``, ``opsets`` and ``producer`` of an ONNX file.

    ``opsets`` is domain -> version; ONNX's own domain is ``""``.

    Raises:
        DeviceError: the file is not an ONNX model, or is refused. The message gives the reason, not the file's name.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Model(content).facts()
    except OSError as error:
        raise DeviceError(f"the ONNX model cannot be read: {error.strerror}") from None
    except ValueError:  # mmap's
        raise DeviceError("not an ONNX model: an empty file") from None


class _Model:
    """A ModelProto that is checked field by field.

    Protobuf merges a message that occurs twice, so both occurrences are checked.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._left = MAX_FIELDS
        self._opsets: dict[str, int] = {}
        self._ir_version = 0
        self._producer = b""
        self._graphs = 0
        self._model(0, len(content), 1)

    def facts(self) -> dict[str, Any]:
        """Return the result of :func:`check`. Raises ``DeviceError`` if IR version, graph or opset is missing."""
        if self._ir_version <= 0 or not self._graphs or "" not in self._opsets:
            raise DeviceError("not an ONNX model: it has no IR version, graph or opset")
        return {
            "ir_version": self._ir_version,
            "opsets": self._opsets,
            "producer": self._producer.decode(errors="replace")[:200],
        }

    # --- messages, each by its field numbers -----------------------------------------------------

    def _model(self, begin: int, end: int, depth: int) -> None:
        producer = {2: b"", 3: b""}
        for number, kind, value in self._fields(begin, end):
            if number == 1:
                self._ir_version = _number(kind, value)
            elif number in producer:
                producer[number] = self._text(kind, value)
            elif number == 7:
                self._graphs += 1
                self._message(self._graph, kind, value, depth)
            elif number == 8:
                self._message(self._opset, kind, value, depth)
            elif number == 20:
                raise DeviceError("refused: the ONNX model has training information")
            elif number == 25:
                raise DeviceError("refused: the ONNX model has functions of its own; inline them")
        self._producer = b" ".join(filter(None, producer.values()))

    def _opset(self, begin: int, end: int, depth: int) -> None:
        domain, version = b"", 0
        for number, kind, value in self._fields(begin, end):
            if number == 1:
                domain = self._domain(kind, value)
            elif number == 2:
                version = _number(kind, value)
        name = domain.decode()
        self._opsets["" if name == "ai.onnx" else name] = version

    def _graph(self, begin: int, end: int, depth: int) -> None:
        inside = {1: self._node, 5: self._tensor, 15: self._sparse}
        for number, kind, value in self._fields(begin, end):
            if number in inside:
                self._message(inside[number], kind, value, depth)

    def _node(self, begin: int, end: int, depth: int) -> None:
        for number, kind, value in self._fields(begin, end):
            if number == 4:
                operator = self._text(kind, value)
                if operator in _FILES_OR_CODE:
                    raise DeviceError(f"refused: the ONNX model uses operator {operator.decode()}")
            elif number == 5:
                self._message(self._attribute, kind, value, depth)
            elif number == 7:
                self._domain(kind, value)

    def _attribute(self, begin: int, end: int, depth: int) -> None:
        inside = {
            5: self._tensor,
            10: self._tensor,
            6: self._graph,
            11: self._graph,
            22: self._sparse,
            23: self._sparse,
        }
        for number, kind, value in self._fields(begin, end):
            if number in inside:
                self._message(inside[number], kind, value, depth)

    def _sparse(self, begin: int, end: int, depth: int) -> None:
        for number, kind, value in self._fields(begin, end):
            if number in (1, 2):
                self._message(self._tensor, kind, value, depth)

    def _tensor(self, begin: int, end: int, depth: int) -> None:
        for number, kind, value in self._fields(begin, end):
            if number == 13 or (number == 14 and (kind != _VARINT or value != 0)):
                raise DeviceError("refused: the ONNX model keeps tensors in other files")

    # --- the wire format -------------------------------------------------------------------------

    def _message(self, walk: Callable[[int, int, int], None], kind: int, value: Any, depth: int) -> None:
        if kind != _BYTES:
            raise _broken()
        if depth >= MAX_DEPTH:
            raise DeviceError(f"refused: the ONNX model is nested more than {MAX_DEPTH} deep")
        begin, end = value
        walk(begin, end, depth + 1)

    def _domain(self, kind: int, value: Any) -> bytes:
        domain = self._text(kind, value)
        if domain not in DOMAINS:
            shown = domain[:60].decode(errors="replace")
            known = ", ".join(domain.decode() for domain in DOMAINS[1:])
            raise DeviceError(f"refused: operators of {shown!r}; allowed are those of {known}")
        return domain

    def _text(self, kind: int, value: Any) -> bytes:
        if kind != _BYTES:
            raise _broken()
        begin, end = value
        return self._content[begin : min(end, begin + 1024)]

    def _fields(self, begin: int, end: int) -> Iterator[tuple[int, int, Any]]:
        """Yield number, wire type and value of each field. The value of a field with a length is its begin and end."""
        at = begin
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise DeviceError(f"refused: the ONNX model has more than {MAX_FIELDS} fields")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 2**29:
                raise _broken()
            value: Any = None
            if kind == _VARINT:
                value, at = self._varint(at, end)
            elif kind == _BYTES:
                length, at = self._varint(at, end)
                value = (at, at + length)
                at += length
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise _broken()
            if at > end:
                raise _broken()
            yield number, kind, value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise _broken()
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise _broken()


def _number(kind: int, value: Any) -> int:
    if kind != _VARINT:
        raise _broken()
    return int(value) - 2**64 if value >= 2**63 else int(value)


def _broken() -> DeviceError:
    return DeviceError("not an ONNX model: its bytes are not laid out as one")
